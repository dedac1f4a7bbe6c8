//! What others take away from under running pods: a monitor is stopped, the bridge, a pod's link or the rules go, no
//! address is left. One pod suffers, or none, and the agent says which and why.

use std::path::Path;
use std::time::{Duration, Instant};

use berth_cri_proto::v1::{
    NetworkConfig, RemovePodSandboxRequest, RunPodSandboxRequest, RuntimeConfig, StopPodSandboxRequest,
    UpdateRuntimeConfigRequest,
};
use berth_e2e::{Node, Pod, eventually, requests};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

use crate::lab::{Lab, Problem, await_reachable, await_trouble, await_well, need};
use crate::tally::short_or_long;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs root and the test images"]
fn whatever_the_host_loses_one_pod_suffers_and_is_named() {
    let node = Node::start();
    let mut lab = Lab::new(&node, "faults of the host");
    for _ in 0..short_or_long(1, 10) {
        lab.attempt("stopped monitor", |lab| stopped_monitor(lab.node));
        lab.attempt("stopped monitor of an empty pod", |lab| stopped_monitor_of_an_empty_pod(lab.node));
        lab.attempt("deleted bridge", |lab| deleted_bridge(lab.node));
        lab.attempt("deleted link", |lab| deleted_link(lab.node));
        lab.attempt("loose link", |lab| loose_link(lab.node));
        lab.attempt("lost address", |lab| lost_address(lab.node));
        lab.attempt("flushed rules", |lab| flushed_rules(lab.node));
    }
    if short_or_long(false, true) {
        lab.attempt("create with a stopped monitor", |lab| create_with_a_stopped_monitor(lab.node));
    }
    lab.attempt("exhausted addresses", |lab| exhausted_addresses(lab.node));
    lab.finish();
}

/// Calls about its pod end by their deadlines and name it, others pass; it heals, and can be removed as it is.
fn stopped_monitor(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let id = pod.shell("main", "exec sleep 1000");
    let monitor = pod.monitor_pid();
    signal(monitor, Signal::STOP);
    await_trouble(node, Some(&pod.id), "monitor", &format!("process {monitor} is stopped by a signal"))?;
    await_trouble(node, Some(&id), "monitor", "stopped by a signal")?;
    let refused = pod.try_exec(&id, &["true"], 1).unwrap_err();
    let named = refused.message().contains(&format!("monitor of pod {}", pod.id));
    need(refused.code() == Code::DeadlineExceeded && named, || format!("exec: {refused}"))?;
    live_and_go(node, "beside");
    signal(monitor, Signal::CONT);
    pod.exec(&id, "true");
    await_well(node)?;
    signal(monitor, Signal::STOP);
    let begun = Instant::now();
    node.cri().take_down(&pod.id).map_err(|status| format!("take down: {status}"))?;
    need(!is_alive(monitor), || "the monitor lives on".to_owned())?;
    Ok(format!("removed in {:.1} s", begun.elapsed().as_secs_f64()))
}

/// It fails within a client's minute, and says by whose fault; what was asked for does not come to be afterwards.
fn create_with_a_stopped_monitor(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let monitor = pod.monitor_pid();
    signal(monitor, Signal::STOP);
    let begun = Instant::now();
    let refused = pod.try_create(requests::shell("main", "exec sleep 1000")).unwrap_err();
    let took = begun.elapsed();
    let named = refused.message().contains(&format!("monitor of pod {}", pod.id));
    need(refused.code() == Code::DeadlineExceeded && named, || format!("create: {refused}"))?;
    signal(monitor, Signal::CONT);
    await_well(node)?;
    let id = pod.shell("main", "exec sleep 1000");
    pod.exec(&id, "true");
    need(node.cri().containers().len() == 2, || format!("{:?}", node.cri().containers()))?;
    pod.take_down();
    Ok(format!("refused after {} s", took.as_secs()))
}

/// A stop that nobody answers ends the pod's processes all the same.
fn stopped_monitor_of_an_empty_pod(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let processes = [pod.monitor_pid(), pod.pid(None)];
    signal(processes[0], Signal::STOP);
    let pod_sandbox_id = pod.id.clone();
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
    node.cri().stop_pod_sandbox(stop).map_err(|status| format!("stop: {status}"))?;
    eventually("the end of monitor and pause", PATIENCE, || {
        (!processes.iter().any(|pid| is_alive(*pid))).then_some(())
    });
    let removed = node.cri().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id });
    removed.map(|_| String::new()).map_err(|status| format!("remove: {status}"))
}

