//! From facts to accounts: what is remarkable, what is wrong, and what to do about it. Pure, but for the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_cgroup::{Detail, MemoryUsage, Usage};
use berth_net::PortState;
use berth_store::ErrorKind;

use super::look::{ContainerFacts, MonitorFacts, NetworkFacts, NodeFacts, PodFacts, Port};
use super::{Account, Subject, Trouble};
use crate::driver::LOSS;
use crate::view::{ContainerState, Ended, PodState, PodView, Reason};
use crate::waiting::{Condition, Look};

/// A step that has taken longer is worth a word.
const SLOW_STEP: Duration = Duration::from_secs(5);

/// A pull that failed longer ago is nobody's concern any more: a kubelet tries every five minutes at least.
const RECENT: Duration = Duration::from_secs(15 * 60);

/// The kernel's functions in which what is frozen sleeps, on version 1 and 2.
const FREEZER: [&str; 2] = ["__refrigerator", "do_freezer_trap"];

/// A container that was made anew so many times does not do what is expected of it.
const MANY_RESTARTS: u32 = 3;

/// One that has been there for so long does: a kubelet forgets the restarts then, too.
const STEADY: Duration = Duration::from_secs(10 * 60);

/// How much of its limit of processes a container may use before it is short of them.
const SHORT_OF_TASKS_PERCENT: u64 = 90;

/// How much of its memory limit a container may need before it is short of it.
const SHORT_OF_MEMORY_PERCENT: u64 = 95;

/// What all pods depend on.
pub(super) fn node(facts: NodeFacts) -> Account {
    let mut troubles = Vec::new();
    if let Err((kind, detail)) = facts.network {
        let advice = match kind {
            ErrorKind::Unavailable => {
                "it is put back with the next pod or question for the node's status; find out who takes it away"
            }
            ErrorKind::Exists => "give the agent another network.bridge, or remove that interface",
            ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::WrongState
            | ErrorKind::Busy
            | ErrorKind::Exhausted
            | ErrorKind::Unimplemented
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Internal => "see the agent's log",
        };
        troubles.push(trouble("network", detail, advice));
    }
    if let Err((_, detail)) = facts.storage {
        troubles.push(trouble("storage", detail, "make room, or mount it writable"));
    }
    if let Some(subnet) = facts.exhausted {
        let advice = "remove pods that are not needed, or give the node a larger pod CIDR, which is a kubelet's, or the \
                      agent's [network] subnets";
        let detail = format!("no address is free in {subnet}; {} pods have one", facts.leases);
        troubles.push(trouble("addresses", detail, advice));
    }
    if let Err((_, detail)) = &facts.unreadable {
        troubles.push(trouble("record", detail.clone(), "see to the disk with the agent's root directory"));
    }
    for row in facts.unreadable.into_iter().flatten() {
        let advice = "berth check --leaks names it with what belongs to it, which may be a pod that lives; --repair \
                      removes all of that; until then it is kept, for a person to look at";
        troubles.push(trouble("record", format!("not understood: {row}"), advice));
    }
    for pod in facts.stuck {
        let detail = format!("pod {pod} could not be taken down yet");
        troubles.push(trouble("leftover", detail, "the agent tries again; its log says what fails"));
    }
    for pull in facts.failed_pulls {
        let age = pull.at.elapsed().unwrap_or_default();
        if age > RECENT {
            continue;
        }
        let times = if pull.times == 1 { "once".to_owned() } else { format!("{} times", pull.times) };
        let (reference, age) = (pull.reference, shown(age));
        let detail = format!("{reference} failed {times}, the last time {age} ago: {}", pull.error);
        troubles.push(trouble("pull", detail, "see to the name, the registry, or the credentials"));
    }
    let state = if troubles.is_empty() { "well" } else { "unwell" };
    Account { subject: Subject::Node, state, since_ns: None, why: None, notes: Vec::new(), troubles }
}

