//! A monitor that is made before its pod.

use rustix::process::{Pid, Signal, kill_process};

use super::*;

fn short_name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end().to_owned()
}

fn occupy(pod: &mut Pod, hostname: &str) -> Result<Answer, Failure> {
    pod.ask(Order::Occupy { hostname: hostname.to_owned() }, &[])
}

/// As a killed agent's does.
fn break_connection(pod: &mut Pod) {
    let (broken, _) = packet::pair(Blocking::Yes).unwrap();
    pod.socket = broken;
}

fn await_end(pids: &[i32]) {
    wait_until("all is gone", || pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_spare_that_has_become_a_pod_has_its_hostname_and_outlives_its_agent() {
    let host = Host::new();
    let mut pod = host.pod(1, |plan| plan.spare = true);
    let (monitor, pause) = (pod.hello.pid, pod.hello.pause_pid.unwrap());
    let own = namespace(monitor, "uts");
    assert_eq!(short_name(monitor), "berth-spare");
    assert!(matches!(occupy(&mut pod, "named-late"), Ok(Answer::Done)));
    assert_eq!(short_name(monitor), "berth-monitor");
    assert_eq!(namespace(monitor, "uts"), own, "it has come back from the pod's namespace");
    assert_ne!(namespace(pause, "uts"), own);

    break_connection(&mut pod);
    pod.reconnect();
    assert_eq!((pod.hello.pid, pod.hello.pause_pid), (monitor, Some(pause)));
    let (exit, text) = pod.run(&host.plan(1, "hostname"));
    assert_eq!((exit.code, text.as_str()), (0, "named-late\n"));
    drop(pod);
    await_end(&[monitor, pause]);
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_pod_is_not_made_another_one() {
    let host = Host::new();
    let mut born = host.pod(1, |_| {});
    let mut made = host.pod(2, |plan| plan.spare = true);
    assert!(matches!(occupy(&mut made, "mine"), Ok(Answer::Done)));
    for (number, pod, hostname) in [(1, &mut born, "the-pod\n"), (2, &mut made, "mine\n")] {
        let refused = occupy(pod, "theirs").unwrap_err();
        assert!(
            matches!(&refused, Failure::Other { detail } if detail.contains("has its pod")),
            "{refused:?}"
        );
        let (exit, text) = pod.run(&host.plan(number, "hostname"));
        assert_eq!((exit.code, text.as_str()), (0, hostname));
    }
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_spare_goes_with_its_agent() {
    let host = Host::new();
    let mut pod = host.pod(1, |plan| plan.spare = true);
    let pids = [pod.hello.pid, pod.hello.pause_pid.unwrap()];
    break_connection(&mut pod);
    await_end(&pids);
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_spare_without_its_pause_becomes_no_pod() {
    let host = Host::new();
    let mut pod = host.pod(1, |plan| plan.spare = true);
    let pause = Pid::from_raw(pod.hello.pause_pid.unwrap()).unwrap();
    kill_process(pause, Signal::KILL).unwrap();
    await_end(&[pause.as_raw_pid()]);
    // Whether it has noticed by now or not.
    occupy(&mut pod, "late").unwrap_err();
    assert_eq!(short_name(pod.hello.pid), "berth-spare");
}
