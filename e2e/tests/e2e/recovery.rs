//! Whoever dies without a warning, the rest goes on or is cleaned: the agent, the monitor, pause.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_cri_proto::v1::*;
use berth_e2e::cri::Answer;
use berth_e2e::requests::{BUSYBOX, shell};
use berth_e2e::{Cri, Node, Pod, eventually, read_log};
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
fn a_container_neither_waits_for_an_agent_that_hangs_nor_loses_a_line_to_it() {
    let node = Node::start();
    let pod = node.pod("count");
    let id = pod.create(shell("count", "i=1; while [ $i -le 30000 ]; do echo $i; i=$((i+1)); done; exit 11"));
    pod.try_start(&id).unwrap();
    node.signal(Signal::STOP);
    let path = pod.log_path("count");
    let all = || (path.exists() && read_log(&path).len() == 30_000).then_some(());
    eventually("all lines, with no help of the agent's", PATIENCE, all);
    node.signal(Signal::CONT);
    assert_eq!(pod.end_of(&id).exit_code, 11);
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
fn an_agent_killed_at_any_moment_leaves_nothing_that_it_cannot_find() {
    let node = Node::start();
    let before = node.baseline();
    for (round, delay_ms) in [2, 12, 25, 40, 55, 70, 90, 120, 160, 220].into_iter().enumerate() {
        thread::scope(|scope| {
            for lane in 0..4 {
                let (cri, config) = (node.cri(), node.sandbox(&format!("round-{round}-{lane}")));
                // Each is at another step when the agent dies, and hears so by an error.
                scope.spawn(move || while live_once(&cri, &config).is_ok() {});
            }
            let start = Instant::now();
            let moment = || (start.elapsed() >= Duration::from_millis(delay_ms)).then_some(());
            eventually("the moment", PATIENCE, moment);
            node.kill9();
        });
        node.restart();
        let cri = node.cri();
        for container in cri.containers() {
            // Whatever it was doing, it can be looked at, ended and removed.
            cri.container(&container.id).unwrap();
            let request = StopContainerRequest { container_id: container.id.clone(), timeout: 0 };
            cri.stop_container(request).unwrap();
        }
        for sandbox in cri.sandboxes() {
            cri.take_down(&sandbox.id).unwrap();
        }
        // No identity is lost to a pod that nobody can reach.
        for lane in 0..4 {
            let pod = node.pod(&format!("round-{round}-{lane}"));
            assert_eq!(pod.end_of(&pod.shell("again", "exit 9")).exit_code, 9);
            pod.take_down();
        }
        node.assert_as_before(&before.with_agent_of(&node.snapshot()));
    }
}

/// The life of a pod of one container, until something fails.
#[allow(clippy::result_large_err, reason = "the caller looks into it")]
fn live_once(cri: &Cri, config: &PodSandboxConfig) -> Answer<()> {
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let pod_sandbox_id = cri.run_pod_sandbox(request)?.pod_sandbox_id;
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(shell("main", "exec sleep 1000")),
        sandbox_config: Some(config.clone()),
    };
    let container_id = cri.create_container(request)?.container_id;
    cri.start_container(StartContainerRequest { container_id: container_id.clone() })?;
    let cmd = vec!["true".to_owned()];
    cri.exec_sync(ExecSyncRequest { container_id: container_id.clone(), cmd, timeout: 5 })?;
    cri.stop_container(StopContainerRequest { container_id: container_id.clone(), timeout: 0 })?;
    cri.remove_container(RemoveContainerRequest { container_id })?;
    cri.take_down(&pod_sandbox_id)
}

#[test]
#[ignore = "needs root and the test images"]
fn pods_of_before_a_reboot_are_known_and_can_be_removed() {
    let node = Node::start();
    let fresh = node.baseline();
    let mut config = node.sandbox("before");
    config.port_mappings = vec![PortMapping { container_port: 80, host_port: 18_082, ..Default::default() }];
    let pod = Pod::run(&node, config);
    let runs = pod.shell("runs", "exec sleep 1000");
    let ended = pod.shell("ended", "exit 6");
    pod.end_of(&ended);
    let (made, addresses) = (pod.create(shell("made", "true")), pod.addresses());
    let image = Some(ImageSpec { image: BUSYBOX.into(), ..Default::default() });
    let volume = Mount { container_path: "/image".into(), image, readonly: true, ..Default::default() };
    let mapped = ContainerConfig { mounts: vec![volume], ..shell("mapped", "exec sleep 1000") };
    let mapped = pod.start(mapped);
    let half = node.pod("stopped");
    half.shell("main", "exec sleep 1000");
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: half.id.clone() }).unwrap();
    node.reboot();
    node.restart();
    assert_eq!(node.check("--leaks"), [""; 0]);
    assert_eq!((node.cri().sandboxes().len(), node.cri().containers().len()), (2, 5));
    for pod in node.cri().sandboxes() {
        assert_eq!(pod.state(), PodSandboxState::SandboxNotready);
    }
    for container in node.cri().containers() {
        assert_eq!(container.state(), ContainerState::ContainerExited);
    }
    // They are as good as any that have ended: asked for again, and in any order.
    node.cri().stop_container(StopContainerRequest { container_id: mapped.clone(), timeout: 10 }).unwrap();
    node.cri().remove_container(RemoveContainerRequest { container_id: mapped }).unwrap();
    half.take_down();
    let (status, lost) = (pod.status(&ended), pod.status(&runs));
    assert_eq!((status.exit_code, status.reason.as_str()), (6, "Error"));
    assert_eq!((lost.state(), lost.reason.as_str()), (ContainerState::ContainerExited, "Unknown"));
    assert_eq!(pod.status(&made).state(), ContainerState::ContainerExited);
    // A kubelet makes the pod anew, as its next attempt, before it removes the old one.
    let mut config = pod.config.clone();
    config.metadata.as_mut().unwrap().attempt += 1;
    let next = Pod::run(&node, config);
    assert_ne!(next.addresses(), [""; 0]);
    assert_eq!(next.end_of(&next.shell("main", "exit 4")).exit_code, 4);
    pod.take_down();
    assert_eq!(node.cri().sandboxes().len(), 1);
    assert_eq!(addresses.len(), 2);
    // It has the port that the old one had.
    next.take_down();
    assert_eq!(node.check("--leaks"), [""; 0]);
    node.assert_as_before(&fresh.with_agent_of(&node.snapshot()));
}

