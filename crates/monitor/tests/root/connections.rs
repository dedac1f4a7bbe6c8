//! Who connects to a monitor, and when it can't have that.

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use super::*;

/// Processor time of a process so far, in ticks of 10 ms.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn who_comes_while_there_are_no_descriptors_waits_and_costs_nothing() {
    let host = Host::new();
    let mut pod = host.pod(1, |_| {});
    // Once it has answered, it holds nothing any more but what it keeps.
    let unknown = host.plan(1, "").container.clone();
    pod.ask(Order::Kill { container: unknown }, &[]).unwrap_err();
    let (pid, number) = (Pid::from_raw(pod.hello.pid).unwrap(), pod.hello.pid);
    let is_free = |fd: &u64| !Path::new(&format!("/proc/{number}/fd/{fd}")).exists();
    let free = (0..).find(is_free).unwrap();
    let limit = getrlimit(Resource::Nofile);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(free), ..limit }).unwrap();
    let socket = packet::connect_in(&pod.directory, SOCKET_NAME, Blocking::Yes).unwrap();
    let (since, used) = (Instant::now(), ticks(number));
    wait_until("some time has passed", || since.elapsed() > Duration::from_millis(1500));
    assert!(ticks(number) - used < 30, "it spins");
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    let late = Pod::greeted(socket, pod.directory.clone());
    assert_eq!(late.hello.pid, number);
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn all_who_ask_for_the_end_are_told_of_it() {
    let host = Host::new();
    let first = host.pod(1, |_| {});
    let socket = packet::connect_in(&first.directory, SOCKET_NAME, Blocking::Yes).unwrap();
    let second = Pod::greeted(socket, first.directory.clone());
    let pid = Pid::from_raw(first.hello.pid).unwrap();
    // So that it hears of both at once.
    kill_process(pid, Signal::STOP).unwrap();
    for pod in [&first, &second] {
        let request = serde_json::to_vec(&Request { id: 7, version: None, order: Order::Shutdown }).unwrap();
        packet::send(&pod.socket, &request, &[]).unwrap();
    }
    kill_process(pid, Signal::CONT).unwrap();
    for pod in [&first, &second] {
        let is_reply = |message| matches!(message, Message::Reply { id: 7, result: Ok(Answer::Done) });
        assert!((0..3).any(|_| is_reply(pod.message())));
    }
}
