//! Hooks that run outside of their container: when, where, as whom, what they are told, and what their failure does.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_cri_proto::v1::{ContainerConfig, RemoveContainerRequest};
use berth_e2e::requests::{privileged, sandbox_namespaces, security};
use berth_e2e::{Node, Pod, eventually};
use serde_json::{Value, json};

use super::{MAKE_LINK, describe, sh};
use crate::devices::{describe_devices, with_cdi};
use crate::userns::users;

const ALL: [&str; 4] = ["prestart", "createRuntime", "poststart", "poststop"];

/// Writes down what it is told, in which namespaces and as whom it runs, and in which the container's process does.
const RECORD: &str = r#"state=$(cat)
echo "$state" >"$0/$1.state"
for name in mnt net pid ipc uts user; do readlink "/proc/self/ns/$name"; done >"$0/$1.own"
id -u >>"$0/$1.own"
pid=$(echo "$state" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p')
[ -z "$pid" ] || readlink "/proc/$pid/ns/net" "/proc/$pid/ns/mnt" "/proc/$pid/root" >"$0/$1.its"
echo "$1" >>"$0/order""#;

fn recorder(point: &str, trace: &Path) -> Value {
    writer(point, RECORD, trace)
}

/// A hook that writes to this directory.
fn writer(point: &str, script: &str, trace: &Path) -> Value {
    let mut hook = sh(point, script, point);
    // What a shell calls its own name.
    hook["args"][3] = trace.to_str().unwrap().into();
    hook
}

fn trace_of(node: &Node) -> std::path::PathBuf {
    let trace = node.dir().join("trace");
    fs::create_dir(&trace).unwrap();
    trace
}

fn order(trace: &Path) -> String {
    fs::read_to_string(trace.join("order")).unwrap_or_default()
}

fn await_order(trace: &Path, want: &[&str]) {
    let want = want.join("\n") + "\n";
    eventually("the hooks to have run", Duration::from_secs(10), || (order(trace) == want).then_some(()));
}

/// What one was told, and that it ran where the agent does, as the host's root.
fn told(node: &Node, trace: &Path, point: &str) -> Value {
    let own = fs::read_to_string(trace.join(format!("{point}.own"))).unwrap();
    let names = ["mnt", "net", "pid", "ipc", "uts", "user"];
    let agents = names.map(|name| fs::read_link(format!("/proc/{}/ns/{name}", node.agent_pid())).unwrap());
    let agents = agents.map(|link| link.display().to_string()).join("\n");
    assert_eq!(own, agents + "\n0\n", "{point}");
    serde_json::from_str(&fs::read_to_string(trace.join(format!("{point}.state"))).unwrap()).unwrap()
}

/// Follows a container of this configuration to its end; `made` are the points up to its creation.
fn run_through(node: &Node, pod: &Pod<'_>, mut config: ContainerConfig, made: &[&str]) {
    let trace = trace_of(node);
    // By when they run, whatever the order in which they are written.
    let mut hooks: Vec<Value> = ALL.iter().rev().map(|point| recorder(point, &trace)).collect();
    let others = made.iter().filter(|point| !ALL.contains(point));
    hooks.extend(others.map(|point| writer(point, "echo \"$1\" >>\"$0/order\"", &trace)));
    describe(node, &json!(hooks));
    config.annotations = [("who".to_owned(), "is it".to_owned())].into();
    let id = pod.create(config);
    let pid = pod.pid(Some(&id));
    await_order(&trace, made);
    let bundle = node.dir().join("root/containers").join(&id).join("bundle");
    let check = |point: &str, status: &str, its_pid: Option<u32>| {
        let state = told(node, &trace, point);
        assert_eq!(state["ociVersion"], "1.0.2");
        assert_eq!((&state["id"], &state["status"]), (&json!(id), &json!(status)), "{point}");
        assert_eq!(state.get("pid"), its_pid.map(|pid| json!(pid)).as_ref(), "{point}");
        assert_eq!((&state["bundle"], &state["annotations"]), (&json!(bundle), &json!({ "who": "is it" })));
    };
    let namespaces = ["net", "mnt"].map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap());
    let [net, mnt] = namespaces.map(|link| link.display().to_string());
    for point in &made[..2] {
        check(point, "creating", Some(pid));
        // The namespaces are those of the workload, and the root has not been changed yet.
        let its = fs::read_to_string(trace.join(format!("{point}.its"))).unwrap();
        assert_eq!(its, format!("{net}\n{mnt}\n/\n"), "{point}");
    }
    pod.try_start(&id).unwrap();
    // It has run when the start is answered.
    assert_eq!(order(&trace), [made, &["poststart"]].concat().join("\n") + "\n");
    check("poststart", "running", Some(pid));
    pod.exec(&id, "head -c 1 /dev/gpu");
    pod.stop(&id, 0);
    await_order(&trace, &[made, &["poststart", "poststop"]].concat());
    check("poststop", "stopped", None);
    fs::remove_dir_all(&trace).unwrap();
}

