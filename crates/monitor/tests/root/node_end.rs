//! The end of the node: process 1 sends SIGTERM to all there are. The test is that process, in a pid namespace of its
//! own.

use std::env;

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// Whether a process lives. Process 1 is a test here, and waits for no orphans.
fn lives(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

/// Reads what the monitor says until it has gone.
fn await_end(pod: &mut Pod) -> Vec<(ContainerId, Exit)> {
    while let Ok(Some(packet)) = packet::receive(&pod.socket) {
        if let Ok(Message::Event(Event::ContainerExited { container, exit })) =
            serde_json::from_slice(&packet.bytes)
        {
            pod.exits.push((container, exit));
        }
    }
    std::mem::take(&mut pod.exits)
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_monitor_leaves_with_its_node_once_its_containers_have_ended() {
    if std::process::id() != 1 {
        let name = "node_end::a_monitor_leaves_with_its_node_once_its_containers_have_ended";
        let mut inside = Command::new("unshare");
        inside.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(env::current_exe().unwrap());
        assert!(inside.args(["--ignored", "--exact", name]).status().unwrap().success());
        return;
    }
    let host = Host::new();
    let (mut kind, mut deaf) = (host.pod(1, |_| {}), host.pod(2, |_| {}));
    let ends = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let (ending, waiting) = (host.plan(1, ends), host.plan(2, "true"));
    let staying = host.plan(3, "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    for plan in [&ending, &waiting] {
        kind.launch(plan).unwrap();
    }
    deaf.launch(&staying).unwrap();
    let (ends_pid, stays_pid) = (kind.start(&ending), deaf.start(&staying));
    for plan in [&ending, &staying] {
        wait_until("it is ready", || log_text(plan) == "ready\n");
    }
    let monitors = [kind.hello.pid, deaf.hello.pid];
    let stray = Command::new("kill").args(monitors.map(|pid| pid.to_string())).status().unwrap();
    assert!(stray.success());
    for (pod, plan) in [(&mut kind, &ending), (&mut deaf, &staying)] {
        pod.ask(Order::ReopenLog { container: plan.container.clone() }, &[])
            .expect("the signal of another process than the first is nothing to it");
    }

    let since = Instant::now();
    for pid in monitors.into_iter().chain([ends_pid, stays_pid]) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    }
    let exits = await_end(&mut kind);
    assert!(since.elapsed() < Duration::from_secs(8), "it does not wait longer than there is something left");
    let code = |plan: &LaunchPlan| exits.iter().find(|(id, _)| *id == plan.container).unwrap().1.code;
    assert_eq!((code(&ending), code(&waiting)), (3, 137));
    assert_eq!(log_text(&ending), "ready\nbye\n");
    let pauses = [&kind, &deaf].map(|pod| pod.hello.pause_pid.unwrap());
    wait_until("pause is gone", || !lives(pauses[0]));
    assert!(lives(stays_pid) && lives(pauses[1]));

    await_end(&mut deaf);
    let waited = since.elapsed();
    assert!(waited > Duration::from_secs(9) && waited < Duration::from_secs(30), "{waited:?}");
    wait_until("all is gone", || !lives(stays_pid) && !lives(pauses[1]));
}
