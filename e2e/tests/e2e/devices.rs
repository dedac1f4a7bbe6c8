//! Devices of the host: what a container is given, and that it gets no further.

use std::fs;
use std::process::Command;

use berth_cri_proto::v1::{ContainerConfig, Device};
use berth_e2e::requests::{sandbox_security, security, shell};
use berth_e2e::{Node, Pod};

/// A container that waits, with these devices.
fn with_devices(devices: &[(&str, &str, &str)]) -> ContainerConfig {
    let device = |&(host_path, container_path, permissions): &(&str, &str, &str)| Device {
        host_path: host_path.into(),
        container_path: container_path.into(),
        permissions: permissions.into(),
    };
    ContainerConfig { devices: devices.iter().map(device).collect(), ..shell("main", "exec sleep 1000") }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_device_appears_where_it_was_asked_for_and_can_be_used_as_was_asked() {
    let node = Node::start();
    let pod = node.pod("devices");
    let id = pod.start(with_devices(&[
        ("/dev/zero", "/dev/deep/nothing", ""),
        ("/dev/kmsg", "/dev/log-of-the-kernel", "w"),
        ("/dev/zero", "/opt/outside", "r"),
    ]));
    assert_eq!(pod.exec(&id, "stat -c '%F %t:%T' /dev/deep/nothing"), "character special file 1:5");
    assert_eq!(pod.exec(&id, "cat /dev/deep/nothing /opt/outside | head -c 9 | wc -c"), "9");
    pod.exec(&id, ": >/dev/log-of-the-kernel");
    assert_eq!(pod.exec(&id, "(: </dev/log-of-the-kernel) 2>&1 | grep -c 'not permitted'"), "1");
    // Of what no rule speaks a node can be made, and not opened.
    assert_eq!(
        pod.exec(&id, "mknod /tmp/memory c 1 1 && (: </tmp/memory) 2>&1 | grep -c 'not permitted'"),
        "1"
    );
    assert_eq!(pod.exec(&id, "mknod /tmp/loop b 7 0 && (: </tmp/loop) 2>&1 | grep -c 'not permitted'"), "1");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_directory_brings_all_devices_in_it() {
    let node = Node::start();
    let pod = node.pod("directory");
    let directory = node.dir().join("devices");
    fs::create_dir_all(directory.join("deep")).unwrap();
    fs::write(directory.join("file"), "").unwrap();
    for (name, minor) in [("null", "3"), ("deep/zero", "5")] {
        let made = Command::new("mknod").arg(directory.join(name)).args(["c", "1", minor]).status().unwrap();
        assert!(made.success());
    }
    std::os::unix::fs::symlink("devices", node.dir().join("link")).unwrap();
    let link = node.dir().join("link");
    let id = pod.start(with_devices(&[(link.to_str().unwrap(), "/dev/ours", "rw")]));
    assert_eq!(pod.exec(&id, "cd /dev/ours && find . | sort"), ".\n./deep\n./deep/zero\n./null");
    assert_eq!(pod.exec(&id, "head -c 5 /dev/ours/deep/zero | wc -c"), "5");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_device_that_is_none_fails_the_create_by_name_and_leaves_nothing() {
    let node = Node::start();
    let pod = node.pod("missing");
    let before = node.baseline();
    for (path, want) in [("/dev/no-such-device", "No such file"), ("/etc/passwd", "neither a device nor")] {
        let error = pod.try_create(with_devices(&[(path, "/dev/x", "")])).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains(path) && error.message().contains(want), "{}", error.message());
    }
    node.assert_as_before(&before);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_privileged_container_sees_every_device_of_the_host() {
    let node = Node::start();
    let mut config = node.sandbox("privileged");
    sandbox_security(&mut config).privileged = true;
    let pod = Pod::run(&node, config);
    let mut config = shell("main", "exec sleep 1000");
    security(&mut config).privileged = true;
    let id = pod.start(config);
    let list =
        "cd /dev && find . \\( -type c -o -type b \\) ! -path './pts/*' ! -name console ! -name ptmx | sort";
    let host = Command::new("sh").args(["-c", list]).output().unwrap();
    assert_eq!(pod.exec(&id, list), String::from_utf8(host.stdout).unwrap().trim_end());
    assert_eq!(pod.exec(&id, ": >/dev/kmsg && readlink /dev/ptmx"), "pts/ptmx");
}
