//! What a pod's processes have for themselves, beyond the pages that they share with the zygote and all others.

use super::*;

/// Source: proc(5), `smaps_rollup`.
fn own_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn pause_rests_on_one_page() {
    let host = Host::new();
    for (number, shared_pid) in [(1, false), (2, true)] {
        let pod = host.pod(number, |plan| plan.shared_pid = shared_pid);
        let pause = pod.hello.pause_pid.unwrap();
        let page = (rustix::param::page_size() / 1024) as u64;
        wait_until("pause has given the rest back", || own_kib(pause) <= 2 * page);
        let title = fs::read_to_string(format!("/proc/{pause}/cmdline")).unwrap();
        assert!(title.starts_with("pause: "), "{title:?}");
    }
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_monitor_gives_back_what_a_launch_has_taken() {
    let host = Host::new();
    let mut pod = host.pod(1, |_| {});
    let mut plan = host.plan(1, "echo ready; sleep 100");
    // So much that the plan is a burden, and as little as the allocator would keep by itself.
    plan.links = (0..1000).map(|n| (format!("/dev/{n}").into(), "/proc/self/fd".into())).collect();
    let before = own_kib(pod.hello.pid);
    pod.launch(&plan).unwrap();
    let launched = own_kib(pod.hello.pid);
    pod.start(&plan);
    wait_until("the monitor is small again", || own_kib(pod.hello.pid) < (before + launched) / 2);
    wait_until("it works as before", || log_text(&plan) == "ready\n");
    pod.ask(Order::Kill { container: plan.container.clone() }, &[]).unwrap();
    assert_eq!(pod.exit(&plan).code, 137);
}