/// A pod, and then its containers.
pub(super) fn pod(facts: PodFacts) -> Vec<Account> {
    let id = facts.known.id.to_string();
    let mut troubles = Vec::new();
    if let Some(step) = facts.known.under_way.as_ref().filter(|step| step.since.elapsed() > SLOW_STEP) {
        let detail = format!("\"{}\" has been going on for {} s", step.stage, step.since.elapsed().as_secs());
        troubles.push(trouble(
            "step",
            detail,
            "it ends by its deadline; what it waits for may be named beside",
        ));
    }
    if let Some(limit) = facts.overdue {
        let detail = format!("the kernel has not told within {} s how it is", limit.as_secs());
        let advice = "ask again; until then nobody knows of processes that hang, nor of its network";
        troubles.push(trouble("look", detail, advice));
    }
    let Some(view) = &facts.known.view else {
        let subject = Subject::Pod { id, name: facts.known.name() };
        return vec![account(subject, "being made", None, None, Vec::new(), troubles)];
    };
    let is_ready = view.state == PodState::Ready;
    let lost = loss(view);
    if let Some(loss) = lost.filter(|_| !is_ready) {
        troubles.push(trouble("sandbox", loss.to_owned(), "remove the pod; a kubelet makes a new one"));
    }
    troubles.extend(monitor(view, facts.monitor.as_ref(), facts.unreachable));
    troubles.extend(network(view, &facts.network));
    troubles.extend(facts.waiting.iter().map(|look| waits(look, &[])));
    let refused = facts.containers.iter().map(|one| &one.detail).chain([&facts.detail]);
    let refused = refused.filter_map(|detail| detail.tasks_refused).sum();
    troubles.extend(short_of_tasks("the pod", &facts.usage, &facts.detail, refused));
    let state = if is_ready { "ready" } else { "not ready" };
    let since_ns = if is_ready { Some(view.created_at_ns) } else { None };
    let why = failed_step(view).or_else(|| lost.map(str::to_owned));
    let subject = Subject::Pod { id, name: facts.known.name() };
    let mut accounts = vec![account(subject, state, since_ns, why, Vec::new(), troubles)];
    let mut containers = facts.containers;
    containers.sort_by_key(|one| (one.view.created_at_ns, one.view.spec.attempt));
    let restarts: Vec<_> = containers.iter().map(|one| restarts(one, &containers)).collect();
    for (one, restarts) in containers.into_iter().zip(restarts) {
        let mut account = container(one, facts.known.name());
        account.troubles.extend(restarts);
        accounts.push(account);
    }
    accounts
}

/// Of one that has been started again and again, the last time a short while ago.
fn restarts(last: &ContainerFacts, all: &[ContainerFacts]) -> Option<Trouble> {
    let name = &last.view.spec.name;
    let earlier: Vec<_> = all
        .iter()
        .filter(|one| one.view.spec.name == *name && one.view.id != last.view.id)
        .map(|one| &one.view)
        .collect();
    // Those that a kubelet has removed count, and those that somebody made without a number.
    let times = last.view.spec.attempt.max(u32::try_from(earlier.len()).unwrap_or(u32::MAX));
    let created = u64::try_from(last.view.created_at_ns).ok().map(Duration::from_nanos)?;
    let age = SystemTime::now().duration_since(UNIX_EPOCH + created).unwrap_or_default();
    if !last.is_last || times < MANY_RESTARTS || age > STEADY {
        return None;
    }
    let before = earlier.iter().max_by_key(|view| view.created_at_ns);
    let end = before.and_then(|view| match &view.state {
        ContainerState::Exited(ended) => Some(format!("; the one before: {}", how(ended, None))),
        ContainerState::Created | ContainerState::Running { .. } => None,
    });
    let detail = format!(
        "it was made anew {times} times, the last time {} ago{}",
        shown(age),
        end.unwrap_or_default()
    );
    let log = before.and_then(|view| view.log_path.as_ref());
    let log = log.map(|path| format!(" in the log of the one before, {}", path.display()));
    Some(trouble("restarts", detail, &format!("see why it ends{}", log.unwrap_or_default())))
}