#[test]
#[ignore = "needs root and the test images"]
fn hooks_outside_run_at_their_times_in_the_hosts_namespaces() {
    let node = describe_devices(Node::start());
    let made = ["prestart", "createRuntime", "createContainer"];
    run_through(&node, &node.pod("outside"), with_cdi(&["v.com/c=d"]), &made);
    run_through(&node, &Pod::privileged(&node, "strong"), privileged(with_cdi(&["v.com/c=d"])), &made);
}

#[test]
#[ignore = "needs root and the test images"]
fn hooks_outside_of_a_user_namespace_are_the_hosts_root() {
    let node = describe_devices(Node::start());
    let mut config = node.sandbox("mapped");
    sandbox_namespaces(&mut config).userns_options = Some(users());
    let options = sandbox_namespaces(&mut config).clone();
    let pod = Pod::run(&node, config);
    let mut config = with_cdi(&["v.com/c=d"]);
    security(&mut config).namespace_options = Some(options);
    // What runs inside may not write to where the others do.
    run_through(&node, &pod, config, &["prestart", "createRuntime"]);
}

#[test]
#[ignore = "needs root and the test images"]
fn hooks_outside_find_the_root_through_their_bundle() {
    let node = describe_devices(Node::start());
    let pod = node.pod("root");
    describe(&node, &json!([sh("prestart", MAKE_LINK, "one"), sh("poststart", MAKE_LINK, "two")]));
    let id = pod.start(with_cdi(&["v.com/c=d"]));
    assert_eq!(pod.exec(&id, "readlink /opt-one; readlink /opt-two"), "creating-b-root\nrunning-b-root");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_hook_before_the_container_is_made_fails_the_create_and_is_followed_by_the_last() {
    let node = describe_devices(Node::start());
    let pod = node.pod("failing");
    let trace = trace_of(&node);
    let before = node.baseline();
    for point in ["prestart", "createRuntime"] {
        let failing = sh(point, "echo no such driver >&2; exit 3", "");
        let mut hanging = sh(point, "sleep 1000 & echo waiting >&2; wait", "");
        hanging["timeout"] = 1.into();
        for (hook, words) in [
            (failing, format!("{point} hook /bin/sh: exit status: 3: no such driver")),
            (hanging, format!("{point} hook /bin/sh: no end within 1 s: waiting")),
        ] {
            let recorders = ["createContainer", "poststart", "poststop"].map(|point| recorder(point, &trace));
            describe(&node, &json!([&[hook][..], &recorders].concat()));
            let error = pod.try_create(with_cdi(&["v.com/c=d"])).unwrap_err();
            assert_eq!(error.code(), tonic::Code::Internal);
            assert!(error.message().contains(&words), "{}", error.message());
            assert_eq!(order(&trace), "poststop\n", "before the answer, and it alone");
            fs::remove_file(trace.join("order")).unwrap();
            node.assert_as_before(&before);
        }
    }
    // What fails later on takes the same way down.
    describe(&node, &json!([sh("createContainer", "exit 4", ""), recorder("poststop", &trace)]));
    pod.try_create(with_cdi(&["v.com/c=d"])).unwrap_err();
    assert_eq!(order(&trace), "poststop\n");
    node.assert_as_before(&before);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_hook_after_the_start_or_the_end_that_fails_is_logged_and_changes_nothing() {
    let node = describe_devices(Node::start());
    let pod = node.pod("late");
    let trace = trace_of(&node);
    let failing = |point: &str| sh(point, &format!("echo late {point} >&2; exit 5"), "");
    describe(
        &node,
        &json!([
            failing("poststart"),
            recorder("poststart", &trace),
            failing("poststop"),
            recorder("poststop", &trace),
        ]),
    );
    let before = node.baseline();
    let id = pod.start(with_cdi(&["v.com/c=d"]));
    assert_eq!(order(&trace), "poststart\n", "the next one runs all the same");
    pod.exec(&id, "true");
    pod.stop(&id, 0);
    // A removal waits for what is left to be run.
    let remove = RemoveContainerRequest { container_id: id };
    node.cri().remove_container(remove).unwrap();
    assert_eq!(order(&trace), "poststart\npoststop\n");
    for point in ["poststart", "poststop"] {
        let words = format!("{point} hook /bin/sh: exit status: 5: late {point}");
        eventually("the failure to be logged", Duration::from_secs(10), || {
            node.journal().lines().any(|line| line.contains("WARN") && line.contains(&words)).then_some(())
        });
    }
    node.assert_as_before(&before);

    // A container that ends at once: its last hook waits for the one before.
    fs::remove_file(trace.join("order")).unwrap();
    let slow = sh("poststart", &format!("read word <{0}/go; echo slow >>{0}/order", trace.display()), "");
    describe(&node, &json!([slow, recorder("poststop", &trace)]));
    let go = trace.join("go");
    rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut config = with_cdi(&["v.com/c=d"]);
    config.command = ["true"].map(str::to_owned).into();
    config.args.clear();
    let id = pod.create(config);
    let pid = pod.pid(Some(&id));
    std::thread::scope(|scope| {
        let start = scope.spawn(|| pod.try_start(&id));
        eventually("the program to end", Duration::from_secs(10), || {
            (!fs::exists(format!("/proc/{pid}")).unwrap()).then_some(())
        });
        assert_eq!(order(&trace), "");
        fs::write(&go, "on\n").unwrap();
        start.join().unwrap().unwrap();
    });
    await_order(&trace, &["slow", "poststop"]);
    assert_eq!(pod.end_of(&id).exit_code, 0);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_hook_outside_at_work_when_the_agent_is_killed_goes_with_its_container() {
    let node = describe_devices(Node::start());
    let pod = node.pod("killed");
    let trace = trace_of(&node);
    let before = node.baseline();
    let script = format!(": >{}; exec sleep 1000", trace.join("begun").display());
    describe(&node, &json!([sh("createRuntime", &script, ""), recorder("poststop", &trace)]));
    std::thread::scope(|scope| {
        let create = scope.spawn(|| pod.try_create(with_cdi(&["v.com/c=d"])));
        eventually("the hook to begin", Duration::from_secs(10), || {
            trace.join("begun").exists().then_some(())
        });
        node.kill9();
        assert!(create.join().unwrap().is_err());
    });
    node.restart();
    await_order(&trace, &["poststop"]);
    node.assert_as_before(&before.with_agent_of(&node.snapshot()));
}

#[test]
#[ignore = "needs root and the test images"]
fn hooks_after_the_end_run_though_no_agent_does_and_before_a_pod_is_gone() {
    let node = describe_devices(Node::start());
    let pod = node.pod("away");
    let trace = trace_of(&node);
    describe(&node, &json!([recorder("poststop", &trace)]));
    let id = pod.start(with_cdi(&["v.com/c=d"]));
    let pid = rustix::process::Pid::from_raw(pod.pid(Some(&id)) as i32).unwrap();
    node.kill9();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    await_order(&trace, &["poststop"]);
    node.restart();
    assert_eq!(pod.end_of(&id).exit_code, 137);

    fs::remove_file(trace.join("order")).unwrap();
    let mut config = with_cdi(&["v.com/c=d"]);
    config.metadata.as_mut().unwrap().name = "second".into();
    pod.start(config);
    pod.take_down();
    assert_eq!(order(&trace), "poststop\n");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_last_hook_that_hangs_holds_no_pod_up_and_goes_with_it() {
    let node = describe_devices(Node::start());
    node.pod("first").take_down();
    let before = node.baseline();
    let pod = node.pod("hanging");
    let begun = node.dir().join("begun");
    describe(&node, &json!([sh("poststop", &format!(": >{}; exec sleep 1000", begun.display()), "")]));
    pod.start(with_cdi(&["v.com/c=d"]));
    let at = Instant::now();
    pod.take_down();
    assert!(begun.exists() && at.elapsed() < Duration::from_secs(20), "{:?}", at.elapsed());
    node.assert_as_before(&before);
}
