//! The first measurements: a pod of one container, call by call, one pod at a time, on an agent of its own; then the
//! memory of many. Prints what ARCHITECTURE.md shows under "Measured", and asserts nothing about time.
//!
//!     cargo build --release -p berth && cargo run --release -p berth-e2e --example measure

#![allow(clippy::unwrap_used, reason = "a measurement that fails says so by panicking")]

use std::time::{Duration, Instant};

use berth_cri_proto::v1::{
    CreateContainerRequest, ExecSyncRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
};
use berth_e2e::{Cri, Node, requests};

/// Pods for the times.
const PODS: usize = 200;
/// Pods for the memory.
const AT_ONCE: usize = 50;

fn main() {
    let node = Node::start();
    let cri = node.cri();
    let mut table: Vec<(&str, Vec<Duration>)> = Vec::new();
    for number in 0..PODS {
        for (index, (name, time)) in time_a_pod(&node, &cri, number).into_iter().enumerate() {
            if table.len() == index {
                table.push((name, Vec::new()));
            }
            table[index].1.push(time);
        }
    }
    println!("| ms, {PODS} pods one after the other | p50 | p99 |\n| --- | --- | --- |");
    for (name, mut times) in table {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        println!("| {name} | {:.1} | {:.1} |", at(50), at(99));
    }
    print_memory(&node);
}

/// The calls of a pod's life, each with the time that it took, and sums of them.
fn time_a_pod(node: &Node, cri: &Cri, number: usize) -> Vec<(&'static str, Duration)> {
    let pod = node.sandbox(&format!("timed-{number}"));
    let begun = Instant::now();
    let run = RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
    let pod_sandbox_id = cri.run_pod_sandbox(run).unwrap().pod_sandbox_id;
    let ran = Instant::now();
    let create = CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(requests::shell(
            "work",
            "trap 'exit 0' TERM; echo ready; while :; do sleep 1 & wait; done",
        )),
        sandbox_config: Some(pod),
    };
    let container_id = cri.create_container(create).unwrap().container_id;
    let created = Instant::now();
    cri.start_container(StartContainerRequest { container_id: container_id.clone() }).unwrap();
    let started = Instant::now();
    let exec =
        ExecSyncRequest { container_id: container_id.clone(), cmd: vec!["true".to_owned()], timeout: 10 };
    cri.exec_sync(exec).unwrap();
    let executed = Instant::now();
    cri.stop_container(StopContainerRequest { container_id, timeout: 10 }).unwrap();
    let stopped = Instant::now();
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).unwrap();
    let pod_stopped = Instant::now();
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).unwrap();
    vec![
        ("RunPodSandbox", ran - begun),
        ("CreateContainer", created - ran),
        ("StartContainer", started - created),
        ("**pod start**: the three together", started - begun),
        ("ExecSync of `true`", executed - started),
        ("StopContainer (it ends on SIGTERM)", stopped - executed),
        ("StopPodSandbox", pod_stopped - stopped),
        ("RemovePodSandbox, with its container", pod_stopped.elapsed()),
    ]
}

/// Proportional set sizes with many pods, each with one container.
fn print_memory(node: &Node) {
    let idle = pss_kib(node.agent_pid());
    let pods: Vec<_> = (0..AT_ONCE).map(|number| node.pod(&format!("at-once-{number}"))).collect();
    for pod in &pods {
        pod.shell("work", "exec sleep 1000");
    }
    let of_pods: u64 = pods.iter().map(|pod| pss_kib(pod.monitor_pid()) + pss_kib(pod.pid(None))).sum();
    println!("\n| KiB of PSS | |\n| --- | --- |");
    println!("| monitor and pause of a pod, mean of {AT_ONCE} | {} |", of_pods / AT_ONCE as u64);
    println!("| agent with no pod, after {PODS} | {idle} |");
    println!("| agent with {AT_ONCE} pods | {} |", pss_kib(node.agent_pid()));
    for pod in &pods {
        pod.take_down();
    }
}

fn pss_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}
