//! Whoever dies without a warning, the rest goes on or is cleaned: the agent, the monitor, pause.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_cri_proto::v1::{ContainerState, PodSandboxState};
use berth_e2e::{Node, Pod, eventually, read_log};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs root and the test images"]
fn a_log_has_every_line_although_the_agent_is_killed() {
    let node = Node::start();
    let pod = node.pod("count");
    let id = pod.shell("count", "i=1; while [ $i -le 100000 ]; do echo $i; i=$((i+1)); done; exit 42");
    let path = pod.log_path("count");
    let some = |lines: u64| {
        let grown = || (std::fs::metadata(&path).map_or(0, |meta| meta.len()) > lines * 45).then_some(());
        eventually("lines", PATIENCE, grown);
    };
    some(5_000);
    node.kill9();
    some(10_000);
    node.restart();
    let status = pod.end_of(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (42, "Error"));
    let lines = read_log(&path);
    assert_eq!(lines.len(), 100_000);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!((line.stream.as_str(), line.tag.as_str()), ("stdout", "F"));
        assert_eq!(line.text, (index + 1).to_string());
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn an_exit_while_no_agent_runs_keeps_its_code_and_time() {
    let node = Node::start();
    let pod = node.pod("alone");
    let ends = pod.shell(
        "ends",
        "read line </dev/shm/go 2>/dev/null; while [ ! -e /dev/shm/go ]; do usleep 20000; done; exit 7",
    );
    let stays = pod.shell("stays", "exec sleep 1000");
    let pid = pod.pid(Some(&ends));
    let go = PathBuf::from(format!("/proc/{}/root/dev/shm/go", pod.pid(Some(&stays))));
    node.kill9();
    std::fs::write(go, "").unwrap();
    eventually("the exit", PATIENCE, || (!PathBuf::from(format!("/proc/{pid}")).exists()).then_some(()));
    let ended_before = now_ns();
    node.restart();
    let status = pod.end_of(&ends);
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.started_at < status.finished_at && status.finished_at <= ended_before, "{status:?}");

    let status = pod.status(&stays);
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(pod.exec(&stays, "echo still here"), "still here");
    assert_eq!(node.cri().sandbox(&pod.id).unwrap().state(), PodSandboxState::SandboxReady);
    pod.stop(&stays, 0);
    assert_eq!(pod.end_of(&stays).exit_code, 137);
    // What comes after a restart is as good as what came before.
    let after = pod.shell("after", "exit 5");
    assert_eq!(pod.end_of(&after).exit_code, 5);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_graceful_stop_leaves_the_pods_running() {
    let node = Node::start();
    let pod = node.pod("stays");
    let id = pod.shell("stays", "exec sleep 1000");
    let (pid, ip) = (pod.pid(Some(&id)), pod.addresses());
    node.stop();
    assert!(PathBuf::from(format!("/proc/{pid}")).exists());
    node.restart();
    assert_eq!((pod.pid(Some(&id)), pod.addresses()), (pid, ip));
    assert_eq!(pod.exec(&id, "echo here"), "here");
}

#[test]
#[ignore = "needs root and the test images"]
fn an_agent_killed_at_any_moment_finds_all_or_nothing_again() {
    let node = Node::start();
    let before = node.snapshot();
    for (round, delay_ms) in [1, 4, 9, 16, 25, 40, 60, 90].into_iter().enumerate() {
        thread::scope(|scope| {
            for number in 0..3 {
                let config = node.sandbox(&format!("round-{round}-{number}"));
                let cri = node.cri();
                // Killed in the midst of it, the agent can't answer.
                scope.spawn(move || cri.run_pod_sandbox_in_a_hurry(config, Duration::from_secs(2)));
            }
            let start = Instant::now();
            eventually("the moment", PATIENCE, || {
                (start.elapsed() >= Duration::from_millis(delay_ms)).then_some(())
            });
            node.kill9();
        });
        node.restart();
        // A retry gives the pod that the first call made, or a new one; either works.
        let pod = node.pod(&format!("round-{round}-0"));
        let id = pod.shell("main", "exit 9");
        assert_eq!(pod.end_of(&id).exit_code, 9);
        for sandbox in node.cri().sandboxes() {
            node.cri().take_down(&sandbox.id).unwrap();
        }
        node.assert_as_before(&before.with_agent_of(&node.snapshot()));
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_killed_monitor_takes_its_pod_with_it() {
    check_sudden_death(|pod| pod.monitor_pid());
}

#[test]
#[ignore = "needs root and the test images"]
fn a_killed_pause_takes_its_pod_with_it() {
    check_sudden_death(|pod| pod.pid(None));
}

fn check_sudden_death(victim: fn(&Pod<'_>) -> u32) {
    let node = Node::start();
    let before = node.snapshot();
    let bystander = node.pod("bystander");
    let other = bystander.shell("main", "exec sleep 1000");
    let pod = node.pod("victim");
    let runs = pod.shell("runs", "sleep 1000 & exec sleep 1001");
    let ended = pod.shell("ended", "exit 3");
    pod.end_of(&ended);
    let pid = pod.pid(Some(&runs));

    let victim = Pid::from_raw(victim(&pod).try_into().unwrap()).unwrap();
    kill_process(victim, Signal::KILL).unwrap();
    let end = pod.end_of(&runs);
    assert_ne!(end.exit_code, 0, "{end:?}");
    eventually("the container's process to go", PATIENCE, || {
        (!PathBuf::from(format!("/proc/{pid}")).exists()).then_some(())
    });
    eventually("the sandbox to be not ready", PATIENCE, || {
        let state = node.cri().sandbox(&pod.id).unwrap().state();
        (state == PodSandboxState::SandboxNotready).then_some(())
    });
    assert_eq!(pod.status(&ended).exit_code, 3, "what was known stays known");
    assert!(pod.try_create(berth_e2e::requests::shell("more", "true")).is_err());
    // With its containers' records intact, also for a new agent.
    node.kill9();
    node.restart();
    assert_eq!(pod.end_of(&runs).exit_code, end.exit_code);
    pod.take_down();
    assert_eq!(bystander.exec(&other, "echo alive"), "alive");
    bystander.take_down();
    node.assert_as_before(&before.with_agent_of(&node.snapshot()));
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}