fn container(facts: ContainerFacts, pod_name: String) -> Account {
    let view = &facts.view;
    let (mut notes, mut troubles) = (Vec::new(), Vec::new());
    let (state, since_ns, why) = match &view.state {
        ContainerState::Created => ("created", view.created_at_ns, None),
        ContainerState::Running { started_at_ns } => ("running", *started_at_ns, None),
        ContainerState::Exited(ended) => {
            let why = how(ended, view.limits.memory_bytes.as_ref().and_then(limit_bytes));
            if facts.is_last && ended.reason != Reason::Completed {
                let log = view.log_path.as_ref().map(|path| format!("; its log is {}", path.display()));
                let advice = format!("{}{}", advice_on_end(ended.reason), log.unwrap_or_default());
                troubles.push(trouble("exit", why.clone(), &advice));
            }
            ("exited", ended.finished_at_ns, Some(why))
        }
    };
    if let Some(first) = facts.first.as_ref().filter(|first| first.condition == Condition::Stopped) {
        let detail = format!("its first process, {}, is stopped by a signal", first.pid);
        troubles.push(trouble("stopped", detail, &format!("kill -CONT {}", first.pid)));
    }
    troubles.extend(facts.waiting.iter().map(|look| waits(look, &facts.volumes)));
    let refused = facts.detail.tasks_refused.unwrap_or_default();
    troubles.extend(short_of_tasks("it", &facts.usage, &facts.detail, refused));
    if let Some((used, limit)) = facts.usage.memory.as_ref().and_then(short_of_memory) {
        let detail = format!("it needs {} of the {} that it may have", mib(used), mib(limit));
        troubles.push(trouble("memory", detail, "raise its memory limit, or find out what takes so much"));
    }
    troubles.extend(lost_log(&facts));
    notes.extend(remarks(&facts.detail));
    let subject = Subject::Container {
        id: view.id.to_string(),
        name: view.spec.name.clone(),
        pod: view.pod.to_string(),
        pod_name,
        attempt: view.spec.attempt,
    };
    account(subject, state, Some(since_ns), why, notes, troubles)
}

fn monitor(view: &PodView, monitor: Option<&MonitorFacts>, why: Option<String>) -> Option<Trouble> {
    let Some(MonitorFacts { look, answers }) = monitor else {
        // One that was stopped has none.
        let is_wanted = view.state == PodState::Ready || why.is_some();
        let advice = "the agent tries to reach it every 10 s; the pod can be removed, by which it is killed";
        return is_wanted
            .then(|| trouble("monitor", why.unwrap_or_else(|| "it can't be reached".to_owned()), advice));
    };
    let pid = look.pid;
    let kill = "or remove the pod: what does not answer is killed";
    match (look.condition, answers) {
        (Condition::Stopped, _) => {
            let detail = format!("process {pid} is stopped by a signal, and does not answer");
            Some(trouble("monitor", detail, &format!("kill -CONT {pid}, {kill}")))
        }
        (Condition::Waits | Condition::Well, false) if FREEZER.contains(&look.place.as_str()) => {
            Some(frozen(look, &view.cgroup))
        }
        (Condition::Waits, false) => {
            let detail = format!("process {pid} waits in the kernel ({}), and does not answer", look.place);
            Some(trouble("monitor", detail, &format!("see to the disk with the pod's logs, {kill}")))
        }
        (Condition::Well | Condition::Gone, false) => {
            Some(trouble("monitor", format!("process {pid} does not answer"), &format!("wait, {kill}")))
        }
        (Condition::Well | Condition::Waits | Condition::Gone, true) => None,
    }
}

