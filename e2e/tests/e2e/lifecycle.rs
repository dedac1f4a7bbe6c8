//! How containers start and end, and what their status says afterwards.

use std::time::{Duration, Instant};

use berth_cri_proto::v1::{ContainerState, StopContainerRequest};
use berth_e2e::Node;
use berth_e2e::requests::{WEB, container, limits, shell};
use tonic::Code;

/// A shell that stops only when it is told so, and says with which signal.
const OBEDIENT: &str = "for s in TERM QUIT INT USR1; do trap \"echo $s; exit 5\" $s; done; echo ready; while :; do sleep 1000 & wait; done";
/// A shell that does not care.
const STUBBORN: &str = "trap '' TERM; echo ready; while :; do sleep 1000 & wait; done";

#[test]
#[ignore = "needs root and the test images"]
fn exit_codes_and_reasons_are_told_apart() {
    let node = Node::start();
    let pod = node.pod("ends");
    for (name, script, code, reason) in
        [("completed", "true", 0, "Completed"), ("failed", "exit 17", 17, "Error")]
    {
        let id = pod.shell(name, script);
        let status = pod.end_of(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
        assert!(0 < status.created_at && status.created_at <= status.started_at, "{status:?}");
        assert!(status.started_at <= status.finished_at, "{status:?}");
    }

    let mut config = shell("greedy", "tail /dev/zero");
    limits(&mut config).memory_limit_in_bytes = 16 << 20;
    let status = pod.end_of(&pod.start(config));
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_program_that_is_missing_is_a_start_error() {
    let node = Node::start();
    let pod = node.pod("missing");
    for (name, program) in
        [("absent", "/no/such/program"), ("nowhere", "no-such-program"), ("data", "/etc/passwd")]
    {
        let mut config = shell(name, "");
        config.command = vec![program.into()];
        let id = match pod.try_create(config) {
            Ok(id) => id,
            Err(refused) => panic!("{program}: refused at create: {refused}"),
        };
        let refused = pod.try_start(&id).unwrap_err();
        assert!(refused.message().contains(program), "{refused}");
        let status = pod.end_of(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{program}");
        assert!(status.message.contains(program), "{status:?}");
        // Once is all that a container is started.
        assert_eq!(pod.try_start(&id).unwrap_err().code(), Code::FailedPrecondition);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn stop_asks_waits_and_kills() {
    let node = Node::start();
    let pod = node.pod("stop");
    let obedient = pod.shell("obedient", OBEDIENT);
    pod.await_line("obedient", "ready");
    let took = time(|| pod.stop(&obedient, 30));
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(pod.status(&obedient).exit_code, 5);
    assert_eq!(pod.log("obedient"), ["ready", "TERM"]);

    let stubborn = pod.shell("stubborn", STUBBORN);
    pod.await_line("stubborn", "ready");
    let took = time(|| pod.stop(&stubborn, 1));
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let status = pod.status(&stubborn);
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));

    // No grace: no signal but SIGKILL.
    let at_once = pod.shell("at-once", OBEDIENT);
    pod.await_line("at-once", "ready");
    pod.stop(&at_once, 0);
    assert_eq!(pod.status(&at_once).exit_code, 137);
    assert_eq!(pod.log("at-once"), ["ready"]);

    let created = pod.create(shell("created", "true"));
    pod.stop(&created, 1);
    assert_eq!(pod.status(&created).state(), ContainerState::ContainerExited);
    assert_eq!(pod.try_start(&created).unwrap_err().code(), Code::FailedPrecondition);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_shorter_grace_takes_effect_at_once() {
    let node = Node::start();
    let pod = node.pod("grace");
    let id = pod.shell("main", STUBBORN);
    pod.await_line("main", "ready");
    let took = time(|| {
        std::thread::scope(|scope| {
            let patient = scope.spawn(|| pod.stop(&id, 50));
            pod.stop(&id, 1);
            patient.join().unwrap();
        });
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(pod.status(&id).exit_code, 137);
}

#[test]
#[ignore = "needs root and the test images"]
fn the_stop_signal_is_the_images_or_the_requests() {
    let node = Node::start();
    let pod = node.pod("signal");
    // The image says SIGQUIT.
    let mut config = container("image", WEB);
    config.command = vec!["sh".into(), "-c".into(), OBEDIENT.into()];
    let image = pod.start(config.clone());
    config.metadata.as_mut().unwrap().name = "request".into();
    config.log_path = "request.log".into();
    config.stop_signal = berth_cri_proto::v1::Signal::Sigusr1.into();
    let request = pod.start(config);
    for (name, id, signal) in [("image", &image, "QUIT"), ("request", &request, "USR1")] {
        pod.await_line(name, "ready");
        pod.stop(id, 10);
        assert_eq!(pod.log(name), ["ready", signal]);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn the_end_of_process_1_is_the_end_of_all() {
    let node = Node::start();
    let pod = node.pod("children");
    let id = pod.shell("main", "sleep 12345 & setsid sleep 12345 & exit 3");
    assert_eq!(pod.end_of(&id).exit_code, 3);
    assert!(!processes().contains("sleep 12345"));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_stop_request_for_what_does_not_exist_is_no_error() {
    let node = Node::start();
    let request = StopContainerRequest { container_id: "0123456789abcdef".into(), timeout: 1 };
    node.cri().stop_container(request).unwrap();
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The command lines of all processes of the machine.
fn processes() -> String {
    berth_e2e::run(std::process::Command::new("ps").args(["-eo", "args"]))
}
