//! A launch plan as the configuration of an OCI runtime: what another runtime needs to make the same container.
//!
//! Pure. What the plan says arrives field by field; three things go another way. The user's numbers and the environment
//! are completed where the image's files can be read. Limits are on the cgroup already, which the runtime joins, so
//! that only the devices' rules are said again: a runtime that finds none would write its own. The score for the
//! out-of-memory killer is inherited. Volumes are named by their place in the bundle, where the monitor attaches them.
//!
//! Source: OCI runtime-spec 1.0, config.md and config-linux.md.

use std::path::Path;

use berth_cgroup::{DeviceKind, DeviceRule};
use berth_monitor::plan::{
    Access, Capabilities, Device, Fifo, ForeignPlan, Hook, LaunchPlan, Mount, MountPropagation, MountSource,
    PidNamespace, Sharing,
};
use serde_json::{Value, json};

use crate::capability::names_of;

/// The version of the specification that is followed.
const VERSION: &str = "1.0.2";

/// What a plan leaves to the monitor's own knowledge, or to the cgroup.
#[derive(Debug, Clone)]
pub struct OciFacts<'a> {
    /// The process that holds the pod's namespaces.
    pub pause_pid: i32,
    /// The process whose pid namespace is joined, for a plan that names another container.
    pub target_pid: Option<i32>,
    /// The pod's network and hostname.
    pub net: Sharing,
    /// The pod's IPC namespace.
    pub ipc: Sharing,
    /// The container's cgroup, from the root of the hierarchy.
    pub cgroup_path: &'a str,
    /// The devices that its cgroup allows; `None` for all.
    pub device_rules: Option<&'a [DeviceRule]>,
    /// The system call filter, in the specification's form.
    pub seccomp: Option<Value>,
}

/// The configuration, complete but for the user and the environment.
pub fn oci_config(plan: &LaunchPlan, facts: &OciFacts<'_>) -> Value {
    let process = &plan.process;
    let mut config = json!({
        "ociVersion": VERSION,
        "root": { "path": plan.rootfs.staging, "readonly": plan.rootfs.read_only },
        "process": {
            "terminal": plan.stdio.tty,
            "args": process.args,
            "cwd": process.cwd,
            "capabilities": capabilities(&process.capabilities),
            "noNewPrivileges": process.no_new_privileges,
        },
        "mounts": plan.mounts.iter().enumerate().map(mount).collect::<Vec<_>>(),
        "linux": {
            "namespaces": namespaces(plan, facts),
            "cgroupsPath": facts.cgroup_path,
            "resources": { "devices": device_rules(facts.device_rules) },
            "devices": plan.devices.iter().map(device).chain(plan.fifos.iter().map(fifo)).collect::<Vec<_>>(),
            "maskedPaths": plan.masked_paths,
            "readonlyPaths": plan.readonly_paths,
            "rootfsPropagation": root_propagation(&plan.mounts),
        },
    });
    if !plan.hooks.list.is_empty() {
        config["hooks"] = hooks(&plan.hooks.list);
        config["annotations"] = json!(plan.hooks.annotations);
    }
    if let Some(seccomp) = &facts.seccomp {
        config["linux"]["seccomp"] = seccomp.clone();
    }
    if let Some(label) = &plan.file_label {
        config["linux"]["mountLabel"] = label.clone().into();
    }
    for (key, label) in [("apparmorProfile", &process.apparmor), ("selinuxLabel", &process.selinux)] {
        if let Some(label) = label {
            config["process"][key] = label.clone().into();
        }
    }
    config
}

fn capabilities(sets: &Capabilities) -> Value {
    json!({
        "bounding": names_of(sets.bounding),
        "effective": names_of(sets.effective),
        "permitted": names_of(sets.effective),
        "inheritable": names_of(sets.inheritable),
        "ambient": names_of(sets.ambient),
    })
}

