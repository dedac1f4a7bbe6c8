//! Pods with user namespaces: who is root where, and what belongs to whom.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use berth_cri_proto::v1::*;
use berth_e2e::requests::{limits, sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod};

/// Where the ids of most pods here begin on the host, and how many there are.
const IDS: (u32, u32) = (100_000, 65_536);

#[test]
#[ignore = "needs root and the test images"]
fn root_inside_is_nobody_outside_and_owns_its_namespaces() {
    let node = Node::start();
    let (pod, config) = pod_with_users(&node, "mapped", |_| {});
    let id = pod.start(config("main", "exec sleep 1000"));
    let pid = pod.pid(Some(&id));

    assert_eq!(words(&pod.exec(&id, "cat /proc/self/uid_map")), ["0", "100000", "65536"]);
    assert_eq!(words(&pod.exec(&id, "cat /proc/1/gid_map")), ["0", "100000", "65536"]);
    assert_eq!(pod.exec(&id, "id -u; id -g"), "0\n0");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("\nUid:\t100000\t100000\t100000\t100000\n"), "{status}");
    let pause = pod.pid(None);
    assert!(!fs::read_to_string(format!("/proc/{pause}/status")).unwrap().contains("\nUid:\t0\t"));

    // Namespaces belong to the pod, and through them what is in them.
    let users = namespace(pid, "user");
    assert_eq!(users, namespace(pause, "user"));
    assert_ne!(users, namespace(std::process::id(), "user"));
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(pid, kind), namespace(pause, kind), "{kind}");
    }
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        assert_eq!(owner_of(pid, kind), users, "{kind}");
    }
    let owner = "stat -c %u:%g / /etc/passwd /proc/sys/net/ipv4/ip_forward /sys/class/net/lo/mtu /dev /dev/pts /dev/shm /dev/null \
                 /etc/hosts /etc/hostname /etc/resolv.conf";
    let owners = pod.exec(&id, owner);
    assert!(words(&owners).iter().all(|owner| *owner == "0:0"), "{owners}");

    // What it writes is its users' outside, and what it only reads stays the image's.
    pod.exec(
        &id,
        "echo mine >/root/note; mkdir -p /srv/a; chown web /srv/a; touch /etc/passwd; echo x >/dev/null",
    );
    let upper = node.dir().join("root/containers").join(&id).join("upper");
    let owner = |path: &str| fs::metadata(upper.join(path)).unwrap().uid();
    assert_eq!(
        [owner(""), owner("root/note"), owner("srv/a"), owner("etc/passwd")],
        [100_000, 100_000, 101_000, 100_000]
    );
}

#[test]
#[ignore = "needs root and the test images"]
fn a_user_namespace_of_one_user_has_terminals_too() {
    let node = Node::start();
    let (pod, config) = pod_with_users(&node, "tiny", |config| {
        let one = vec![IdMapping { host_id: 0, container_id: 0, length: 1 }];
        let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: one.clone(), gids: one };
        sandbox_namespaces(config).userns_options = Some(users);
    });
    let id = pod.start(config("main", "exec sleep 1000"));
    assert_eq!(words(&pod.exec(&id, "cat /proc/self/gid_map")), ["0", "0", "1"]);
    pod.exec(&id, "test -c /dev/pts/ptmx && echo x >/dev/shm/x");
}

