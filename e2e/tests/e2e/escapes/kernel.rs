//! What the kernel shows as files, and what a container would like to have in their place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use berth_cri_proto::v1::RunPodSandboxRequest;
use berth_e2e::Node;
use berth_e2e::requests::{container, security, shell, volume};
use serde_json::json;

use super::images::{Images, Layer, image};
use super::made;

/// The program in here is run by the kernel, on the host, when any process crashes.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// The machine's parameter as it was, put back whatever a test has done.
struct CorePattern(String);

impl CorePattern {
    fn remembered() -> Self {
        Self(core_pattern())
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        if core_pattern() != self.0 {
            fs::write(CORE_PATTERN, &self.0).unwrap();
        }
    }
}

fn core_pattern() -> String {
    fs::read_to_string(CORE_PATTERN).unwrap()
}

/// CVE-2020-10749: a pod poses as a router to other pods and to the host, also where the network has no IPv6 for pods.
#[test]
#[ignore = "needs root and the test images"]
fn no_pod_can_pose_as_a_router() {
    let node = Node::start();
    let pod = node.pod("believer");
    let id = pod.start(shell("main", "exec sleep 1000"));
    assert_eq!(pod.exec(&id, "cat /proc/sys/net/ipv6/conf/eth0/accept_ra"), "0");
    let of_bridge = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", node.bridge());
    assert_eq!(node.site().run("cat", &[&of_bridge]).trim(), "0");
    pod.take_down();
}

/// CVE-2022-0811: a parameter of the machine's among those of a pod, by its name or smuggled in with another's.
#[test]
#[ignore = "needs root and the test images"]
fn a_pod_sets_no_parameter_of_the_machines() {
    let (node, pattern) = (Node::start(), CorePattern::remembered());
    let smuggled = "kernel.core_pattern=|/bin/false";
    let cases = [
        ("kernel.core_pattern", "|/bin/false".to_owned()),
        ("kernel/core_pattern", "|/bin/false".to_owned()),
        ("net/../kernel/core_pattern", "|/bin/false".to_owned()),
        ("net.ipv4.../../kernel.core_pattern", "|/bin/false".to_owned()),
        ("kernel.shm_rmid_forced", format!("1+{smuggled}")),
        ("kernel.shm_rmid_forced", format!("1\n{smuggled}")),
        (&format!("kernel.shm_rmid_forced=1+{smuggled}"), String::new()),
        (&format!("kernel.shm_rmid_forced\n{smuggled}"), "1".to_owned()),
    ];
    for (name, value) in cases {
        let mut config = node.sandbox("parameters");
        config.linux.as_mut().unwrap().sysctls.insert(name.into(), value.clone());
        let made =
            node.cri().run_pod_sandbox(RunPodSandboxRequest { config: Some(config), ..Default::default() });
        assert_eq!(core_pattern(), pattern.0, "{name:?}: {value:?}");
        assert!(made.is_err(), "{name:?}: {value:?}");
    }
}

/// CVE-2025-31133: what masks a path is the container's `/dev/null`, and something else in its place would be shown there.
#[test]
#[ignore = "needs root and the test images"]
fn nothing_but_the_null_device_masks_a_path() {
    let node = Node::start();
    let pod = node.pod("masks");
    let dev = |name: &str| made(node.dir().join(name));
    symlink(CORE_PATTERN, dev("link").join("null")).unwrap();
    fs::write(dev("file").join("null"), "shown").unwrap();
    made(dev("directory").join("null"));
    for name in ["link", "file", "directory", "nothing"] {
        let mut config = shell(name, "exec sleep 1000");
        config.mounts = vec![volume(&dev(name), "/dev")];
        security(&mut config).masked_paths = vec!["/proc/version".into()];
        let refused = pod.try_create(config).unwrap_err();
        assert!(refused.message().contains("/dev/null"), "{name}: {refused}");
    }
}

/// CVE-2025-52565: a terminal is mounted as `/dev/console`, and a link there has it mounted where it hides what is to be
/// masked.
#[test]
#[ignore = "needs root and the test images"]
fn a_terminal_is_the_console_and_nothing_else() {
    let node = Node::start();
    let pod = node.pod("console");
    let config = |name: &str| {
        let dev = made(node.dir().join(name));
        made(dev.join("pts"));
        let mut config = shell(name, "exec sleep 1000");
        config.tty = true;
        config.mounts = vec![volume(&dev, "/dev"), volume(Path::new("/dev/pts"), "/dev/pts")];
        (dev, config)
    };
    let (_, plain) = config("plain");
    let id = pod.start(plain);
    pod.exec(&id, "grep ' /dev/console ' /proc/mounts");
    let (dev, linked) = config("linked");
    symlink("/proc/sys/kernel/domainname", dev.join("console")).unwrap();
    let refused = pod.try_create(linked).unwrap_err();
    assert!(refused.message().contains("/dev/console"), "{refused}");
}

/// CVE-2025-52881, CVE-2019-19921: what the runtime writes to `/proc` decides what confines a process. Something else in
/// its place takes the writes, or leads them to where they do harm.
#[test]
#[ignore = "needs root and the test images"]
fn the_runtime_writes_to_no_proc_of_a_containers_making() {
    let link = Layer::new().directory("fake").symlink("proc", Path::new("/fake"));
    let images = Images::new().with("link", link, &json!({}));
    let node = images.node();
    let pod = node.pod("proc");
    let refused = pod.try_create(container("link", &image("link"))).unwrap_err();
    assert!(refused.message().contains("/proc"), "{refused}");

    // One that may mount lays its own over /proc, and waits for a session to come.
    let mut config = shell("faker", "exec sleep 1000");
    security(&mut config).capabilities.get_or_insert_default().add_capabilities = vec!["SYS_ADMIN".into()];
    let id = pod.start(config);
    let fake = "mkdir /fake; mount -t tmpfs none /fake; \
        for process in self thread-self; do mkdir -p /fake/$process/attr/apparmor /fake/$process/fd; \
        for file in oom_score_adj attr/exec attr/apparmor/exec uid_map setgroups; do : >/fake/$process/$file; done; done; \
        mkdir -p /fake/sys/kernel; mount --bind /fake /proc";
    pod.exec(&id, fake);
    assert_eq!(pod.exec(&id, "echo here; find /proc/ -type f -size +0"), "here");
}
