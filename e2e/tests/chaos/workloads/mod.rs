//! Workloads that misbehave: they multiply, flood, outlive, ignore, hang, and take all the memory or disk that they get.
//! Their own pod suffers, the agent says which and why, and the pod goes when it is told to.

mod silent_mount;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::scope;
use std::time::{Duration, Instant};

use berth_cri_proto::v1::{
    ContainerState, ExecSyncRequest, Mount, RemoveContainerRequest, RemovePodSandboxRequest,
    ReopenContainerLogRequest, StopContainerRequest, StopPodSandboxRequest,
};
use berth_e2e::{Node, Pod, eventually, requests, run};
use tonic::Code;

use crate::lab::{Lab, Problem, await_trouble, need};
use crate::tally::short_or_long;
use silent_mount::{Requests, SilentMount};

const PATIENCE: Duration = Duration::from_secs(30);

/// Processes and threads of a pod that multiplies, its monitor and pause included.
const MOST_TASKS: u64 = 64;

/// The log of a pod that floods is taken away when it has become so large.
const LARGEST_LOG: u64 = 256 << 20;

const MEMORY_LIMIT: i64 = 24 << 20;

/// Doubles until it is refused more; then sleepers take every place that is left or becomes free. A shell that is refused a
/// process ends, so the doubling goes out by itself; the one that makes the sleepers begins anew.
const BOMB: &str = r#"
    export again='trap "exec sh -c \"\$again\"" EXIT; while :; do sleep 1000 & done'
    (b() { b | b & }; b; exec sh -c "$again") 2>/dev/null &
    exec sleep 1000"#;

/// Doubles a text until there is no memory left.
const EAT: &str = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";

#[test]
#[ignore = "needs root, the test images and /dev/fuse"]
fn whatever_a_workload_does_its_own_pod_suffers_and_is_named() {
    let node = Node::start();
    let mut lab = Lab::new(&node, "misbehaving workloads");
    for _ in 0..short_or_long(1, 5) {
        lab.attempt("fork bomb", fork_bomb);
        lab.attempt("daemon of a late exec", |lab| daemon_of_a_late_exec(lab.node));
        lab.attempt("deaf first process", |lab| deaf_first_process(lab.node));
        lab.attempt("full disk", |lab| full_disk(lab.node));
        lab.attempt("full log disk", |lab| full_log_disk(lab.node));
    }
    lab.attempt("silent volumes", |lab| silent_volumes(lab.node, short_or_long(5, 50)));
    lab.attempt("log flood", log_flood);
    lab.attempt("want of memory", |lab| want_of_memory(lab.node, short_or_long(30, 1000)));
    lab.finish();
}

/// It multiplies up to its pod's limit, and no further.
fn fork_bomb(lab: &mut Lab<'_>) -> Result<String, Problem> {
    let bounded = BoundedCgroup::new(&format!("{}/bounded", lab.node.cgroup()));
    let outcome = multiply_in(lab, &bounded);
    // Before its parent, whatever came of it.
    lab.clear();
    outcome
}

fn multiply_in(lab: &Lab<'_>, bounded: &BoundedCgroup) -> Result<String, Problem> {
    let node = lab.node;
    let quiet = exec_time(lab);
    let mut config = node.sandbox("victim");
    config.linux.as_mut().unwrap().cgroup_parent = bounded.path.clone();
    let pod = Pod::run(node, config);
    pod.shell("main", BOMB);
    let mut most = 0;
    eventually("many processes", PATIENCE, || {
        most = most.max(bounded.tasks());
        (most >= MOST_TASKS * 9 / 10).then_some(())
    });
    await_trouble(node, Some(&pod.id), "processes", "processes and threads that it may have")?;
    let loud = exec_time(lab);
    most = most.max(bounded.tasks());
    need(most <= MOST_TASKS, || format!("{most} processes, with a limit of {MOST_TASKS}"))?;
    pod.take_down();
    Ok(format!("exec elsewhere {} ms, quiet {} ms", loud.as_millis(), quiet.as_millis()))
}

