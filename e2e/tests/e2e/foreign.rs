//! Runtime handlers that are other OCI runtimes: the same pods and containers, made by Debian's runc and crun.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::requests::{limits, sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod, eventually};
use rustix::process::{Pid, Signal, kill_process};

const HANDLERS: [&str; 2] = ["runc", "crun"];

/// Runs a check with each handler, on a node of its own.
#[track_caller]
fn with_each(check: impl Fn(&Node, &str)) {
    for handler in HANDLERS {
        println!("with {handler}");
        let (node, _script) = node();
        check(&node, handler);
    }
}

/// A node that knows both. Debian's crun refuses a machine whose cgroup v2 hierarchy has controllers beside those of
/// v1: it does not get to see that hierarchy.
fn node() -> (Node, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let crun = directory.path().join("crun");
    let hide = "umount --lazy /sys/fs/cgroup/unified 2>/dev/null; exec /usr/bin/crun \"$@\"";
    let script = format!("#!/bin/sh\nexec unshare --mount --propagation slave sh -c '{hide}' crun \"$@\"\n");
    std::fs::write(&crun, script).unwrap();
    std::fs::set_permissions(&crun, std::fs::Permissions::from_mode(0o755)).unwrap();
    let settings =
        format!("[handlers.runc]\npath = '/usr/sbin/runc'\n[handlers.crun]\npath = '{}'\n", crun.display());
    let node = Node::start_with(&settings);
    node.pod("first").take_down();
    (node, directory)
}

fn pod<'a>(node: &'a Node, name: &str, handler: &str) -> Pod<'a> {
    Pod::run_by(node, node.sandbox(name), handler)
}