fn frozen(look: &Look, cgroup: &str) -> Trouble {
    let detail = format!("process {} is frozen with its cgroup, {cgroup}, and does not answer", look.pid);
    let advice = "thaw it: write THAWED to the cgroup's freezer.state (version 1), or 0 to its cgroup.freeze";
    trouble("monitor", detail, advice)
}

fn network(view: &PodView, network: &NetworkFacts) -> Vec<Trouble> {
    let name = view.host_interface.as_deref().unwrap_or("its link");
    let port = match network.port {
        None | Some(Port::Is(PortState::Well)) => None,
        Some(Port::Gone) => {
            let detail = format!("{name}, the host's end of its link, is gone, and eth0 with it");
            Some(trouble("network", detail, "remove the pod; it is not given a network twice"))
        }
        Some(Port::Is(PortState::Down)) => {
            let detail = format!("{name}, the host's end of its link, is down");
            Some(trouble("network", detail, &format!("ip link set {name} up")))
        }
        Some(Port::Is(PortState::Loose)) => {
            let detail = format!("{name}, the host's end of its link, is not in the bridge");
            let advice =
                format!("restart the agent, or put it there: ip link set {name} master {}", network.bridge);
            Some(trouble("network", detail, &advice))
        }
    };
    // Without a link there are no addresses either.
    let is_linked = network.port != Some(Port::Gone);
    let missing = (is_linked && !network.missing.is_empty()).then(|| {
        let detail = format!("eth0 has lost {}", network.missing.join(", "));
        trouble("network", detail, "remove the pod; somebody with rights over its network took them away")
    });
    port.into_iter().chain(missing).collect()
}

fn waits(look: &Look, volumes: &[String]) -> Trouble {
    let Look { pid, name, place, .. } = look;
    let volumes = if volumes.is_empty() { String::new() } else { format!(": {}", volumes.join(", ")) };
    let place = if place.is_empty() { "somewhere" } else { place };
    let detail = format!("process {pid} ({name}) waits in the kernel ({place}), where a kill may not end it");
    let advice = match look.waits_for_others() {
        true => format!(
            "see to the server of the volume{volumes}; a FUSE connection is given up by its abort file in \
             /sys/fs/fuse/connections"
        ),
        false => "see to the disk or filesystem that it uses, or whether its cgroup is frozen".to_owned(),
    };
    trouble("hang", detail, &advice)
}

fn lost_log(facts: &ContainerFacts) -> Option<Trouble> {
    let (bytes, error) = match &facts.view.state {
        ContainerState::Exited(ended) => (ended.lost_log_bytes, None),
        ContainerState::Created | ContainerState::Running { .. } => {
            (facts.lost_log.0, facts.lost_log.1.as_ref())
        }
    };
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
    let detail = || format!("{bytes} bytes of its log could not be written{error}");
    (bytes > 0).then(|| trouble("log", detail(), "see to the filesystem with the logs, and its free space"))
}

/// Near the limit, after it has been met: whoever makes processes without end is now at it and now just below. On version
/// 1 it is the container that counts what its pod's limit has refused it, on version 2 the pod.
fn short_of_tasks(who: &str, usage: &Usage, detail: &Detail, refused: u64) -> Option<Trouble> {
    let (tasks, limit) = (usage.tasks?, detail.tasks_limit?);
    let is_near = tasks.saturating_mul(100) >= limit.saturating_mul(SHORT_OF_TASKS_PERCENT);
    let detail = || {
        format!(
            "{who} has {tasks} of the {limit} processes and threads that it may have; {refused} were refused"
        )
    };
    (is_near && refused > 0)
        .then(|| trouble("processes", detail(), "end what makes so many, or raise the limit"))
}

fn short_of_memory(memory: &MemoryUsage) -> Option<(u64, u64)> {
    let (needs, limit) = (memory.working_set_bytes(), memory.limit_bytes?);
    (needs >= limit / 100 * SHORT_OF_MEMORY_PERCENT).then_some((needs, limit))
}

