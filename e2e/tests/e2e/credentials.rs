//! As whom a container runs and with which capabilities, in its first process and in exec sessions alike.

use berth_cri_proto::v1::security_profile::ProfileType;
use berth_cri_proto::v1::{
    ContainerConfig, Int64Value, LinuxContainerSecurityContext, SecurityProfile, SupplementalGroupsPolicy,
};
use berth_e2e::requests::{security, shell};
use berth_e2e::{Node, Pod};
use tonic::Code;

const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_RAW: u64 = 1 << 13;
const DEFAULT: u64 = 0xa804_25fb;

/// A container that sleeps, with rights of its own.
fn sleeper(name: &str, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut config = shell(name, "exec sleep 1000");
    change(security(&mut config));
    config
}

/// A field of the status of a process in a container, its words apart by one space.
#[track_caller]
fn field(pod: &Pod<'_>, id: &str, process: &str, name: &str) -> String {
    let line = pod.exec(id, &format!("grep ^{name}: /proc/{process}/status"));
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn set(pod: &Pod<'_>, id: &str, process: &str, name: &str) -> u64 {
    u64::from_str_radix(&field(pod, id, process, name), 16).unwrap()
}

/// A name, what is asked for, and the user, group and groups that come of it.
type UserCase = (&'static str, fn(&mut LinuxContainerSecurityContext), (i64, i64, &'static [i64]));

