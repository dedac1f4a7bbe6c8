//! What it costs to ask for the stats of many containers: the time of a call, and the agent's own CPU time for it,
//! which a busy machine does not blur. Prints what ARCHITECTURE.md shows under "Measured", and asserts nothing about
//! time.
//!
//!     cargo build --release -p berth && cargo run --release -p berth-e2e --example measure_stats

#![allow(clippy::unwrap_used, reason = "a measurement that fails says so by panicking")]

use std::time::Instant;

use berth_cri_proto::v1::{
    ListContainerStatsRequest, ListContainersRequest, ListPodSandboxMetricsRequest,
    ListPodSandboxStatsRequest,
};
use berth_e2e::{Node, requests};

const PODS: usize = 50;
const CONTAINERS: usize = 10;
const CALLS: usize = 20;

fn main() {
    let node = Node::start();
    let pods: Vec<_> = (0..PODS).map(|number| node.pod(&format!("many-{number}"))).collect();
    std::thread::scope(|scope| {
        for some in pods.chunks(PODS / 5) {
            scope.spawn(move || {
                for pod in some {
                    for number in 0..CONTAINERS {
                        pod.start(requests::shell(&format!("work-{number}"), "exec sleep 10000"));
                    }
                }
            });
        }
    });
    let cri = node.cri();
    println!(
        "| {} containers in {PODS} pods | ms, p50 | ms of CPU, mean |\n| --- | --- | --- |",
        PODS * CONTAINERS
    );
    let measure = |name: &str, call: &dyn Fn() -> usize| {
        let answered = call();
        let (mut times, before) = (Vec::new(), cpu_ms(node.agent_pid()));
        for _ in 0..CALLS {
            let begun = Instant::now();
            assert_eq!(call(), answered);
            times.push(begun.elapsed());
        }
        let cpu = (cpu_ms(node.agent_pid()) - before) / CALLS as f64;
        times.sort();
        println!("| {name}, {answered} entries | {:.1} | {cpu:.1} |", times[CALLS / 2].as_secs_f64() * 1e3);
    };
    measure("ListContainers", &|| {
        cri.list_containers(ListContainersRequest::default()).unwrap().containers.len()
    });
    measure("ListContainerStats", &|| {
        cri.list_container_stats(ListContainerStatsRequest::default()).unwrap().stats.len()
    });
    measure("ListPodSandboxStats", &|| {
        cri.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).unwrap().stats.len()
    });
    measure("ListPodSandboxMetrics", &|| {
        cri.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).unwrap().pod_metrics.len()
    });
    for pod in &pods {
        pod.take_down();
    }
}

/// User and system time of a process, from its statistics after the name.
fn cpu_ms(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let numbers: Vec<f64> =
        text.rsplit_once(") ").unwrap().1.split(' ').map(|word| word.parse().unwrap_or(0.0)).collect();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    (numbers[11] + numbers[12]) * 1000.0 / ticks
}