fn remarks(detail: &Detail) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut remark = |count: u64, text: String| {
        if count > 0 {
            remarks.push(text);
        }
    };
    let refused = detail.tasks_refused.unwrap_or_default();
    remark(refused, format!("{refused} times it could not make a process, for a limit of their number"));
    if let Some(memory) = &detail.memory {
        let (hits, kills) = (memory.limit_hits, memory.oom_kills);
        remark(hits, format!("{hits} times it came to its memory limit"));
        remark(kills, format!("{kills} of its processes were killed for want of memory"));
    }
    if let Some(throttling) = &detail.throttling {
        let (throttled, all) = (throttling.throttled_periods, throttling.periods);
        remark(throttled, format!("its CPU quota was spent in {throttled} of {all} periods"));
    }
    remarks
}

/// How a container ended, in a line.
fn how(ended: &Ended, memory_limit: Option<u64>) -> String {
    let Ended { exit_code, reason, message, .. } = ended;
    let what = match reason {
        Reason::Completed => "it ended well".to_owned(),
        Reason::Error if (129..=192).contains(exit_code) => format!("signal {} ended it", exit_code - 128),
        Reason::Error => format!("it ended with exit code {exit_code}"),
        Reason::OomKilled => {
            let limit = memory_limit.map(|limit| format!(", of which it may have {}", mib(limit)));
            format!("the kernel killed it for want of memory{}", limit.unwrap_or_default())
        }
        Reason::StartError => "its program could not be executed".to_owned(),
        Reason::Unknown => "nobody saw it end".to_owned(),
    };
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("{}: {what}{message}", reason.as_str())
}

fn advice_on_end(reason: Reason) -> &'static str {
    match reason {
        Reason::OomKilled => "raise its memory limit, or find out what takes so much",
        Reason::StartError => "see to the command, and whether the image has it",
        Reason::Unknown => "see the kernel's and the agent's log for what killed its monitor",
        Reason::Completed | Reason::Error => "see what it says",
    }
}

fn limit_bytes(limit: &berth_cgroup::Limit) -> Option<u64> {
    match limit {
        berth_cgroup::Limit::At(bytes) => Some(*bytes),
        berth_cgroup::Limit::Max => None,
    }
}

fn shown(age: Duration) -> String {
    let seconds = age.as_secs();
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds / 60) }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// Why the pod has ended that nobody had stopped.
fn loss(view: &PodView) -> Option<&str> {
    let mut steps = view.timeline.steps().rev();
    steps.find(|step| step.stage == LOSS)?.error.as_deref()
}

/// The step that failed last, if none has succeeded since.
fn failed_step(view: &PodView) -> Option<String> {
    let last = view.timeline.steps().last().filter(|step| step.stage != LOSS)?;
    Some(format!("{}: {}", last.stage, last.error.as_ref()?))
}

fn trouble(what: &'static str, detail: String, advice: &str) -> Trouble {
    Trouble { what, detail, advice: advice.to_owned() }
}