/// Nothing of the command is left when its time is over, also what has left its session.
fn daemon_of_a_late_exec(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let id = pod.shell("main", "exec sleep 1000");
    let script = "(setsid sleep 4321 </dev/null >/dev/null 2>&1 &); exec sleep 4322";
    let late = pod.try_exec(&id, &["sh", "-c", script], 1).unwrap_err();
    need(late.code() == Code::DeadlineExceeded, || format!("exec: {late}"))?;
    for title in ["sleep 4321", "sleep 4322"] {
        // It has been sent its end by now, and may take a moment to die.
        eventually("the end of what was left", PATIENCE, || node.process(title).is_none().then_some(()));
    }
    pod.exec(&id, "true");
    pod.take_down();
    Ok(String::new())
}

/// It is asked to end, and killed when it has not.
fn deaf_first_process(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let id = pod.shell("main", "trap '' TERM; echo up; while :; do sleep 1000; done");
    pod.await_line("main", "up");
    let begun = Instant::now();
    pod.stop(&id, 1);
    let (took, status) = (begun.elapsed(), pod.status(&id));
    need(status.exit_code == 137, || format!("{status:?}"))?;
    need(took >= Duration::from_secs(1), || format!("killed after {took:?}, before its grace was over"))?;
    await_trouble(node, Some(&id), "exit", "signal 9 ended it")?;
    pod.take_down();
    Ok(format!("gone after {} ms of 1000", took.as_millis()))
}

/// It fills a volume that has an end.
fn full_disk(node: &Node) -> Result<String, Problem> {
    let volume = SmallDisk::new(&node.dir().join("small"));
    let pod = node.pod("victim");
    let mut config = requests::shell("main", "cat /dev/zero > /data/all; exit 3");
    config.mounts = vec![volume_at(&volume.0, "/data")];
    let id = pod.start(config);
    let status = pod.end_of(&id);
    need(status.exit_code == 3, || format!("{status:?}"))?;
    await_trouble(node, Some(&id), "exit", "it ended with exit code 3")?;
    pod.take_down();
    Ok(String::new())
}

/// Its log can't be written: it runs on, and what is lost is counted.
fn full_log_disk(node: &Node) -> Result<String, Problem> {
    let logs = SmallDisk::new(&node.dir().join("small"));
    let mut config = node.sandbox("victim");
    config.log_directory = logs.0.to_str().unwrap().to_owned();
    let pod = Pod::run(node, config);
    let id = pod.shell("main", "head -c 8388608 /dev/zero | tr '\\0' '\\n'; exec sleep 1000");
    await_trouble(node, Some(&id), "log", "bytes of its log could not be written: No space left on device")?;
    pod.exec(&id, "true");
    pod.stop(&id, 0);
    await_trouble(node, Some(&id), "log", "bytes of its log could not be written")?;
    pod.take_down();
    Ok(String::new())
}

