//! Agents and monitors that have no version of their protocol in common, after an upgrade or a downgrade over too many.

use std::time::{Duration, Instant};

use berth_cri_proto::v1::*;
use berth_e2e::{Build, Node, eventually, repository, requests, run};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs root, the test images and the program that hack/chaos builds"]
fn a_monitor_of_a_far_off_version_is_named_and_its_pod_runs_until_it_is_removed() {
    let node = Node::start_empty("");
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    // What an agent makes with its first pod and keeps is no leftover.
    node.pod("first").take_down();
    let before = node.baseline();
    let (this, far) = (Build::Ordinary, Build::Speaking("4-5"));
    for (from, to) in [(this.clone(), far.clone()), (far, this)] {
        node.replace_program(from);
        node.kill9();
        node.restart();
        let pod = node.pod("old");
        let id = pod
            .shell("main", "mkfifo /tmp/f; exec 3<>/tmp/f; while :; do echo line; read -t 0.05 x <&3; done");
        let hears = pod.shell("hears", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done");
        pod.await_line("hears", "ready");
        node.replace_program(to);
        node.kill9();
        node.restart();

        let cri = node.cri();
        assert_eq!(cri.sandbox(&pod.id).unwrap().state(), PodSandboxState::SandboxNotready);
        assert_eq!(cri.containers().len(), 2);
        assert_eq!(pod.status(&id).state(), ContainerState::ContainerRunning);
        let lines = pod.log("main").len();
        eventually("more lines", PATIENCE, || (pod.log("main").len() > lines).then_some(()));
        // Who asks for what only its monitor can do is told why it can't be had, and so is who looks into the pod.
        let refused = pod.try_exec(&id, &["true"], 5).unwrap_err();
        let (monitor, agent) = if refused.message().contains("the agent versions") {
            ("speaks version 2 ", "versions 4 to 5")
        } else {
            ("speaks versions 4 to 5 ", "version 2")
        };
        let why = format!("{monitor}of the protocol, and the agent {agent}");
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains(&why), "{refused}");
        assert!(node.crictl(&["inspectp", &pod.id]).contains(&why));
        assert!(node.journal().contains(&why));

        // A kubelet makes the pod anew, as its next attempt, and removes the old one.
        let mut config = pod.config.clone();
        config.metadata.as_mut().unwrap().attempt += 1;
        let next = berth_e2e::Pod::run(&node, config);
        assert_eq!(next.exec(&next.shell("main", "exec sleep 1000"), "echo fine"), "fine");
        // It is asked to end past its monitor, and whoever asked for that hears of it soon.
        let since = Instant::now();
        pod.stop(&hears, 60);
        assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
        assert_eq!(pod.status(&hears).exit_code, 7);
        let since = Instant::now();
        pod.stop(&id, 1);
        // It is looked for soon, since nobody tells of it; not only when it would be called unkillable.
        assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
        let end = pod.status(&id);
        assert_eq!((end.state(), end.exit_code), (ContainerState::ContainerExited, 137), "{end:?}");
        for pod in [pod, next] {
            pod.take_down();
        }
        node.assert_as_before(&before.with_agent_of(&node.snapshot()));
    }
    node.remove_image(requests::BUSYBOX);
}