/// The container's own, and the pod's by the process that holds them; what is missing is the host's.
fn namespaces(plan: &LaunchPlan, facts: &OciFacts<'_>) -> Value {
    let of =
        |pid: i32, kind: &str, file: &str| json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") });
    let own = |kind: &str| json!({ "type": kind });
    let mut list = vec![own("mount")];
    if facts.net == Sharing::Own {
        list.extend([of(facts.pause_pid, "network", "net"), of(facts.pause_pid, "uts", "uts")]);
    }
    if facts.ipc == Sharing::Own {
        list.push(of(facts.pause_pid, "ipc", "ipc"));
    }
    match &plan.pid_namespace {
        PidNamespace::Own => list.push(own("pid")),
        PidNamespace::Pod => list.push(of(facts.pause_pid, "pid", "pid")),
        PidNamespace::Container(_) => list.extend(facts.target_pid.map(|pid| of(pid, "pid", "pid"))),
        PidNamespace::Host => {}
    }
    if plan.cgroup_namespace == Sharing::Own {
        list.push(own("cgroup"));
    }
    list.into()
}

fn mount((index, mount): (usize, &Mount)) -> Value {
    let (kind, source, mut options) = match &mount.source {
        MountSource::Proc => ("proc", Path::new("proc").into(), vec![]),
        MountSource::Sysfs => ("sysfs", Path::new("sysfs").into(), vec![]),
        MountSource::Mqueue => ("mqueue", Path::new("mqueue").into(), vec![]),
        MountSource::Cgroup2 => ("cgroup", Path::new("cgroup").into(), vec![]),
        MountSource::Devpts => {
            let options = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"].map(str::to_owned);
            ("devpts", Path::new("devpts").into(), options.to_vec())
        }
        MountSource::Tmpfs { mode, size_bytes } => {
            let size = size_bytes.map(|bytes| format!("size={bytes}"));
            let options = [format!("mode={mode:o}")].into_iter().chain(size);
            ("tmpfs", Path::new("tmpfs").into(), options.collect())
        }
        MountSource::Bind(_)
        | MountSource::PodShm
        | MountSource::Image { .. }
        | MountSource::ImageVolume(_) => {
            let options = vec!["rbind".to_owned(), propagation(mount).to_owned()];
            ("bind", ForeignPlan::volume(index), options)
        }
    };
    let flags = [
        (mount.access != Access::ReadWrite, "ro"),
        (mount.nosuid, "nosuid"),
        (mount.nodev, "nodev"),
        (mount.noexec, "noexec"),
    ];
    options.extend(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| (*flag).to_owned()));
    json!({ "destination": mount.target, "type": kind, "source": source, "options": options })
}

fn propagation(mount: &Mount) -> &'static str {
    match mount.propagation {
        MountPropagation::Private if mount.follows_host => "rslave",
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    }
}

/// A mount below a root that is no peer of the host's cannot be one either.
fn root_propagation(mounts: &[Mount]) -> &'static str {
    let shared = mounts.iter().any(|mount| mount.propagation == MountPropagation::Bidirectional);
    if shared { "rshared" } else { "rslave" }
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path,
        "type": letter(device.kind),
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}

fn fifo(fifo: &Fifo) -> Value {
    json!({ "path": fifo.path, "type": "p", "fileMode": fifo.mode, "uid": fifo.uid, "gid": fifo.gid })
}

/// By their points, each in the order given.
fn hooks(list: &[Hook]) -> Value {
    let mut points = serde_json::Map::new();
    for hook in list {
        let mut value = json!({ "path": hook.path, "args": hook.args, "env": hook.env });
        if let Some(timeout) = hook.timeout() {
            value["timeout"] = timeout.as_secs().into();
        }
        let point = points.entry(hook.point.name()).or_insert_with(|| json!([]));
        point.as_array_mut().into_iter().for_each(|point| point.push(value.clone()));
    }
    points.into()
}