fn account(
    subject: Subject,
    state: &'static str,
    since_ns: Option<i64>,
    why: Option<String>,
    notes: Vec<String>,
    troubles: Vec<Trouble>,
) -> Account {
    Account { subject, state, since_ns, why, notes, troubles }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(condition: Condition, place: &str) -> Look {
        Look { pid: 7, name: "cat".into(), condition, place: place.into() }
    }

    #[test]
    fn a_well_node_has_no_trouble_and_each_want_is_named() {
        let facts = || NodeFacts {
            network: Ok(()),
            storage: Ok(()),
            exhausted: None,
            leases: 0,
            unreadable: Ok(Vec::new()),
            stuck: Vec::new(),
            failed_pulls: Vec::new(),
        };
        assert_eq!((node(facts()).state, node(facts()).troubles), ("well", Vec::new()));
        let pull = |at| berth_image::FailedPull {
            reference: "r.example/x:1".into(),
            times: 3,
            at,
            error: "no route".into(),
        };
        let unwell = NodeFacts {
            network: Err((ErrorKind::Unavailable, "bridge b0 is gone".into())),
            exhausted: Some("10.0.0.0/30".parse().unwrap()),
            unreadable: Ok(vec!["sandboxes/x: garbage".into()]),
            stuck: vec!["abc".into()],
            failed_pulls: vec![pull(SystemTime::now()), pull(SystemTime::now() - RECENT * 2)],
            ..facts()
        };
        let whats: Vec<_> = node(unwell).troubles.into_iter().map(|trouble| trouble.what).collect();
        assert_eq!(whats, ["network", "addresses", "record", "leftover", "pull"]);
    }

    #[test]
    fn a_process_that_waits_for_a_server_of_files_is_told_with_its_volumes() {
        let trouble = waits(&look(Condition::Waits, "request_wait_answer"), &["/mnt/x (fuse)".into()]);
        assert!(trouble.detail.contains("process 7 (cat) waits in the kernel (request_wait_answer)"));
        assert!(trouble.advice.contains("/mnt/x (fuse)") && trouble.advice.contains("abort"), "{trouble:?}");
        assert!(waits(&look(Condition::Waits, "io_schedule"), &[]).advice.contains("disk"));
    }

    #[test]
    fn a_frozen_process_is_told_with_its_cgroup_and_how_to_thaw_it() {
        let trouble = frozen(&look(Condition::Waits, "__refrigerator"), "/kubepods/pod1");
        assert!(trouble.detail.contains("7 is frozen with its cgroup, /kubepods/pod1"), "{trouble:?}");
        assert!(trouble.advice.contains("THAWED") && !trouble.advice.contains("disk"), "{trouble:?}");
    }

    #[test]
    fn ends_are_told_in_the_words_of_their_reasons() {
        let ended = |reason, exit_code, message: &str| Ended {
            started_at_ns: Some(1),
            finished_at_ns: 2,
            exit_code,
            reason,
            message: message.into(),
            lost_log_bytes: 0,
        };
        let check = |ended: Ended, expected| assert_eq!(how(&ended, Some(64 << 20)), expected);
        check(ended(Reason::Error, 143, ""), "Error: signal 15 ended it");
        check(ended(Reason::Error, 2, ""), "Error: it ended with exit code 2");
        let killed = "OOMKilled: the kernel killed it for want of memory, of which it may have 64 MiB";
        check(ended(Reason::OomKilled, 137, ""), killed);
        check(ended(Reason::StartError, 128, "x"), "StartError: its program could not be executed: x");
    }

    #[test]
    fn limits_that_bind_are_told_and_others_are_not() {
        let is_short = |tasks, limit, refused| {
            let usage = Usage { tasks: Some(tasks), ..Usage::default() };
            let detail = Detail { tasks_limit: limit, ..Detail::default() };
            short_of_tasks("it", &usage, &detail, refused).is_some()
        };
        assert!(is_short(64, Some(64), 1) && is_short(60, Some(64), 1));
        assert!(!is_short(64, Some(64), 0) && !is_short(30, Some(64), 1) && !is_short(64, None, 1));
        let memory = |usage_bytes, inactive_file_bytes| MemoryUsage {
            usage_bytes,
            inactive_file_bytes,
            limit_bytes: Some(1000),
            ..MemoryUsage::default()
        };
        assert_eq!(short_of_memory(&memory(960, 0)), Some((960, 1000)));
        assert_eq!(short_of_memory(&memory(960, 100)), None, "the kernel takes that back");
        let detail = Detail { tasks_refused: Some(3), ..Detail::default() };
        assert_eq!(remarks(&detail), ["3 times it could not make a process, for a limit of their number"]);
        assert_eq!(remarks(&Detail::default()), Vec::<String>::new());
    }
}
