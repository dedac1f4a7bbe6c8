//! How containers start and end, and what their status says afterwards.

use std::time::{Duration, Instant};

use berth_cri_proto::v1::{ContainerState, StopContainerRequest};
use berth_e2e::Node;
use berth_e2e::requests::{WEB, container, limits, security, shell};
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
fn exec_gives_output_and_exit_code() {
    let node = Node::start();
    let pod = node.pod("exec");
    let id = pod.shell("main", "export SECRET=1; exec sleep 1000");
    let reply = pod.try_exec(&id, &["sh", "-c", "echo out; echo err >&2; pwd; exit 9"], 10).unwrap();
    assert_eq!((reply.stdout, reply.stderr, reply.exit_code), (b"out\n/\n".to_vec(), b"err\n".to_vec(), 9));
    let reply = pod.try_exec(&id, &["sh", "-c", "kill -9 $$"], 10).unwrap();
    assert_eq!(reply.exit_code, 137);
    let big = pod.try_exec(&id, &["head", "-c", "3000000", "/dev/zero"], 30).unwrap();
    assert_eq!(big.stdout.len(), 3_000_000);

    let refused = pod.try_exec(&id, &["no-such-program"], 10);
    let text = format!("{refused:?}");
    assert!(text.contains("no-such-program"), "{text}");
    let ended = pod.shell("ended", "true");
    pod.end_of(&ended);
    assert_eq!(pod.try_exec(&ended, &["true"], 10).unwrap_err().code(), Code::FailedPrecondition);
    let created = pod.create(shell("created", "true"));
    assert_eq!(pod.try_exec(&created, &["true"], 10).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(pod.try_exec("0123456789abcdef", &["true"], 10).unwrap_err().code(), Code::NotFound);
}

#[test]
#[ignore = "needs root and the test images"]
fn an_exec_that_times_out_is_killed_whole_and_nothing_else() {
    let node = Node::start();
    let pod = node.pod("timeout");
    let id = pod.shell("main", "sleep 4001 & exec sleep 4002");
    let took = time(|| {
        let script = "trap '' TERM; sleep 4003 & setsid sleep 4004 & sleep 4005";
        let refused = pod.try_exec(&id, &["sh", "-c", script], 1).unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    });
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{took:?}");
    let running = pod.exec(&id, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    for survivor in ["sleep 4001", "sleep 4002"] {
        assert!(running.contains(survivor), "{running}");
    }
    for gone in ["sleep 4003", "sleep 4004", "sleep 4005"] {
        assert!(!running.contains(gone), "{running}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn an_exec_returns_although_its_daemon_keeps_the_pipe() {
    let node = Node::start();
    let pod = node.pod("daemon");
    let id = pod.shell("main", "exec sleep 1000");
    let took = time(|| {
        let reply = pod.try_exec(&id, &["sh", "-c", "sleep 1234 & echo started"], 30).unwrap();
        assert_eq!((reply.stdout, reply.exit_code), (b"started\n".to_vec(), 0));
    });
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_has_the_rights_that_were_asked_for() {
    let node = Node::start();
    let pod = node.pod("rights");
    let mut config = shell("main", "exec sleep 1000");
    let rights = security(&mut config);
    rights.run_as_username = "web".into();
    rights.readonly_rootfs = true;
    rights.no_new_privs = true;
    rights.supplemental_groups = vec![1234];
    rights.capabilities.get_or_insert_default().drop_capabilities = vec!["ALL".into()];
    rights.masked_paths = vec!["/proc/version".into(), "/sys/firmware".into()];
    rights.readonly_paths = vec!["/proc/sys".into()];
    limits(&mut config).memory_limit_in_bytes = 64 << 20;
    limits(&mut config).oom_score_adj = 500;
    let id = pod.start(config);
    for status in ["cat /proc/1/status", "cat /proc/self/status"] {
        let status = pod.exec(&id, status);
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("no {name}: {status}"))
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(field("Uid"), "1000 1000 1000 1000");
        assert_eq!(field("Gid"), "1000 1000 1000 1000");
        assert!(field("Groups").contains("1234") && field("Groups").contains("50"), "{status}");
        assert_eq!((field("CapEff"), field("CapBnd")), ("0".repeat(16), "0".repeat(16)));
        assert_eq!(field("NoNewPrivs"), "1");
    }
    assert_eq!(pod.exec(&id, "touch /tmp/x 2>&1 || true").matches("Read-only").count(), 1);
    assert_eq!(pod.exec(&id, "ls /sys/firmware | wc -l; wc -c </proc/version"), "0\n0");
    assert_eq!(pod.exec(&id, "cat /proc/1/oom_score_adj"), "500");
    let limit =
        "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    assert_eq!(pod.exec(&id, limit), (64 << 20).to_string());
    let user = pod.status(&id).user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid), (1000, 1000));
}

#[test]
#[ignore = "needs root and the test images"]
fn volumes_are_mounted_as_asked() {
    use berth_cri_proto::v1::Mount;
    let node = Node::start();
    let pod = node.pod("volumes");
    let volume = node.dir().join("volume");
    std::fs::create_dir_all(volume.join("nested")).unwrap();
    std::fs::write(volume.join("file"), "from the host").unwrap();
    let host_path = volume.to_str().unwrap().to_owned();
    let mount = |path: &str, readonly| Mount {
        container_path: path.into(),
        host_path: host_path.clone(),
        readonly,
        ..Default::default()
    };
    let mut config = shell("main", "exec sleep 1000");
    config.mounts = vec![mount("/deep/in/here", true), mount("/data", false)];
    let id = pod.start(config.clone());
    assert_eq!(pod.exec(&id, "cat /data/file /deep/in/here/file"), "from the hostfrom the host");
    pod.exec(&id, "echo more >/data/new; ! touch /deep/in/here/new2 2>/dev/null");
    assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "more\n");
    assert!(!volume.join("new2").exists());
    assert_eq!(pod.status(&id).mounts, config.mounts);
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
