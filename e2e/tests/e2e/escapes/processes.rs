//! What a process in a container has of the runtime's, or can see of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use berth_cri_proto::v1::{ContainerConfig, NamespaceMode};
use berth_e2e::requests::{container, sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod};
use rustix::fs::{StatVfsMountFlags, fstatvfs};
use serde_json::json;

use super::images::{Images, Layer, image};

/// Numbers of descriptors that a leaked one might have.
const DESCRIPTORS: std::ops::Range<usize> = 0..24;

/// CVE-2019-5736, CVE-2016-9962: a process on its way into a container still is the runtime's program and has its
/// descriptors. Others in its pid namespace can't look into it, and nobody can write to the program by way of
/// `/proc/PID/exe`: not even later, when nothing runs it any more.
#[test]
#[ignore = "needs root and the test images"]
fn nothing_of_the_runtime_can_be_reached_through_its_processes() {
    let node = Node::start();
    let mut config = node.sandbox("shared");
    sandbox_namespaces(&mut config).pid = NamespaceMode::Pod.into();
    let pod = Pod::run(&node, config);
    let in_the_pods = |name: &str| {
        let mut config = shell(name, "exec sleep 1000");
        security(&mut config).namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
        config
    };
    let looker = pod.start(in_the_pods("looker"));
    // At its gate it is the runtime's still.
    let waiting = pod.create(in_the_pods("waiting"));
    let look = "for p in /proc/[0-9]*; do read name <$p/comm; case $name in sh|sleep) continue;; esac; echo met $name; \
        for file in exe environ maps; do { echo opened $p/$file; } <$p/$file; done; \
        for fd in $p/fd/*; do { echo opened $fd; } <$fd; done; \
        for directory in root cwd; do ls $p/$directory/ && echo listed $p/$directory; done; \
        done 2>/dev/null; true";
    let seen = pod.exec(&looker, look);
    assert_eq!(
        seen.lines().filter(|line| line.starts_with("met ")).count(),
        2,
        "pause and the other: {seen}"
    );
    assert!(!seen.contains("opened") && !seen.contains("listed"), "{seen}");

    let zygote = node.process("zygote").unwrap() as u32;
    for pid in [zygote, pod.monitor_pid(), pod.pid(None), pod.pid(Some(&waiting))] {
        // While a program runs, the kernel lets nobody write to its file anyhow; this is how it is seen ever after.
        let seen = File::open(format!("/proc/{pid}/exe")).unwrap();
        let flags = fstatvfs(&seen).unwrap().f_flag;
        assert!(flags.contains(StatVfsMountFlags::RDONLY), "process {pid}: {flags:?}");
    }
}

/// What pause, the first process of a pod with one process tree, still has of the agent's, for one who may look into it;
/// and what it lets pile up.
#[test]
#[ignore = "needs root and the test images"]
fn the_first_process_of_a_pod_tells_nothing_and_keeps_no_signal() {
    let node = Node::start();
    let mut config = node.sandbox("shared");
    sandbox_namespaces(&mut config).pid = NamespaceMode::Pod.into();
    let pod = Pod::run(&node, config);
    let mut config = shell("looker", "exec sleep 1000");
    let rights = security(&mut config);
    rights.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
    rights.capabilities.get_or_insert_default().add_capabilities = vec!["SYS_PTRACE".into()];
    let looker = pod.start(config);
    assert_eq!(pod.exec(&looker, "tr -d '\\0' </proc/1/cmdline | head -c 6"), "pause:");
    assert_eq!(pod.exec(&looker, "tr -d '\\0' </proc/1/environ | wc -c"), "0");
    let signals = "for number in 1 10 15 17 34 40 64; do kill -$number 1; kill -$number 1; done";
    pod.exec(&looker, signals);
    let waiting = pod
        .exec(&looker, "grep -E '^(SigPnd|ShdPnd|SigBlk)' /proc/1/status | grep -vc 0000000000000000; true");
    assert_eq!(waiting, "0");
    pod.take_down();
}

/// CVE-2024-21626: a descriptor of the runtime's that leads to the host's files is still open when the program starts, or
/// already when the working directory is entered.
#[test]
#[ignore = "needs root and the test images"]
fn no_descriptor_of_the_runtimes_comes_along() {
    let links = DESCRIPTORS.fold(Layer::new(), |layer, number| {
        layer.symlink(&format!("fd{number}"), Path::new(&format!("/proc/self/fd/{number}")))
    });
    let images = Images::new().with("links", links, &json!({}));
    let node = images.node();
    let pod = node.pod("descriptors");
    for number in DESCRIPTORS {
        for directory in
            [format!("/proc/self/fd/{number}"), format!("/fd{number}/.."), format!("/fd{number}")]
        {
            let config = ContainerConfig {
                command: vec!["pwd".into()],
                working_dir: directory.clone(),
                ..container("entering", &image("links"))
            };
            assert!(pod.try_create(config).is_err(), "{directory} was entered");
        }
    }
    let id = pod.shell("main", "exec sleep 1000");
    let mut open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", pod.pid(Some(&id))))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    open.sort();
    assert_eq!(open, ["0", "1", "2"], "of the container");
    // The last is that of the directory which is read.
    assert_eq!(pod.exec(&id, "exec ls /proc/self/fd"), "0\n1\n2\n3", "of a session");
}

/// CVE-2022-29162, CVE-2022-24769: inheritable capabilities that nobody asked for are raised by programs with such in
/// their files.
#[test]
#[ignore = "needs root and the test images"]
fn capabilities_are_not_inherited_unasked() {
    let node = Node::start();
    let pod = node.pod("capabilities");
    for (name, user) in [("root", "root"), ("user", "web")] {
        let mut config = shell(name, "exec sleep 1000");
        let rights = security(&mut config);
        rights.run_as_username = user.into();
        rights.capabilities.get_or_insert_default().add_capabilities = vec!["SYS_PTRACE".into()];
        let id = pod.start(config);
        for process in ["1", "self"] {
            for set in ["CapInh", "CapAmb"] {
                let line = pod.exec(&id, &format!("grep ^{set}: /proc/{process}/status"));
                assert_eq!(
                    line.split_whitespace().nth(1),
                    Some("0000000000000000"),
                    "{name} {process} {set}"
                );
            }
        }
    }
}

/// CVE-2020-15257: a socket with an abstract name can be connected to from any container with the host's network.
#[test]
#[ignore = "needs root and the test images"]
fn no_socket_of_the_runtimes_can_be_reached_over_the_network_namespace() {
    let node = Node::start();
    let mut config = node.sandbox("host");
    sandbox_namespaces(&mut config).network = NamespaceMode::Node.into();
    let pod = Pod::run(&node, config);
    let mut config = shell("main", "exec sleep 1000");
    security(&mut config).namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
    let id = pod.start(config);
    let sockets = pod.exec(&id, "cat /proc/net/unix");
    // Those with a path are seen here, so the others would be as well.
    assert!(sockets.contains("/monitor.sock"), "{sockets}");
    assert!(!sockets.contains(" @"), "{sockets}");
    let found = sockets_below(&node.dir().join("state"));
    assert!(found.len() >= 2, "{found:?}");
    for path in found {
        let open_to_all = path.ancestors().all(|above| mode(above).unwrap() & 0o007 != 0);
        assert!(!open_to_all, "{} is anybody's", path.display());
    }
}

fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::symlink_metadata(path)?.permissions().mode())
}

fn sockets_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(sockets_below(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path());
        }
    }
    found
}