/// Volumes whose server does not answer: the pods that want them wait, and no other; they can be removed but for a
/// process that the kernel does not let die, which is named until it can.
fn silent_volumes(node: &Node, count: usize) -> Result<String, Problem> {
    let (taken, left) = (node.dir().join("taken"), node.dir().join("left"));
    let server = SilentMount::new(&taken.join("silent"), Requests::Taken);
    let _left_alone = SilentMount::new(&left.join("silent"), Requests::Left);
    let hung = node.pod("hung");
    let mut config = requests::shell("main", "cat /data/silent/file & exec sleep 1000");
    config.mounts = vec![volume_at(&taken, "/data")];
    let id = hung.start(config);
    await_trouble(node, Some(&hung.id), "hang", "(cat) waits in the kernel (request_wait_answer)")?;
    let pods: Vec<_> = (0..count).map(|number| node.pod(&format!("waiting-{number}"))).collect();
    let create = |pod: &Pod<'_>| {
        let mut config = requests::shell("main", "exec sleep 1000");
        config.mounts = vec![volume_at(&left.join("silent/data"), "/data")];
        let refused = pod.try_create(config).unwrap_err();
        let path = left.join("silent/data");
        let is_clear = refused.message().contains(&format!("does volume {} (fuse) answer", path.display()));
        need(refused.code() == Code::DeadlineExceeded && is_clear, || format!("create: {refused}"))?;
        // While its server still does not answer.
        node.cri().take_down(&pod.id).map_err(|status| format!("take down: {status}"))
    };
    let begun = Instant::now();
    scope(|scope| {
        let creating: Vec<_> = pods.iter().map(|pod| scope.spawn(|| create(pod))).collect();
        let stop = StopContainerRequest { container_id: id.clone(), timeout: 0 };
        let stopping = scope.spawn(|| node.cri().stop_container(stop));
        let other = node.pod("other");
        let other_id = other.shell("main", "exec sleep 1000");
        while !creating.iter().all(|creating| creating.is_finished()) {
            other.exec(&other_id, "true");
        }
        other.take_down();
        let stopped = stopping.join().unwrap().expect_err("the kernel does not let it die");
        let is_clear = stopped.message().contains("wait in the kernel");
        need(stopped.code() == Code::DeadlineExceeded && is_clear, || format!("stop: {stopped}"))?;
        creating.into_iter().try_for_each(|creating| creating.join().unwrap())
    })?;
    let took = begun.elapsed();
    let half_made = short_or_long(None, Some("half-made")).map(|name| unkillable_create(node, name, &taken));
    let half_made = half_made.transpose()?;
    drop(server);
    if let Some(pod) = half_made {
        node.cri().take_down(&pod.id).map_err(|status| format!("take down at last: {status}"))?;
    }
    eventually("the end of what waited", PATIENCE, || {
        (pod_state(&hung, &id) == ContainerState::ContainerExited).then_some(())
    });
    hung.take_down();
    Ok(format!("{count} creates given up and their pods removed in {:.1} s", took.as_secs_f64()))
}

/// A create that can't even be undone: the pod stops, and its removal says which process is in the way.
fn unkillable_create<'a>(node: &'a Node, name: &str, volumes: &Path) -> Result<Pod<'a>, Problem> {
    let pod = node.pod(name);
    let mut config = requests::shell("main", "exec sleep 1000");
    config.mounts = vec![volume_at(&volumes.join("silent/data"), "/data")];
    let refused = pod.try_create(config).unwrap_err();
    let is_clear = refused.message().contains("which makes the container, has waited");
    need(refused.code() == Code::DeadlineExceeded && is_clear, || format!("create: {refused}"))?;
    await_trouble(node, Some(&pod.id), "hang", "waits in the kernel")?;
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    node.cri().stop_pod_sandbox(stop).map_err(|status| format!("stop: {status}"))?;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    let refused = node.cri().remove_pod_sandbox(remove).expect_err("the kernel does not let it die");
    let is_clear = refused.message().contains("processes") && refused.code() == Code::DeadlineExceeded;
    need(is_clear, || format!("remove: {refused}"))?;
    Ok(pod)
}

/// It writes as fast as it can: others exec, start and log as ever.
fn log_flood(lab: &mut Lab<'_>) -> Result<String, Problem> {
    let node = lab.node;
    let quiet = (exec_time(lab), start_time(node));
    let mut config = node.sandbox("victim");
    config.log_directory = node.dir().join("flood").to_str().unwrap().to_owned();
    let pod = Pod::run(node, config);
    let line = "0123456789abcdef".repeat(63);
    // An end, whatever becomes of this test.
    let script = format!("yes {line} | head -c {}; exec sleep 1000", short_or_long(256_u64 << 20, 60 << 30));
    let id = pod.shell("main", &script);
    let (begun, lasting) = (Instant::now(), short_or_long(Duration::from_secs(4), Duration::from_secs(60)));
    let (mut loud, mut logged) = ((Duration::ZERO, Duration::ZERO), 0);
    while begun.elapsed() < lasting {
        loud = (loud.0.max(exec_time(lab)), loud.1.max(start_time(node)));
        lab.bystander.check()?;
        let size = fs::metadata(pod.log_path("main")).map_or(0, |file| file.len());
        if size > LARGEST_LOG {
            logged += size;
            fs::remove_file(pod.log_path("main")).unwrap();
            let reopen = ReopenContainerLogRequest { container_id: id.clone() };
            node.cri().reopen_container_log(reopen).map_err(|status| format!("reopen: {status}"))?;
        }
    }
    logged += fs::metadata(pod.log_path("main")).unwrap().len();
    need(pod_state(&pod, &id) == ContainerState::ContainerRunning, || "it has ended".to_owned())?;
    pod.take_down();
    fs::remove_dir_all(node.dir().join("flood")).unwrap();
    let ms = |(exec, start): (Duration, Duration)| format!("{}/{}", exec.as_millis(), start.as_millis());
    Ok(format!(
        "{} MiB logged in {:.0} s; exec/start elsewhere at most {} ms, quiet {} ms",
        logged >> 20,
        begun.elapsed().as_secs_f64(),
        ms(loud),
        ms(quiet)
    ))
}