/// The next pod puts it back, with the links of the others.
fn deleted_bridge(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let address = pod.addresses()[0].clone();
    await_reachable(node, &address);
    node.site().run("ip", &["link", "delete", node.bridge()]);
    await_trouble(node, None, "network", "is gone")?;
    live_and_go(node, "next");
    await_reachable(node, &address);
    await_well(node)?;
    pod.take_down();
    Ok(String::new())
}

/// That pod has no network any more, and can be removed.
fn deleted_link(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let id = pod.shell("main", "exec sleep 1000");
    let link = link_of(&pod);
    node.site().run("ip", &["link", "delete", &link]);
    await_trouble(node, Some(&pod.id), "network", &format!("{link}, the host's end of its link, is gone"))?;
    await_trouble(node, None, "network", &link)?;
    pod.exec(&id, "true");
    live_and_go(node, "next");
    pod.take_down();
    Ok(String::new())
}

fn loose_link(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let (link, address) = (link_of(&pod), pod.addresses()[0].clone());
    node.site().run("ip", &["link", "set", &link, "nomaster"]);
    await_trouble(node, Some(&pod.id), "network", &format!("{link}, the host's end of its link, is not in"))?;
    node.site().run("ip", &["link", "set", &link, "master", node.bridge(), "down"]);
    await_trouble(node, Some(&pod.id), "network", "is down")?;
    node.site().run("ip", &["link", "set", &link, "up"]);
    await_reachable(node, &address);
    await_well(node)?;
    pod.take_down();
    Ok(String::new())
}

fn lost_address(node: &Node) -> Result<String, Problem> {
    let pod = node.pod("victim");
    let (pause, address) = (pod.pid(None), pod.addresses()[0].clone());
    let netns = format!("--net=/proc/{pause}/ns/net");
    node.site().run("nsenter", &[&netns, "ip", "address", "flush", "dev", "eth0"]);
    await_trouble(node, Some(&pod.id), "network", &format!("eth0 has lost {address}"))?;
    live_and_go(node, "next");
    pod.take_down();
    Ok(String::new())
}

/// The table is there, and empty: the next pod puts the rules back.
fn flushed_rules(node: &Node) -> Result<String, Problem> {
    let rules = || node.site().run("nft", &["--stateless", "list", "ruleset"]);
    let before = rules();
    let table = before.lines().find_map(|line| line.strip_prefix("table inet ")?.split(' ').next()).unwrap();
    node.site().run("nft", &["flush", "table", "inet", table]);
    need(rules() != before, || "nothing was flushed".to_owned())?;
    await_trouble(node, None, "network", "it has 0 rules")?;
    live_and_go(node, "next");
    need(rules() == before, || format!("the rules are now {}", rules()))?;
    Ok(String::new())
}

/// The pod too many is refused for that reason, and made once another has gone.
fn exhausted_addresses(node: &Node) -> Result<String, Problem> {
    let renumber = |pod_cidr: &str| {
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.into() });
        let runtime_config = Some(RuntimeConfig { network_config });
        node.cri().update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).unwrap();
    };
    renumber("10.201.0.0/29");
    let mut pods: Vec<_> = (0..5).map(|number| node.pod(&format!("crowd-{number}"))).collect();
    await_trouble(node, None, "addresses", "no address is free in 10.201.0.0/29")?;
    let one_more = || RunPodSandboxRequest { config: Some(node.sandbox("one-more")), ..Default::default() };
    let refused = node.cri().run_pod_sandbox(one_more()).unwrap_err();
    let is_clear = refused.message().contains("no address is free in 10.201.0.0/29");
    need(refused.code() == Code::ResourceExhausted && is_clear, || format!("{refused}"))?;
    pods.remove(2).take_down();
    let made = node.cri().run_pod_sandbox(one_more()).map_err(|status| format!("then: {status}"))?;
    node.cri().take_down(&made.pod_sandbox_id).unwrap();
    pods.iter().for_each(Pod::take_down);
    let number = node.bridge().trim_start_matches("be2e");
    renumber(&format!("10.200.{number}.0/24,fd62:e2e:{number}::/64"));
    Ok(String::new())
}

/// Another pod comes, can be reached, runs something, and goes.
fn live_and_go(node: &Node, name: &str) {
    let pod = node.pod(name);
    let id = pod.shell("main", "exec sleep 1000");
    pod.exec(&id, "true");
    await_reachable(node, &pod.addresses()[0]);
    pod.take_down();
}

/// The host's end of the pod's link.
fn link_of(pod: &Pod<'_>) -> String {
    format!("bth{}", &pod.id[..12])
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
