//! A removal is answered before the kernel has done all of it: nobody can tell.

use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::{Node, Pod, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

/// A pod with a port of the host.
fn config(node: &Node) -> PodSandboxConfig {
    let port = PortMapping { container_port: 8080, host_port: 8087, ..Default::default() };
    PodSandboxConfig { port_mappings: vec![port], ..node.sandbox("pod") }
}

/// A removal kills what runs: no stop goes before it.
fn remove(node: &Node, pod: &Pod<'_>) {
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    node.cri().remove_pod_sandbox(request).unwrap();
}

#[track_caller]
fn await_nothing_of(node: &Node, pod: &Pod<'_>) {
    eventually("nothing of the pod", PATIENCE, || node.snapshot().of_pod(&pod.id).is_empty().then_some(()));
}

fn check_same_identity(spare: u32) {
    let node = Node::start_with(&format!("[sandboxes]\nspare = {spare}"));
    let mut last: Option<Pod<'_>> = None;
    for round in 0..8 {
        let pod = Pod::run(&node, config(&node));
        assert!(last.as_ref().is_none_or(|last| last.id != pod.id));
        let ids: Vec<_> = node.cri().sandboxes().into_iter().map(|listed| listed.id).collect();
        assert_eq!(ids, std::slice::from_ref(&pod.id));
        pod.shell("web", "exec httpd -f -p 8080 -h /etc");
        let arguments =
            ["--silent", "--max-time", "5", "--retry", "9", "--retry-connrefused", "--retry-delay", "1"];
        let page = node.site().run("curl", &[&arguments[..], &["http://127.0.0.1:8087/motd"]].concat());
        assert_eq!(page.trim(), "The base image's, removed by web.", "round {round}");
        if let Some(last) = last {
            await_nothing_of(&node, &last);
        }
        remove(&node, &pod);
        last = Some(pod);
    }
    await_nothing_of(&node, &last.unwrap());
    assert_eq!(node.check("--leaks"), [""; 0]);
}

#[test]
#[ignore = "needs root and the test images"]
fn an_identity_and_a_port_are_free_once_a_removal_is_answered() {
    check_same_identity(0);
}

#[test]
#[ignore = "needs root and the test images"]
fn an_identity_and_a_port_are_free_for_a_spare_sandbox_too() {
    check_same_identity(3);
}

#[test]
#[ignore = "needs root and the test images"]
fn what_was_removed_stays_so_although_the_agent_is_killed_at_once() {
    let node = Node::start();
    for _ in 0..5 {
        let pod = Pod::run(&node, config(&node));
        pod.shell("main", "exec sleep 1000");
        remove(&node, &pod);
        node.kill9();
        node.restart();
        assert_eq!(node.cri().sandboxes(), []);
        assert_eq!(node.cri().containers(), []);
        await_nothing_of(&node, &pod);
        assert_eq!(node.check("--leaks"), [""; 0]);
    }
}