fn number(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

/// The capabilities of this process, which are those of the agents that it starts.
fn own_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

#[test]
#[ignore = "needs root and the test images"]
fn ambient_capabilities_survive_the_change_to_another_user() {
    let node = Node::start();
    let pod = node.pod("ambient");
    for (name, no_new_privs, profile) in [
        ("plain", false, ProfileType::Unconfined),
        ("no-new-privs", true, ProfileType::Unconfined),
        ("filtered", false, ProfileType::RuntimeDefault),
        ("both", true, ProfileType::RuntimeDefault),
    ] {
        let id = pod.start(sleeper(name, |rights| {
            rights.run_as_user = number(1000);
            rights.no_new_privs = no_new_privs;
            rights.seccomp =
                Some(SecurityProfile { profile_type: profile.into(), ..SecurityProfile::default() });
            let capabilities = rights.capabilities.get_or_insert_default();
            capabilities.drop_capabilities = vec!["ALL".into()];
            capabilities.add_capabilities = vec!["NET_RAW".into()];
            capabilities.add_ambient_capabilities = vec!["CAP_NET_BIND_SERVICE".into()];
        }));
        for process in ["1", "self"] {
            for (kind, want) in [
                ("CapAmb", NET_BIND_SERVICE),
                ("CapInh", NET_BIND_SERVICE),
                ("CapPrm", NET_BIND_SERVICE),
                ("CapEff", NET_BIND_SERVICE),
                ("CapBnd", NET_BIND_SERVICE | NET_RAW),
            ] {
                assert_eq!(set(&pod, &id, process, kind), want, "{name}: {kind} of {process}");
            }
            assert_eq!(field(&pod, &id, process, "NoNewPrivs"), u8::from(no_new_privs).to_string());
        }
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn capabilities_are_added_and_dropped_and_all_means_what_the_agent_has() {
    let node = Node::start();
    let pod = Pod::privileged(&node, "capabilities");
    let own = own_capabilities();
    let all = "ALL".to_owned();
    for (name, privileged, add, drop, want) in [
        ("default", false, vec![], vec![], DEFAULT & own),
        ("less", false, vec![], vec!["NET_RAW".to_owned()], DEFAULT & own & !NET_RAW),
        ("only", false, vec!["cap_net_raw".to_owned()], vec![all.clone()], NET_RAW),
        ("all", false, vec![all.clone()], vec![], own),
        ("all-but", false, vec![all.clone()], vec!["CAP_NET_RAW".to_owned()], own & !NET_RAW),
        ("privileged", true, vec![], vec![all.clone()], own),
    ] {
        let id = pod.start(sleeper(name, |rights| {
            rights.privileged = privileged;
            let capabilities = rights.capabilities.get_or_insert_default();
            (capabilities.add_capabilities, capabilities.drop_capabilities) = (add, drop);
        }));
        for process in ["1", "self"] {
            for kind in ["CapEff", "CapPrm", "CapBnd"] {
                assert_eq!(set(&pod, &id, process, kind), want, "{name}: {kind} of {process}");
            }
            assert_eq!(set(&pod, &id, process, "CapInh"), 0, "{name}");
        }
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_privileged_container_sees_the_kernels_files_unmasked_and_writable() {
    let node = Node::start();
    let pod = Pod::privileged(&node, "privileged");
    let change = |privileged| {
        move |rights: &mut LinuxContainerSecurityContext| {
            rights.privileged = privileged;
            rights.masked_paths = vec!["/proc/version".into(), "/proc/no/such/file".into()];
            rights.readonly_paths = vec!["/proc/sys".into()];
            rights.seccomp = Some(SecurityProfile::default());
            rights.apparmor = Some(SecurityProfile::default());
        }
    };
    let privileged = pod.start(sleeper("privileged", change(true)));
    let ordinary = pod.start(sleeper("ordinary", change(false)));
    let is_writable = |id: &str, path: &str| {
        let options = pod.exec(id, &format!("grep ' {path} ' /proc/self/mounts | tail -n 1 | cut -d' ' -f4"));
        assert!(!options.is_empty(), "{path} is no mount");
        options.split(',').any(|option| option == "rw")
    };
    for path in ["/sys", "/sys/fs/cgroup"] {
        assert!(is_writable(&privileged, path) && !is_writable(&ordinary, path), "{path}");
    }
    assert!(!is_writable(&ordinary, "/proc/sys"));
    let write = "cat /proc/sys/kernel/shmmni >/tmp/n && cat /tmp/n >/proc/sys/kernel/shmmni";
    pod.exec(&privileged, write);
    assert_ne!(pod.try_exec(&ordinary, &["sh", "-c", write], 0).unwrap().exit_code, 0);
    assert_ne!(pod.exec(&privileged, "wc -c </proc/version"), "0");
    assert_eq!(pod.exec(&ordinary, "wc -c </proc/version"), "0");
    assert_eq!(field(&pod, &privileged, "1", "Seccomp"), "0");
    assert_eq!(field(&pod, &ordinary, "1", "Seccomp"), "2");
}

#[test]
#[ignore = "needs root and the test images"]
fn empty_lists_of_paths_mask_nothing() {
    let node = Node::start();
    let pod = node.pod("unmasked");
    let id = pod.start(sleeper("unmasked", |_| {}));
    let mounts = pod.exec(&id, "cut -d' ' -f2 /proc/self/mounts");
    assert!(!mounts.lines().any(|path| path.starts_with("/proc/")), "{mounts}");
}

#[test]
#[ignore = "needs root and the test images"]
fn users_and_groups_are_those_of_the_request_and_the_image_and_are_reported() {
    let node = Node::start();
    let pod = node.pod("users");
    let cases: [UserCase; 5] = [
        ("root", |_| {}, (0, 0, &[0])),
        (
            "merge",
            |rights| (rights.run_as_user, rights.supplemental_groups) = (number(1000), vec![7]),
            (1000, 1000, &[1000, 50, 7]),
        ),
        (
            "strict",
            |rights| {
                (rights.run_as_user, rights.supplemental_groups) = (number(1000), vec![7]);
                rights.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
            },
            (1000, 1000, &[1000, 7]),
        ),
        ("name", |rights| rights.run_as_username = "web".into(), (1000, 1000, &[1000, 50])),
        (
            "group",
            |rights| (rights.run_as_user, rights.run_as_group) = (number(4_000_000_000), number(77)),
            (4_000_000_000, 77, &[77]),
        ),
    ];
    for (name, change, (uid, gid, groups)) in cases {
        let id = pod.start(sleeper(name, change));
        let user = pod.status(&id).user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid, &user.supplemental_groups[..]), (uid, gid, groups), "{name}");
        let mut sorted = groups.to_vec();
        sorted.sort_unstable();
        let sorted = sorted.iter().map(i64::to_string).collect::<Vec<_>>().join(" ");
        for process in ["1", "self"] {
            let same = |id: i64| format!("{id} {id} {id} {id}");
            assert_eq!(field(&pod, &id, process, "Uid"), same(uid), "{name}");
            assert_eq!(field(&pod, &id, process, "Gid"), same(gid), "{name}");
            assert_eq!(field(&pod, &id, process, "Groups"), sorted, "{name}");
        }
        let entry = pod.exec(&id, &format!("grep ^[^:]*:[^:]*:{uid}: /etc/passwd | cut -d: -f6"));
        let home = if entry.is_empty() { "/" } else { &entry };
        assert_eq!(pod.exec(&id, "echo $HOME"), home, "{name}");
    }
    let mut unknown = shell("unknown", "true");
    security(&mut unknown).run_as_username = "nobody-here".into();
    let refused = pod.try_create(unknown).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("nobody-here"), "{refused:?}");
}
