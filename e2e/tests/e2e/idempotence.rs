//! A call that is repeated, at once or later, by the same or another client, has the effect of one.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::requests::shell;
use berth_e2e::{Node, Pod};

#[test]
#[ignore = "needs root and the test images"]
fn requests_for_the_same_sandbox_get_the_same_sandbox() {
    let node = Node::start();
    let config = node.sandbox("same");
    let ids: BTreeSet<_> = thread::scope(|scope| {
        let ask = || Pod::run(&node, config.clone()).id;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((ids.len(), node.cri().sandboxes().len()), (1, 1));
    let pod = Pod::run(&node, config.clone());
    assert!(ids.contains(&pod.id), "a finished sandbox is found again");

    let mut next = config.clone();
    next.metadata.as_mut().unwrap().attempt = 1;
    assert_ne!(Pod::run(&node, next).id, pod.id, "another attempt is another sandbox");
    pod.take_down();
    assert_ne!(Pod::run(&node, config).id, pod.id, "after its removal the identity is free");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_client_that_hangs_up_and_retries_finds_the_work_done() {
    let node = Node::start();
    for (number, patience_ms) in [1, 3, 6, 10].into_iter().enumerate() {
        let config = node.sandbox(&format!("hurry-{number}"));
        node.cri().run_pod_sandbox_in_a_hurry(config.clone(), Duration::from_millis(patience_ms));
        let pod = Pod::run(&node, config);
        assert_eq!(node.cri().sandbox(&pod.id).unwrap().state(), PodSandboxState::SandboxReady);
        assert_eq!(node.cri().sandboxes().len(), number + 1);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn requests_for_the_same_container_get_the_same_container() {
    let node = Node::start();
    let pod = node.pod("same");
    let config = shell("main", "exec sleep 1000");
    let ids: BTreeSet<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| pod.create(config.clone()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!((ids.len(), node.cri().containers().len()), (1, 1));
}

#[test]
#[ignore = "needs root and the test images"]
fn what_is_gone_can_be_stopped_and_removed_again() {
    let node = Node::start();
    let pod = node.pod("gone");
    let id = pod.shell("main", "trap 'exit 4' TERM; echo ready; while :; do sleep 1 & wait; done");
    pod.await_line("main", "ready");
    let cri = node.cri();
    let stop = || cri.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 5 });
    let remove = || cri.remove_container(RemoveContainerRequest { container_id: id.clone() });
    for _ in 0..3 {
        stop().unwrap();
        assert_eq!(pod.status(&id).exit_code, 4, "the first stop's exit code stays");
    }
    for _ in 0..3 {
        remove().unwrap();
    }
    let stop_sandbox = |id: &str| cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() });
    for _ in 0..3 {
        stop_sandbox(&pod.id).unwrap();
        assert_eq!(cri.sandbox(&pod.id).unwrap().state(), PodSandboxState::SandboxNotready);
        assert_eq!(pod.addresses(), [""; 0]);
    }
    for _ in 0..3 {
        cri.take_down(&pod.id).unwrap();
    }
    let never = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    cri.take_down(never).unwrap();
    cri.remove_container(RemoveContainerRequest { container_id: never.into() }).unwrap();
}

#[test]
#[ignore = "needs root and the test images"]
fn removing_a_sandbox_stops_and_removes_what_is_in_it() {
    let node = Node::start();
    let pod = node.pod("full");
    pod.shell("runs", "exec sleep 1000");
    pod.create(shell("created", "true"));
    let ended = pod.shell("ended", "true");
    pod.end_of(&ended);
    let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
    node.cri().remove_pod_sandbox(request).unwrap();
    assert_eq!((node.cri().sandboxes().len(), node.cri().containers().len()), (0, 0));
}
