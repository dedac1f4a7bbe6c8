//! Volumes of the host: what a container may do with them, and which mounts travel.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_cri_proto::v1::*;
use berth_e2e::requests::{BUSYBOX, privileged, shell, volume};
use berth_e2e::{Node, Pod};

#[test]
#[ignore = "needs root and the test images"]
fn mounts_travel_as_far_as_their_propagation_says() {
    let node = Node::start();
    let pod = Pod::privileged(&node, "propagation");
    let share = Mounted::bind(&made(node.dir().join("share")), "shared");
    for (index, (propagation, into_container, into_host)) in [
        (MountPropagation::PropagationPrivate, false, false),
        (MountPropagation::PropagationHostToContainer, true, false),
        (MountPropagation::PropagationBidirectional, true, true),
    ]
    .into_iter()
    .enumerate()
    {
        let directory = made(share.0.join(index.to_string()));
        for place in ["from-host", "from-container"] {
            made(directory.join(place));
        }
        let given = Mount { propagation: propagation.into(), ..volume(&directory, "/data") };
        let mut config = privileged(shell(&format!("main-{index}"), "exec sleep 1000"));
        config.mounts = vec![given.clone()];
        let id = pod.start(config);
        assert_eq!(pod.status(&id).mounts, [given]);

        let _mounted = Mounted::tmpfs(&directory.join("from-host"));
        fs::write(directory.join("from-host/file"), "").unwrap();
        let seen = pod.exec(&id, "ls /data/from-host");
        assert_eq!(seen == "file", into_container, "{propagation:?}");
        pod.exec(&id, "mount -t tmpfs none /data/from-container; touch /data/from-container/file");
        let back = directory.join("from-container/file").exists();
        assert_eq!(back, into_host, "{propagation:?}");
        if back {
            pod.exec(&id, "umount /data/from-container");
        }
        pod.stop(&id, 0);
    }

    // Propagation from a mount that has none is refused, and by name.
    let private = Mounted::bind(&made(node.dir().join("private")), "private");
    for (propagation, wanted) in [
        (MountPropagation::PropagationHostToContainer, "which is not shared or slave"),
        (MountPropagation::PropagationBidirectional, "which is not shared"),
    ] {
        let mut config = privileged(shell("refused", "true"));
        config.mounts = vec![Mount { propagation: propagation.into(), ..volume(&private.0, "/data") }];
        let refused = pod.try_create(config).unwrap_err();
        assert!(refused.message().contains(wanted), "{refused}");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_view_of_the_whole_host_lets_go_of_what_the_host_unmounts() {
    let node = Node::start();
    let pod = node.pod("whole");
    let share = Mounted::bind(&made(node.dir().join("share")), "shared");
    let inner = Mounted::tmpfs(&made(share.0.join("inner")));
    fs::write(inner.0.join("file"), "").unwrap();
    let mut config = shell("main", "exec sleep 1000");
    config.mounts = vec![Mount { readonly: true, ..volume(Path::new("/"), "/host") }];
    let id = pod.start(config);
    assert_eq!(pod.exec(&id, &format!("ls /host{}", inner.0.display())), "file");
    let inside = inner.0.clone();
    drop(inner);
    assert_eq!(pod.exec(&id, &format!("ls /host{}", inside.display())), "");
    assert_eq!(pod.status(&id).mounts[0].propagation(), MountPropagation::PropagationPrivate);
}

#[test]
#[ignore = "needs root and the test images"]
fn read_only_is_for_one_mount_or_for_all_below_it() {
    let node = Node::start();
    let pod = node.pod("readonly");
    let outer = made(node.dir().join("outer"));
    let _inner = Mounted::tmpfs(&made(outer.join("inner")));
    let mut config = shell("main", "exec sleep 1000");
    config.mounts = vec![
        Mount { readonly: true, ..volume(&outer, "/plain") },
        Mount { readonly: true, recursive_read_only: true, ..volume(&outer, "/all") },
    ];
    let mounts = config.mounts.clone();
    let id = pod.start(config);
    pod.exec(&id, "! touch /plain/x && touch /plain/inner/x && ! touch /all/x && ! touch /all/inner/y");
    assert!(outer.join("inner/x").exists() && !outer.join("inner/y").exists());
    assert_eq!(pod.status(&id).mounts, mounts);
}

#[test]
#[ignore = "needs root and the test images"]
fn options_take_rights_away() {
    let node = Node::start();
    let pod = node.pod("options");
    let files = made(node.dir().join("files"));
    fs::write(files.join("program"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(files.join("program"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    run(Command::new("mknod").arg(files.join("null")).args(["c", "1", "3"]));
    let with = |target: &str, options: &[&str]| Mount {
        mount_options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..volume(&files, target)
    };
    let mut config = shell("main", "exec sleep 1000");
    config.mounts = vec![with("/free", &[]), with("/bound", &["noexec", "nodev", "nosuid"])];
    let mounts = config.mounts.clone();
    let id = pod.start(config);
    assert_eq!(pod.exec(&id, "/free/program; echo x >/free/null"), "ran");
    pod.exec(&id, "! /bound/program && ! cat /bound/null");
    pod.exec(&id, "grep ' /bound ' /proc/mounts | grep nosuid");
    assert_eq!(pod.status(&id).mounts, mounts);
    assert!(node.cri().status(StatusRequest::default()).unwrap().features.unwrap().mount_options);
}

#[test]
#[ignore = "needs root and the test images"]
fn places_are_found_inside_whatever_paths_say() {
    let node = Node::start();
    let pod = node.pod("places");
    let real = made(node.dir().join("real"));
    fs::write(real.join("note"), "real").unwrap();
    symlink(&real, node.dir().join("link")).unwrap();
    let missing = node.dir().join("missing/deep");
    let mut config = shell("main", "exec sleep 1000");
    config.mounts = vec![
        volume(&real, "/a/b/c"),
        volume(&node.dir().join("link"), "/a"),
        volume(&real.join("note"), "/a/b/file"),
        volume(&missing, "/x/../../missing"),
        volume(&real.join("note"), "/etc/../etc/hosts"),
    ];
    let id = pod.start(config);
    let shown = "cat /a/note /a/b/c/note /a/b/file /etc/hosts; ls -d /missing; touch /missing/x";
    assert_eq!(pod.exec(&id, shown), "realrealrealreal/missing");
    assert!(missing.join("x").exists(), "a host path that was missing is made");
    assert_eq!(pod.exec(&id, "grep -c ' /etc/hosts ' /proc/mounts"), "1");

    // An image whose directory is a link: what is mounted lands where it leads inside, and not on the host.
    let outside = made(node.dir().join("outside"));
    let base = made(node.dir().join("base"));
    symlink(&outside, base.join("leads-out")).unwrap();
    let mut config = shell("links", "exec sleep 1000");
    config.mounts = vec![volume(&base, "/base"), volume(&real, "/base/leads-out/in")];
    let id = pod.start(config);
    assert_eq!(pod.exec(&id, &format!("cat {}/in/note", outside.display())), "real");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root and the test images"]
fn what_the_kernel_says_of_processes_is_not_hidden() {
    let node = Node::start();
    let pod = node.pod("proc");
    let files = made(node.dir().join("files"));
    fs::write(files.join("meminfo"), "none").unwrap();
    symlink("/proc", files.join("kernel")).unwrap();
    let refusals = [
        (vec![volume(&files, "/proc/self")], "inside /proc only"),
        (vec![volume(&files, "/proc/sys/kernel")], "inside /proc only"),
        (vec![volume(&files, "/proc")], "/proc: Operation not permitted"),
        (vec![volume(&files, "/files"), volume(&files, "/files/kernel/sys")], "Operation not permitted"),
    ];
    for (mounts, want) in refusals {
        let refused = pod.try_create(ContainerConfig { mounts, ..shell("refused", "true") }).unwrap_err();
        assert!(refused.message().contains(want), "{refused}");
    }
    let mut config = shell("main", "exec sleep 1000");
    config.mounts = vec![volume(&files.join("meminfo"), "/proc/meminfo")];
    let id = pod.start(config);
    assert_eq!(pod.exec(&id, "cat /proc/meminfo"), "none");
    let mut config = shell("host", "exec sleep 1000");
    config.mounts = vec![volume(Path::new("/proc"), "/proc")];
    let host = pod.start(config);
    let agent = node.agent_pid();
    pod.exec(&host, &format!("test -d /proc/{agent}"));
}

#[test]
#[ignore = "needs root and the test images"]
fn nothing_of_volumes_is_left_on_the_host() {
    let node = Node::start();
    let pod = node.pod("traces");
    // Others may mount what they like meanwhile.
    let table = || {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = |line: &&str| line.contains(node.dir().to_str().unwrap());
        table.lines().filter(own).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = table();
    let files = made(node.dir().join("files"));
    let mut config = shell("main", "exec sleep 1000");
    let image = ImageSpec { image: BUSYBOX.into(), ..ImageSpec::default() };
    config.mounts = vec![
        volume(&files, "/files"),
        Mount { container_path: "/image".into(), image: Some(image), readonly: true, ..Mount::default() },
    ];
    pod.start(config);
    assert_eq!(table(), before);
}

#[test]
#[ignore = "needs root and the test images"]
fn what_somebody_mounted_in_a_pods_directory_outlives_the_pod() {
    let node = Node::start();
    let pod = node.pod("host-of-others");
    let kept = made(node.dir().join("kept"));
    std::fs::write(kept.join("file"), "precious").unwrap();
    let point = made(node.dir().join("state/pods").join(&pod.id).join("stray"));
    run(Command::new("mount").arg("--bind").args([&kept, &point]));
    let cri = node.cri();
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }).unwrap();
    let remove = || cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() });
    let refused = remove().unwrap_err();
    assert!(refused.message().contains("mounted at or below"), "{refused}");
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "precious");
    run(Command::new("umount").arg(&point));
    remove().unwrap();
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "precious");
}

#[test]
#[ignore = "needs root and the test images"]
fn directories_in_each_other_are_removed_however_deep_they_are() {
    let node = Node::start();
    node.pod("first").take_down();
    let before = node.baseline();
    let pod = node.pod("digger");
    let hundred = "d/".repeat(100);
    let dig = format!(
        "cd /tmp; i=0; while [ $i -lt 40 ]; do mkdir -p {hundred} && cd {hundred}; i=$((i+1)); done; echo $i"
    );
    let container = pod.shell("main", &dig);
    pod.end_of(&container);
    pod.await_line("main", "40");
    pod.take_down();
    node.assert_as_before(&before);
}

fn made(directory: PathBuf) -> PathBuf {
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// A mount on the host, which is unmounted with this value.
struct Mounted(PathBuf);

impl Mounted {
    /// A directory on itself, with this propagation.
    fn bind(directory: &Path, propagation: &str) -> Self {
        run(Command::new("mount").arg("--bind").args([directory, directory]));
        let mounted = Self(directory.to_owned());
        run(Command::new("mount").arg(format!("--make-{propagation}")).arg(directory));
        mounted
    }

    fn tmpfs(directory: &Path) -> Self {
        run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(directory));
        Self(directory.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