fn device_rules(rules: Option<&[DeviceRule]>) -> Value {
    let Some(rules) = rules else {
        return json!([{ "allow": true, "access": "rwm" }]);
    };
    let allow = |rule: &DeviceRule| {
        let mut value =
            json!({ "allow": true, "type": letter(rule.kind), "access": rule.access.to_string() });
        for (key, number) in [("major", rule.major), ("minor", rule.minor)] {
            if let Some(number) = number {
                value[key] = number.into();
            }
        }
        value
    };
    let nothing = json!({ "allow": false, "access": "rwm" });
    std::iter::once(nothing).chain(rules.iter().map(allow)).collect()
}

fn letter(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Character => "c",
        DeviceKind::Block => "b",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{spec, surroundings};
    use crate::plan::{ImageDefaults, plan_launch};
    use berth_monitor::plan::HookPoint;

    fn config(change: impl FnOnce(&mut LaunchPlan)) -> Value {
        let planned = plan_launch(&spec(), &ImageDefaults::default(), surroundings()).unwrap();
        let mut launch = planned.launch;
        change(&mut launch);
        let facts = OciFacts {
            pause_pid: 7,
            target_pid: Some(9),
            net: Sharing::Own,
            ipc: Sharing::Own,
            cgroup_path: "/berth/pod/web",
            device_rules: planned.device_rules.as_deref(),
            seccomp: Some(json!({ "defaultAction": "SCMP_ACT_ALLOW" })),
        };
        oci_config(&launch, &facts)
    }

    #[test]
    fn what_the_plan_says_arrives() {
        let config = config(|plan| plan.process.capabilities.bounding = 1);
        assert_eq!(config["process"]["args"], json!(["true"]));
        assert_eq!(config["process"]["capabilities"]["bounding"], json!(["CAP_CHOWN"]));
        let linux = &config["linux"];
        assert_eq!(linux["cgroupsPath"], "/berth/pod/web");
        assert_eq!(linux["seccomp"]["defaultAction"], "SCMP_ACT_ALLOW");
        assert_eq!(linux["maskedPaths"], json!(["/proc/kcore"]));
        assert_eq!(linux["resources"]["devices"][0], json!({ "allow": false, "access": "rwm" }));
        let null = json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" });
        assert!(linux["resources"]["devices"].as_array().unwrap().contains(&null), "{linux}");
        assert_eq!(linux["rootfsPropagation"], "rslave");
        let proc = json!({
            "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"],
        });
        assert!(config["mounts"].as_array().unwrap().contains(&proc), "{config}");
    }

    #[test]
    fn hooks_are_listed_by_their_points() {
        let hook = |point, path: &str, timeout_ms| Hook {
            point,
            path: path.into(),
            args: vec!["x".into()],
            env: vec![],
            timeout_ms,
        };
        let config = config(|plan| {
            plan.hooks.list = vec![
                hook(HookPoint::CreateContainer, "/one", Some(3000)),
                hook(HookPoint::Poststop, "/end", None),
                hook(HookPoint::CreateContainer, "/two", None),
            ];
        });
        let listed = |path: &str| json!({ "path": path, "args": ["x"], "env": [] });
        let mut one = listed("/one");
        one["timeout"] = 3.into();
        assert_eq!(
            config["hooks"],
            json!({ "createContainer": [one, listed("/two")], "poststop": [listed("/end")] })
        );
    }

    #[test]
    fn pid_namespaces_are_named_by_who_holds_them() {
        let check = |wanted: PidNamespace, want: Option<Value>| {
            let config = config(|plan| plan.pid_namespace = wanted);
            let list = config["linux"]["namespaces"].as_array().unwrap().clone();
            assert_eq!(list.iter().find(|namespace| namespace["type"] == "pid"), want.as_ref());
            assert!(list.contains(&json!({ "type": "network", "path": "/proc/7/ns/net" })));
        };
        let of = |pid: i32| Some(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
        let other = berth_monitor::id::ContainerId::from_random([1; 32]);
        check(PidNamespace::Own, Some(json!({ "type": "pid" })));
        check(PidNamespace::Pod, of(7));
        check(PidNamespace::Container(other), of(9));
        check(PidNamespace::Host, None);
    }
}