#[test]
#[ignore = "needs root and the test images"]
fn rights_inside_are_rights_over_the_pod_only() {
    let node = Node::start();
    let (pod, config) = pod_with_users(&node, "rights", |config| {
        let sysctls = [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shm_rmid_forced", "1")];
        config.linux.as_mut().unwrap().sysctls =
            sysctls.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    });
    let mut admin = config("admin", "exec sleep 1000");
    security(&mut admin).capabilities.get_or_insert_default().add_capabilities =
        vec!["SYS_ADMIN".into(), "NET_ADMIN".into()];
    let admin = pod.start(admin);
    assert_eq!(pod.exec(&admin, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80");
    assert_eq!(pod.exec(&admin, "cat /proc/sys/kernel/shm_rmid_forced"), "1");
    pod.exec(&admin, "mount -t tmpfs none /mnt 2>/dev/null || { mkdir /mnt && mount -t tmpfs none /mnt; }");
    pod.exec(&admin, "ip link set lo mtu 1400; ip link show lo | grep -q 'mtu 1400'");
    // Nothing of the machine's, whatever the capabilities say.
    for forbidden in ["mknod /tmp/disk b 8 0", "echo 1 >/proc/sys/kernel/panic", "umount /proc/sys"] {
        let reply = pod.try_exec(&admin, &["sh", "-c", forbidden], 0).unwrap();
        assert_ne!(reply.exit_code, 0, "{forbidden}");
    }

    let mut user = config(
        "user",
        "id -u; echo $HOME; cat /dev/stdin >/dev/stdout; echo again >/dev/stderr; exec sleep 1000",
    );
    security(&mut user).run_as_username = "web".into();
    security(&mut user).supplemental_groups = vec![4242];
    limits(&mut user).oom_score_adj = 500;
    let user = pod.start(user);
    pod.await_line("user", "again");
    assert_eq!(pod.log("user")[..2], ["1000", "/home/web"]);
    assert_eq!(
        pod.exec(&user, "id -u; cat /proc/self/oom_score_adj; cat /proc/1/oom_score_adj"),
        "1000\n500\n500"
    );
    assert!(words(&pod.exec(&user, "id -G")).contains(&"4242".to_owned()));
    assert_eq!(pod.status(&user).user.unwrap().linux.unwrap().uid, 1000);
    let outside = fs::read_to_string(format!("/proc/{}/status", pod.pid(Some(&user)))).unwrap();
    assert!(outside.contains("\nUid:\t101000\t"), "{outside}");
    assert!(outside.lines().any(|line| line.starts_with("Groups:") && line.contains("104242")), "{outside}");

    // A user that the namespace does not have.
    let mut stranger = config("stranger", "true");
    security(&mut stranger).run_as_user = Some(Int64Value { value: 65_536 });
    assert!(
        pod.try_create(stranger)
            .unwrap_err()
            .message()
            .contains("id 65536 is not in the pod's user namespace")
    );
}

#[test]
#[ignore = "needs root and the test images"]
fn volumes_are_shown_with_the_pods_ids_when_asked_for() {
    let node = Node::start();
    let (pod, config) = pod_with_users(&node, "volumes", |_| {});
    let volume = node.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("old"), "").unwrap();
    let (mapped, plain) = (mount(&volume, "/mapped", true), mount(&volume, "/plain", false));
    let mut main = config("main", "exec sleep 1000");
    let device = mount(&volume.join("old"), "/dev/tty", false);
    main.mounts = vec![mapped.clone(), plain.clone(), device.clone()];
    let id = pod.start(main);
    assert_eq!(pod.exec(&id, "stat -c %u /mapped/old /plain/old"), "0\n65534");
    pod.exec(&id, "touch /mapped/new; chown web /mapped/new; ! touch /plain/other");
    assert_eq!(fs::metadata(volume.join("new")).unwrap().uid(), 1000);
    pod.exec(&id, "test -f /dev/tty && test -c /dev/zero");
    assert_eq!(pod.status(&id).mounts, [mapped, plain, device]);

    // Mappings that are not the pod's mean nothing.
    let mut bad = config("bad", "true");
    bad.mounts = vec![mount(&volume, "/x", true)];
    bad.mounts[0].uid_mappings[0].host_id += 1;
    let refused = pod.try_create(bad).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("config.mounts[0].uidMappings: "), "{refused}");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_user_namespace_goes_with_a_shared_pid_namespace_and_with_the_hosts_network() {
    let node = Node::start();
    let (pod, config) = pod_with_users(&node, "one-tree", |config| {
        sandbox_namespaces(config).pid = NamespaceMode::Pod.into();
    });
    let first = pod.start(config("first", "exec sleep 1001"));
    let second = pod.start(config("second", "exec sleep 1002"));
    assert!(pod.exec(&second, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains("sleep 1001"));
    assert_eq!(namespace(pod.pid(Some(&first)), "pid"), namespace(pod.pid(None), "pid"));
    assert_eq!(owner_of(pod.pid(Some(&first)), "pid"), namespace(pod.pid(None), "user"));

    let (host, config) = pod_with_users(&node, "host-net", |config| {
        sandbox_namespaces(config).network = NamespaceMode::Node.into();
    });
    let id = host.start(config("main", "exec sleep 1000"));
    assert_eq!(host.exec(&id, "ls /sys/class/net | grep lo; ! touch /sys/kernel/x"), "lo");
    assert_eq!(host.exec(&id, "grep -c ' /sys sysfs ro,' /proc/mounts"), "1");
    assert_eq!(
        namespace(host.pid(Some(&id)), "net"),
        node.site().run("readlink", &["/proc/self/ns/net"]).trim()
    );
    let features = node.cri().status(StatusRequest::default()).unwrap();
    assert!(features.features.unwrap().user_namespaces_host_network);
    assert!(features.runtime_handlers.iter().all(|handler| handler.features.unwrap().user_namespaces));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_terminal_and_a_failed_step_work_inside_too() {
    let node = Node::start();
    let (pod, config) = pod_with_users(&node, "details", |_| {});
    let mut tty = config("tty", "tty; stat -c %u /dev/console; exec sleep 1000");
    tty.tty = true;
    pod.start(tty);
    pod.await_line("tty", "0\r");
    assert!(pod.log("tty")[0].starts_with("/dev/"), "{:?}", pod.log("tty"));

    let mut missing = config("missing", "true");
    missing.command = vec!["/no/such/program".into()];
    let id = pod.create(missing);
    assert!(pod.try_start(&id).is_err());
    let status = pod.end_of(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    // The agent and the monitor both know its end, and no process of its birth is left behind.
    let quick = pod.start(config("quick", "exit 7"));
    assert_eq!(pod.end_of(&quick).exit_code, 7);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pod.monitor_pid())).unwrap();
    assert_eq!(words(&children).len(), 2, "pause and the one with the terminal: {children}");

    node.kill9();
    node.restart();
    assert_eq!(pod.status(&quick).exit_code, 7);
    let config = node.cri().sandbox(&pod.id).unwrap().linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(config.userns_options, Some(users()));
}

/// The ids of a pod's own.
pub(crate) fn users() -> UserNamespace {
    let mapping = vec![IdMapping { container_id: 0, host_id: IDS.0, length: IDS.1 }];
    UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping.clone(), gids: mapping }
}

/// Makes the request for a shell in a pod: name and script.
type Requests = Box<dyn Fn(&str, &str) -> ContainerConfig>;

/// A pod with a user namespace, and what makes requests for shells in it.
fn pod_with_users<'a>(
    node: &'a Node,
    name: &str,
    change: impl FnOnce(&mut PodSandboxConfig),
) -> (Pod<'a>, Requests) {
    let mut config = node.sandbox(name);
    sandbox_namespaces(&mut config).userns_options = Some(users());
    change(&mut config);
    let options = sandbox_namespaces(&mut config).clone();
    let pod = Pod::run(node, config);
    let request = move |name: &str, script: &str| {
        let mut config = shell(name, script);
        security(&mut config).namespace_options = Some(options.clone());
        config
    };
    (pod, Box::new(request))
}

fn mount(volume: &std::path::Path, target: &str, mapped: bool) -> Mount {
    let UserNamespace { uids, gids, .. } = users();
    fs::set_permissions(volume, PermissionsExt::from_mode(0o755)).unwrap();
    Mount {
        host_path: volume.to_str().unwrap().into(),
        container_path: target.into(),
        uid_mappings: if mapped { uids } else { vec![] },
        gid_mappings: if mapped { gids } else { vec![] },
        ..Mount::default()
    }
}

fn namespace(pid: u32, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

/// The user namespace that owns a namespace, as `lsns` finds it.
fn owner_of(pid: u32, kind: &str) -> String {
    let inode = namespace(pid, kind).trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
    let output = Command::new("lsns").args(["-n", "-r", "-o", "NS,ONS", "-t", kind]).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let owner = table.lines().find_map(|line| line.strip_prefix(&format!("{inode} ")));
    format!("user:[{}]", owner.unwrap_or_else(|| panic!("{kind} {inode}: {table}")))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
