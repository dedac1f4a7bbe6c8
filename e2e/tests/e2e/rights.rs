//! What a container may do and sees, and what a pod is given by its kubelet.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use berth_e2e::requests::{limits, security, shell};
use berth_e2e::{Node, Pod};

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
fn labels_and_annotations_come_back_byte_for_byte() {
    let node = Node::start();
    let odd: HashMap<String, String> = [
        ("example.com/empty".to_owned(), String::new()),
        ("example.com/json".to_owned(), "{\"a\": \"\\u00fc\\n\"}\n\t".to_owned()),
        ("example.com/unicode".to_owned(), "\u{fc}\u{1f6f3}\u{202e}".to_owned()),
        ("example.com/large".to_owned(), "x".repeat(250 << 10)),
    ]
    .into();
    let mut config = node.sandbox("odd");
    (config.labels, config.annotations) = (odd.clone(), odd.clone());
    let pod = Pod::run(&node, config);
    let mut config = shell("main", "true");
    (config.labels, config.annotations) = (odd.clone(), odd.clone());
    let id = pod.create(config);
    let check = || {
        let (sandbox, container) = (node.cri().sandbox(&pod.id).unwrap(), pod.status(&id));
        assert!(sandbox.labels == odd && sandbox.annotations == odd);
        assert!(container.labels == odd && container.annotations == odd);
        assert!(
            node.cri().sandboxes()[0].annotations == odd && node.cri().containers()[0].annotations == odd
        );
    };
    check();
    node.kill9();
    node.restart();
    check();
}

#[test]
#[ignore = "needs root and the test images"]
fn a_cgroup_parent_is_used_and_left_to_its_owner() {
    let node = Node::start();
    let parent = format!("{}/kubepods/pod-1", node.cgroup());
    // On version 2 one directory, on version 1 one for each controller.
    let mount = PathBuf::from("/sys/fs/cgroup");
    let hierarchies: Vec<_> = if mount.join("cgroup.controllers").exists() {
        vec![mount]
    } else {
        fs::read_dir(mount)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.is_symlink())
            .collect()
    };
    let directories: Vec<_> = hierarchies.iter().map(|path| path.join(&parent[1..])).collect();
    for directory in &directories {
        fs::create_dir_all(directory).unwrap();
    }
    let mut config = node.sandbox("guest");
    config.linux.as_mut().unwrap().cgroup_parent = parent.clone();
    let pod = Pod::run(&node, config);
    let id = pod.shell("main", "exec sleep 1000");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", pod.pid(Some(&id)))).unwrap();
    assert!(cgroups.contains(&format!(":{parent}/{id}")), "{cgroups}");
    pod.take_down();
    for directory in &directories {
        let left: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(left.iter().all(|entry| entry.file_type().unwrap().is_file()), "{left:?}");
    }
    // As a kubelet does.
    for directory in &directories {
        fs::remove_dir(directory).unwrap();
        fs::remove_dir(directory.parent().unwrap()).unwrap();
    }
}
