//! Steps that break one after the other: what one has left half done can't be undone either.

use std::fs;
use std::time::Duration;

use berth_cri_proto::v1::RunPodSandboxRequest;
use berth_e2e::requests::shell;
use berth_e2e::{Node, Revived, eventually, repository};

const PATIENCE: Duration = Duration::from_secs(20);

fn start() -> Node {
    let images = repository().join("hack/images/out");
    Node::start_breakable(&format!("[images]\nimport = '{}'", images.display()))
}

fn break_in_turn(node: &Node, steps: &[&str]) {
    fs::write(node.fault(), steps.join("\n")).unwrap();
}

/// Whether each has been come by.
fn all_broken(node: &Node) -> bool {
    fs::read_to_string(node.fault()).unwrap().is_empty()
}

#[test]
#[ignore = "needs root, the test images and the program that hack/chaos builds"]
fn a_container_that_is_neither_recorded_nor_undone_is_none() {
    let node = start();
    let pod = node.pod("pod");
    let beside = pod.shell("beside", "exec sleep 1000");
    break_in_turn(&node, &["fail record container", "fail delete record of container"]);
    pod.try_create(shell("main", "exit 5")).unwrap_err();
    assert!(all_broken(&node));
    let known: Vec<_> = node.cri().containers().into_iter().map(|container| container.id).collect();
    assert_eq!(known, std::slice::from_ref(&beside));
    // The same again is another one, which can be used as any.
    let id = pod.shell("main", "exit 5");
    assert_eq!(pod.end_of(&id).exit_code, 5);
    assert_eq!(pod.exec(&beside, "echo here"), "here");
}

#[test]
#[ignore = "needs root, the test images and the program that hack/chaos builds"]
fn a_half_made_pod_that_a_start_can_not_take_down_is_tried_again() {
    let node = start();
    break_in_turn(&node, &["kill attach network", "fail remove cgroup"]);
    let request = RunPodSandboxRequest { config: Some(node.sandbox("pod")), ..Default::default() };
    node.cri().run_pod_sandbox(request).unwrap_err();
    assert_eq!(node.revive(), Revived::Restarted);
    assert!(all_broken(&node));
    eventually("the second try", PATIENCE, || {
        node.journal().contains("half-made pod taken down").then_some(())
    });
}