#[test]
#[ignore = "needs root and the test images"]
fn the_parent_of_monitors_is_replaced_when_it_dies() {
    let node = Node::start();
    let first = node.pod("first");
    let id = first.shell("main", "exec sleep 1000");
    let zygote = node.process("zygote").expect("a zygote runs");
    kill_process(Pid::from_raw(zygote).unwrap(), Signal::KILL).unwrap();
    let second = node.pod("second");
    assert_eq!(second.end_of(&second.shell("main", "exit 3")).exit_code, 3);
    assert_eq!(first.exec(&id, "echo fine"), "fine");
    assert_ne!(node.process("zygote"), Some(zygote));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_that_is_being_made_when_the_parent_of_monitors_dies_is_made_by_the_next() {
    let node = Node::start();
    node.pod("first");
    let zygote = Pid::from_raw(node.process("zygote").expect("a zygote runs")).unwrap();
    // It is sent what to do, and does not read it.
    kill_process(zygote, Signal::STOP).unwrap();
    let config = node.sandbox("second");
    node.cri().run_pod_sandbox_in_a_hurry(config.clone(), Duration::from_secs(1));
    kill_process(zygote, Signal::KILL).unwrap();
    let second = Pod::run(&node, config);
    assert_eq!(second.end_of(&second.shell("main", "exit 3")).exit_code, 3);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_parent_of_monitors_that_stands_still_is_replaced() {
    let node = Node::start();
    node.pod("first");
    let zygote = node.process("zygote").expect("a zygote runs");
    kill_process(Pid::from_raw(zygote).unwrap(), Signal::STOP).unwrap();
    let second = node.pod("second");
    assert_eq!(second.end_of(&second.shell("main", "exit 3")).exit_code, 3);
    assert_ne!(node.process("zygote"), Some(zygote));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_that_was_being_made_when_the_agent_died_is_not_listed() {
    let node = Node::start();
    let first = node.pod("first");
    let zygote = Pid::from_raw(node.process("zygote").expect("a zygote runs")).unwrap();
    // No monitor comes from it, so that the pod stays half made until the agent dies.
    kill_process(zygote, Signal::STOP).unwrap();
    node.cri().run_pod_sandbox_in_a_hurry(node.sandbox("second"), Duration::from_secs(1));
    node.kill9();
    let _ = kill_process(zygote, Signal::KILL);
    node.restart();
    let names = |node: &Node| -> Vec<String> {
        node.cri().sandboxes().into_iter().map(|pod| pod.metadata.unwrap().name).collect()
    };
    assert_eq!(names(&node), ["first"]);
    let second = node.pod("second");
    assert_eq!(names(&node).len(), 2);
    second.take_down();
    first.take_down();
    assert_eq!(names(&node), Vec::<String>::new());
    node.stop();
    node.assert_nothing_is_left();
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
    kill_process(victim, rustix::process::Signal::KILL).unwrap();
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
    assert!(pod.try_create(shell("more", "true")).is_err());
    // With its containers' records intact, also for a new agent.
    node.kill9();
    node.restart();
    assert_eq!(pod.end_of(&runs).exit_code, end.exit_code);
    pod.take_down();
    assert_eq!(bystander.exec(&other, "echo alive"), "alive");
    bystander.take_down();
    node.assert_as_before(&before.with_agent_of(&node.snapshot()));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_that_was_being_made_when_the_agent_died_goes_though_its_pod_stays() {
    let node = Node::start();
    for is_monitor_dead in [false, true] {
        let pod = node.pod(&format!("half-{is_monitor_dead}"));
        let id = pod.shell("main", "exec sleep 1000");
        let monitor = Pid::from_raw(pod.monitor_pid().try_into().unwrap()).unwrap();
        let directory = node.dir().join("root/containers").join(&id);
        assert!(directory.exists());
        node.kill9();
        if is_monitor_dead {
            kill_process(monitor, Signal::KILL).unwrap();
        }
        node.change_database(&format!(
            "update records set body = json_set(body, '$.state', null) where tab = 'containers' and key = '{id}'"
        ));
        node.restart();
        eventually("the container to go", PATIENCE, || (!directory.exists()).then_some(()));
        let ready = node.cri().sandbox(&pod.id).unwrap().state() == PodSandboxState::SandboxReady;
        assert_eq!(ready, !is_monitor_dead);
        pod.take_down();
    }
    node.stop();
    node.assert_nothing_is_left();
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_whose_monitor_hangs_is_removed_all_the_same() {
    let node = Node::start();
    let (hangs, lives) = (node.pod("hangs"), node.pod("lives"));
    let names: Vec<String> = (0..6).map(|number| format!("main-{number}")).collect();
    names.iter().for_each(|name| drop(hangs.shell(name, "exec sleep 1000")));
    let other = lives.shell("main", "exec sleep 1000");
    let monitor = Pid::from_raw(hangs.monitor_pid().try_into().unwrap()).unwrap();
    kill_process(monitor, Signal::STOP).unwrap();
    let since = Instant::now();
    node.cri().take_down(&hangs.id).unwrap();
    // It is waited for with the first of the containers, and not with each.
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
    assert_eq!(lives.exec(&other, "echo fine"), "fine");
    assert_eq!(node.cri().sandboxes().len(), 1);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_monitor_that_hangs_holds_no_agent_up_that_starts_and_is_found_when_it_goes_on() {
    let node = Node::start();
    let (hangs, lives) = (node.pod("hangs"), node.pod("lives"));
    let stays = hangs.shell("stays", "exec sleep 1000");
    let ends = hangs.shell("ends", "exec sleep 1000");
    let other = lives.shell("main", "exec sleep 1000");
    let monitor = Pid::from_raw(hangs.monitor_pid().try_into().unwrap()).unwrap();
    let container = Pid::from_raw(hangs.pid(Some(&ends)).try_into().unwrap()).unwrap();
    kill_process(monitor, Signal::STOP).unwrap();
    kill_process(container, Signal::KILL).unwrap();
    node.kill9();
    node.restart();
    assert_eq!(lives.exec(&other, "echo fine"), "fine");
    let ready = |pod: &Pod<'_>| node.cri().sandbox(&pod.id).unwrap().state() == PodSandboxState::SandboxReady;
    assert!(ready(&hangs) && ready(&lives));
    let refused = hangs.try_exec(&stays, &["true"], 5).unwrap_err();
    assert!(refused.message().contains("can't be reached"), "{refused}");
    let culprit = format!("(process {}) is stopped or hangs", monitor.as_raw_nonzero());
    assert!(refused.message().contains(&culprit), "{refused}");
    // It is waited for beside the pod's other work.
    let since = Instant::now();
    let refused = hangs.try_create(shell("more", "true")).unwrap_err();
    assert!(refused.message().contains(&culprit), "{refused}");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    kill_process(monitor, Signal::CONT).unwrap();
    assert_eq!(hangs.end_of(&ends).exit_code, 137);
    assert_eq!(hangs.exec(&stays, "echo fine"), "fine");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_of_a_monitor_that_hangs_is_asked_to_stop_and_no_other_suffers() {
    let node = Node::start();
    let pod = node.pod("hangs");
    let asked = pod.shell("asked", "trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.1; done");
    let killed = pod.shell("killed", "exec sleep 1000");
    let stays = pod.shell("stays", "exec sleep 1000");
    pod.await_line("asked", "ready");
    let (first, monitor) = (pod.pid(Some(&asked)), pod.monitor_pid());
    let monitor = Pid::from_raw(monitor.try_into().unwrap()).unwrap();
    kill_process(monitor, Signal::STOP).unwrap();
    let since = Instant::now();
    pod.stop(&asked, 60);
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    assert!(!PathBuf::from(format!("/proc/{first}/exe")).exists(), "it has ended, and is not waited for");
    assert!(pod.status(&asked).message.contains("does not answer"));
    // The monitor is known to be silent, and is not waited for again.
    let since = Instant::now();
    node.cri().remove_container(RemoveContainerRequest { container_id: killed }).unwrap();
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert_eq!(node.cri().sandbox(&pod.id).unwrap().state(), PodSandboxState::SandboxReady);
    assert_eq!(pod.status(&stays).state(), ContainerState::ContainerRunning);
    kill_process(monitor, Signal::CONT).unwrap();
    assert_eq!(pod.exec(&stays, "echo fine"), "fine");
    pod.await_line("asked", "asked");
    // One that has answered again is waited for again: its word is how the container ended.
    let next = pod.shell("next", "trap 'exit 8' TERM; echo ready; while :; do sleep 0.1; done");
    pod.await_line("next", "ready");
    pod.stop(&next, 60);
    assert_eq!(pod.status(&next).exit_code, 8);
    pod.take_down();
    node.stop();
    node.assert_nothing_is_left();
}