/// Whether a runtime has this container on its own list; none if it can't say, as while one of them is removed.
fn is_listed(node: &Node, pod: &Pod<'_>, handler: &str, id: &str) -> Option<bool> {
    let state = node.dir().join("state/pods").join(&pod.id).join("runtime");
    let list =
        node.site().command(handler).arg("--root").arg(state).args(["list", "--quiet"]).output().unwrap();
    let lines = String::from_utf8(list.stdout).unwrap();
    list.status.success().then(|| lines.lines().any(|line| line.trim() == id))
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_of_another_runtime_lives_as_one_of_ours() {
    with_each(|node, handler| {
        let before = node.baseline();
        let pod = pod(node, "guest", handler);
        assert_eq!(node.cri().sandbox(&pod.id).unwrap().runtime_handler, handler);
        let script = "trap 'echo bye; exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.1; done";
        let id = pod.shell("main", script);
        assert_eq!(is_listed(node, &pod, handler, &id), Some(true));
        pod.await_line("main", "out");
        pod.await_line("main", "err");
        assert_eq!(pod.exec(&id, "hostname; id -u; cat /proc/1/comm"), "guest\n0\nsh");
        let addresses = pod.exec(&id, "ip -o addr show dev eth0");
        assert!(addresses.contains(&pod.addresses()[0]), "{addresses}");
        // The sandbox's own namespaces, shared with a container beside it.
        let other = pod.shell("other", "exec sleep 1000");
        for namespace in ["net", "ipc", "uts"] {
            let read = format!("readlink /proc/self/ns/{namespace}");
            assert_eq!(pod.exec(&id, &read), pod.exec(&other, &read), "{namespace}");
        }
        pod.exec(&id, "echo shared > /dev/shm/word");
        assert_eq!(pod.exec(&other, "cat /dev/shm/word"), "shared");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&id), "the host sees the container's mounts:\n{mounts}");

        pod.stop(&id, 10);
        let status = pod.status(&id);
        assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
        pod.await_line("main", "bye");
        eventually("the runtime to forget the container", Duration::from_secs(10), || {
            (is_listed(node, &pod, handler, &id) == Some(false)).then_some(())
        });
        // One that does not heed the signal, and one that was never started.
        pod.stop(&other, 0);
        assert_eq!(pod.status(&other).exit_code, 137);
        pod.create(shell("idle", "true"));
        pod.take_down();
        node.assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn another_runtime_gets_all_that_the_request_says() {
    with_each(|node, handler| {
        let mut config = node.sandbox("told");
        config.log_directory = node.dir().join("logs/told").to_str().unwrap().into();
        let pod = Pod::run_by(node, config, handler);
        let volume = node.dir().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("file"), "from the host").unwrap();
        let mut config = shell(
            "main",
            "grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:|Groups' /proc/1/status; exec sleep 1000",
        );
        config.envs = vec![KeyValue { key: "COLOUR".into(), value: "blue and green".into() }];
        config.working_dir = "/made/for/it".into();
        let mount = |path: &str, readonly| Mount {
            container_path: path.into(),
            host_path: volume.to_str().unwrap().into(),
            readonly,
            ..Mount::default()
        };
        config.mounts = vec![mount("/data", false), mount("/data-ro", true)];
        limits(&mut config).memory_limit_in_bytes = 64 << 20;
        let context = security(&mut config);
        context.run_as_user = Some(Int64Value { value: 1000 });
        context.run_as_group = Some(Int64Value { value: 2000 });
        context.supplemental_groups = vec![3000];
        context.no_new_privs = true;
        context.readonly_rootfs = true;
        context.masked_paths = vec!["/proc/timer_list".into(), "/proc/acpi".into()];
        context.readonly_paths = vec!["/proc/sys".into()];
        context.seccomp = Some(SecurityProfile { profile_type: 0, ..Default::default() });
        context.capabilities =
            Some(Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
        let id = pod.start(config);
        pod.await_line("main", "Seccomp:\t2");
        let log = pod.log("main").join("\n");
        for wanted in ["NoNewPrivs:\t1", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"] {
            assert!(log.contains(wanted), "{wanted} in\n{log}");
        }
        assert_eq!(
            pod.exec(&id, "id -u; id -g; pwd; echo $COLOUR"),
            "1000\n2000\n/made/for/it\nblue and green"
        );
        assert!(pod.exec(&id, "id -G").contains("3000"));
        assert_eq!(pod.exec(&id, "cat /data/file /data-ro/file"), "from the hostfrom the host");
        for forbidden in ["touch /new", "touch /data-ro/new", "echo 1 > /proc/sys/kernel/shm_rmid_forced"] {
            let reply = pod.try_exec(&id, &["sh", "-c", forbidden], 10).unwrap();
            assert_ne!(reply.exit_code, 0, "{forbidden}");
        }
        assert_eq!(pod.exec(&id, "wc -c < /proc/timer_list"), "0");
        // What an exec session may do is what the container may.
        assert!(pod.exec(&id, "grep Seccomp: /proc/self/status").contains('2'));
        let group = std::fs::read_to_string(format!("/proc/{}/cgroup", pod.pid(Some(&id)))).unwrap();
        assert!(group.contains(&format!("{}/{}/{id}", node.cgroup(), pod.id)), "{group}");
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn terminals_and_input_pass_through_another_runtime() {
    with_each(|node, handler| {
        let pod = pod(node, "tty", handler);
        let mut config = shell("main", "test -t 0 && tty; exec sleep 1000");
        config.tty = true;
        config.stdin = true;
        let id = pod.start(config);
        // A terminal ends its lines so.
        pod.await_line("main", "/dev/pts/0\r");
        pod.stop(&id, 0);
        assert_eq!(pod.status(&id).exit_code, 137);
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn ends_have_their_reasons() {
    with_each(|node, handler| {
        let pod = pod(node, "ends", handler);
        for (name, script, code, reason) in [
            ("good", "exit 0", 0, "Completed"),
            ("bad", "exit 42", 42, "Error"),
            ("shot", "kill -9 $$", 137, "Error"),
        ] {
            let mut config = shell(name, script);
            // A process that is its namespace's first is not killed by its own signals.
            if name == "shot" {
                security(&mut config).namespace_options.as_mut().unwrap().pid = NamespaceMode::Node.into();
            }
            let status = pod.end_of(&pod.start(config));
            assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
            assert!(status.started_at > 0 && status.finished_at >= status.started_at, "{status:?}");
        }
        let mut config = shell("greedy", "tail /dev/zero");
        limits(&mut config).memory_limit_in_bytes = 16 << 20;
        let status = pod.end_of(&pod.start(config));
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn what_another_runtime_refuses_is_told_and_leaves_nothing() {
    with_each(|node, handler| {
        let pod = pod(node, "refused", handler);
        let before = node.baseline();
        let mut config = shell("absent", "");
        config.command = vec!["/no/such/program".into()];
        let failure = match pod.try_create(config) {
            Err(refused) => refused,
            Ok(id) => pod.try_start(&id).unwrap_err(),
        };
        assert!(failure.message().contains(handler), "{failure}");
        assert!(failure.message().contains("no/such/program"), "{failure}");
        for container in node.cri().containers() {
            node.cri().remove_container(RemoveContainerRequest { container_id: container.id }).unwrap();
        }
        node.assert_as_before(&before);
        let mut config = shell("nobody", "true");
        security(&mut config).run_as_username = "no-such-user".into();
        let refused = pod.try_create(config).unwrap_err();
        assert!(refused.message().contains("no-such-user"), "{refused}");
        node.assert_as_before(&before);
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn handlers_are_told_and_others_are_refused_before_anything_is_made() {
    let (node, _script) = node();
    let before = node.baseline();
    let status = node.cri().status(StatusRequest::default()).unwrap();
    let names: Vec<_> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["", "berth", "crun", "runc"]);
    let run = |config: PodSandboxConfig, handler: &str| {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        node.cri().run_pod_sandbox(request).unwrap_err()
    };
    let refused = run(node.sandbox("kata"), "kata");
    assert!(
        refused.message().contains("\"kata\" is no runtime handler: there are berth, crun, runc"),
        "{refused}"
    );
    let mut config = node.sandbox("mapped");
    let mapping = IdMapping { host_id: 100_000, container_id: 0, length: 65536 };
    sandbox_namespaces(&mut config).userns_options =
        Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![mapping], gids: vec![mapping] });
    let refused = run(config, "runc");
    assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused}");
    node.assert_as_before(&before);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_runtime_with_a_root_of_its_own_keeps_nothing() {
    let root = tempfile::tempdir().unwrap();
    let settings = format!("[handlers.runc]\npath = '/usr/sbin/runc'\nroot = '{}'\n", root.path().display());
    let node = Node::start_with(&settings);
    let kept = || std::fs::read_dir(root.path()).unwrap().count();
    for dies in [false, true] {
        let pod = pod(&node, "guest", "runc");
        pod.shell("one", "exec sleep 1000");
        pod.create(shell("two", "exec sleep 1000"));
        assert_eq!(kept(), 2);
        if dies {
            let monitor = Pid::from_raw(pod.monitor_pid().try_into().unwrap()).unwrap();
            kill_process(monitor, Signal::KILL).unwrap();
        }
        pod.take_down();
        assert_eq!(kept(), 0, "monitor killed: {dies}");
    }
    // Nor does it go with a container that can't be made.
    let pod = pod(&node, "failing", "runc");
    let mut config = shell("main", "exec sleep 1000");
    security(&mut config).run_as_username = "no-such-user".into();
    pod.try_create(config).unwrap_err();
    assert_eq!(kept(), 0);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_killed_agent_finds_the_containers_of_another_runtime_again() {
    with_each(|node, handler| {
        let pod = pod(node, "survivor", handler);
        let runs = pod.shell("runs", "i=0; while :; do echo $((i=i+1)); usleep 100000; done");
        let created = pod.create(shell("created", "exec sleep 1000"));
        let ends = pod.shell("ends", "while ! test -e /dev/shm/end; do usleep 50000; done; exit 7");
        let pid = pod.pid(Some(&runs));
        node.kill9();
        let shm = format!("/proc/{pid}/root/dev/shm/end");
        std::fs::write(Path::new(&shm), "").unwrap();
        node.restart();
        let status = pod.end_of(&ends);
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
        assert_eq!(pod.status(&runs).state(), ContainerState::ContainerRunning);
        assert_eq!(pod.pid(Some(&runs)), pid);
        assert_eq!(pod.exec(&runs, "cat /proc/1/comm"), "sh");
        pod.try_start(&created).unwrap();
        assert_eq!(pod.status(&created).state(), ContainerState::ContainerRunning);
        let lines = pod.log("runs");
        let numbers: Vec<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
        assert!(numbers.iter().enumerate().all(|(at, number)| at + 1 == *number), "{numbers:?}");
    });
}
