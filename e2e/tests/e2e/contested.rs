//! Clients that know nothing of each other make calls about the same pods, in any order: each call has one of the
//! answers that the API allows, and in the end nothing is left.

use std::thread;

use berth_cri_proto::v1::*;
use berth_dice::Dice;
use berth_e2e::cri::Answer;
use berth_e2e::requests::shell;
use berth_e2e::{Cri, Node};
use tonic::{Code, Status};

const CLIENTS: u64 = 8;
const CALLS: usize = 80;
const PODS: usize = 3;

#[test]
#[ignore = "needs root and the test images"]
fn calls_in_any_order_get_an_honest_answer_and_leave_nothing() {
    let node = Node::start();
    node.pod("first").take_down();
    let before = node.baseline();
    let configs: Vec<_> = (0..PODS).map(|number| node.sandbox(&format!("contested-{number}"))).collect();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (cri, configs) = (node.cri(), &configs);
            scope.spawn(move || {
                let mut dice = Dice::new(client + 1);
                for _ in 0..CALLS {
                    call(&cri, configs, &mut dice);
                }
            });
        }
    });
    let cri = node.cri();
    for sandbox in cri.sandboxes() {
        cri.take_down(&sandbox.id).unwrap();
    }
    assert_eq!((cri.sandboxes().len(), cri.containers().len()), (0, 0));
    node.assert_as_before(&before);
    // Every name is free again.
    for config in &configs {
        let pod = berth_e2e::Pod::run(&node, config.clone());
        assert_eq!(pod.end_of(&pod.shell("main", "exit 5")).exit_code, 5);
    }
}

/// Makes one call about something that may or may not be there.
fn call(cri: &Cri, configs: &[PodSandboxConfig], dice: &mut Dice) {
    let config = &configs[dice.below(PODS)];
    let pod_sandbox_id = one_of(dice, &cri.sandboxes()).map(|pod| pod.id).unwrap_or_default();
    let container_id = one_of(dice, &cri.containers()).map(|container| container.id).unwrap_or_default();
    match dice.below(12) {
        0..3 => {
            let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
            allow("RunPodSandbox", cri.run_pod_sandbox(request), &[Code::AlreadyExists, Code::Aborted]);
        }
        3 | 4 => {
            let config = shell(&format!("main-{}", dice.below(4)), "trap 'exit 0' TERM; sleep 1000 & wait");
            let sandbox_config = cri.sandbox(&pod_sandbox_id).ok().map(|_| configs[0].clone());
            let request = CreateContainerRequest { pod_sandbox_id, config: Some(config), sandbox_config };
            allow("CreateContainer", cri.create_container(request), &[Code::AlreadyExists]);
        }
        5 | 6 => {
            allow("StartContainer", cri.start_container(StartContainerRequest { container_id }), &[]);
        }
        7 => {
            let cmd = vec!["true".to_owned()];
            allow("ExecSync", cri.exec_sync(ExecSyncRequest { container_id, cmd, timeout: 10 }), &[]);
        }
        8 => {
            let timeout = i64::from(dice.below(2) == 0);
            allow("StopContainer", cri.stop_container(StopContainerRequest { container_id, timeout }), &[]);
        }
        9 => {
            allow("RemoveContainer", cri.remove_container(RemoveContainerRequest { container_id }), &[]);
        }
        10 => {
            let request = StopPodSandboxRequest { pod_sandbox_id };
            allow("StopPodSandbox", cri.stop_pod_sandbox(request), &[]);
        }
        _ => {
            let request = RemovePodSandboxRequest { pod_sandbox_id };
            allow("RemovePodSandbox", cri.remove_pod_sandbox(request), &[]);
        }
    }
}

/// What is there can be gone, or be in another state, by the time that the call arrives; anything else is a fault.
fn allow<T>(call: &str, answer: Answer<T>, more: &[Code]) {
    let honest = |status: &Status| {
        [Code::NotFound, Code::FailedPrecondition].contains(&status.code()) || more.contains(&status.code())
    };
    if let Err(status) = answer {
        assert!(honest(&status), "{call}: {status}");
    }
}

fn one_of<T: Clone>(dice: &mut Dice, all: &[T]) -> Option<T> {
    (!all.is_empty()).then(|| dice.one_of(all))
}