/// Each is said to have been killed for want of memory, also where a child was the victim.
fn want_of_memory(node: &Node, count: usize) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let child = format!("sh -c '{EAT}'; echo went on");
    for number in 0..count {
        let (script, code) = if number % 5 == 4 { (child.as_str(), 0) } else { (EAT, 137) };
        let mut config = requests::shell(&format!("eater-{number}"), script);
        let limits = requests::limits(&mut config);
        (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes) = (MEMORY_LIMIT, MEMORY_LIMIT);
        let id = pod.start(config);
        let status = pod.end_of(&id);
        need((status.reason.as_str(), status.exit_code) == ("OOMKilled", code), || {
            format!("{} with {}, number {number}", status.reason, status.exit_code)
        })?;
        if number == 0 {
            await_trouble(node, Some(&id), "exit", "the kernel killed it for want of memory")?;
        }
        let remove = RemoveContainerRequest { container_id: id };
        node.cri().remove_container(remove).map_err(|status| format!("remove: {status}"))?;
    }
    pod.take_down();
    Ok(format!("{count} of {count} OOMKilled"))
}

/// How long a command takes in the pod that must not notice.
fn exec_time(lab: &Lab<'_>) -> Duration {
    let (node, container_id) = (lab.node, lab.bystander.container().to_owned());
    let begun = Instant::now();
    let request = ExecSyncRequest { container_id, cmd: vec!["true".into()], timeout: 0 };
    node.cri().exec_sync(request).expect("others run commands as ever");
    begun.elapsed()
}

/// How long a pod with a container takes to start.
fn start_time(node: &Node) -> Duration {
    let begun = Instant::now();
    let pod = node.pod("timed");
    pod.shell("main", "exec sleep 1000");
    let took = begun.elapsed();
    pod.take_down();
    took
}

fn pod_state(pod: &Pod<'_>, id: &str) -> ContainerState {
    pod.status(id).state()
}

fn volume_at(host_path: &Path, container_path: &str) -> Mount {
    Mount {
        container_path: container_path.into(),
        host_path: host_path.to_str().unwrap().into(),
        ..Default::default()
    }
}

/// A filesystem of a megabyte. It goes with this value.
#[derive(Debug)]
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(point: &Path) -> Self {
        fs::create_dir_all(point).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "small"]).arg(point));
        Self(point.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// A cgroup with a limit of tasks, as a kubelet makes one for a pod. It goes with this value, in all hierarchies; the
/// pod's own have gone by then.
#[derive(Debug)]
struct BoundedCgroup {
    path: String,
    /// Where tasks are counted.
    directory: PathBuf,
}

impl BoundedCgroup {
    fn new(path: &str) -> Self {
        let hierarchy =
            ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().find(|path| Path::new(path).is_dir());
        let directory = PathBuf::from(format!("{}{path}", hierarchy.unwrap()));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("pids.max"), MOST_TASKS.to_string()).unwrap();
        Self { path: path.to_owned(), directory }
    }

    fn tasks(&self) -> u64 {
        fs::read_to_string(self.directory.join("pids.current")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for BoundedCgroup {
    fn drop(&mut self) {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let roots = hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
        for root in roots.filter(|path| !path.is_symlink()) {
            let _ = fs::remove_dir(root.join(self.path.trim_start_matches('/')));
        }
    }
}
