//! Devices by name: what specifications on this host say of them, as additions to a container.
//!
//! Everything that a specification names is looked at here, so that the launch has nothing left to miss.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use berth_cdi::{Edits, Hook, HookPoint, Mount, Node, NodeKind};
use berth_cgroup::DeviceAccess;
use berth_container::plan::{AddedDevice, Additions};
use berth_container::spec::{VolumeOptions, VolumeSource, VolumeSpec};
use berth_monitor::plan::{
    Access, Device, DeviceKind, Fifo, Hook as PlannedHook, HookPoint as PlannedPoint, MountPropagation,
};
use berth_store::with_causes;

use crate::devices::{DeviceError, Owner, device_of};

type Result<T> = std::result::Result<T, DeviceError>;

/// Mode of a node of which the specification gives none, as with runc and crun.
const NODE_MODE: u32 = 0o666;

/// Finds the named devices. Blocks on small files.
pub(crate) fn find(directories: &[PathBuf], names: &[String], owner: Owner) -> Result<Additions> {
    let names = names.iter().map(|name| name.parse()).collect::<std::result::Result<Vec<_>, _>>()?;
    let resolved = berth_cdi::resolve(directories, &names)?;
    for error in &resolved.broken {
        tracing::warn!(error = %with_causes(error), "CDI specification left out");
    }
    let Edits { env, nodes, mounts, groups, hooks } = resolved.edits;
    let (fifos, nodes): (Vec<Node>, Vec<Node>) = nodes.into_iter().partition(is_fifo);
    Ok(Additions {
        env,
        groups,
        fifos: fifos.iter().map(|node| fifo(node, owner)).collect(),
        devices: nodes.iter().map(|node| device(node, owner)).collect::<Result<_>>()?,
        mounts: mounts.iter().map(volume).collect::<Result<_>>()?,
        hooks: hooks.into_iter().map(planned_hook).collect(),
    })
}

/// Whether a node is a named pipe: as described, or else as the host's is.
fn is_fifo(node: &Node) -> bool {
    match node.kind {
        Some(kind) => kind == NodeKind::Fifo,
        None => fs::metadata(&node.host_path).is_ok_and(|metadata| metadata.file_type().is_fifo()),
    }
}

/// A pipe of the container's own: nothing that is written to it reaches the host's.
fn fifo(node: &Node, owner: Owner) -> Fifo {
    Fifo {
        path: node.path.clone(),
        mode: node.mode.unwrap_or(NODE_MODE),
        uid: node.uid.or(owner.uid).unwrap_or(0),
        gid: node.gid.or(owner.gid).unwrap_or(0),
    }
}

/// The node as described; what is not said is as with the host's.
fn device(node: &Node, owner: Owner) -> Result<AddedDevice> {
    let look = |source| DeviceError::Look { path: node.host_path.clone(), source };
    let (kind, (major, minor)) = match (node.kind.and_then(kind_of), node.number) {
        (Some(kind), Some(number)) => (kind, number),
        (kind, number) => {
            let metadata = fs::metadata(&node.host_path).map_err(look)?;
            let found = device_of(&metadata, &node.host_path, &node.path);
            let found = found.filter(|found| kind.is_none_or(|kind| kind == found.kind));
            let found = found.ok_or_else(|| DeviceError::NoDevice { path: node.host_path.clone() })?;
            (found.kind, number.unwrap_or((found.major, found.minor)))
        }
    };
    let device = Device {
        path: node.path.clone(),
        kind,
        major,
        minor,
        mode: node.mode.unwrap_or(NODE_MODE),
        uid: node.uid.or(owner.uid).unwrap_or(0),
        gid: node.gid.or(owner.gid).unwrap_or(0),
        host_path: Some(node.host_path.clone()),
    };
    // Other letters have been refused with the file.
    let access = DeviceAccess::parse(&node.permissions).unwrap_or(DeviceAccess::ALL);
    Ok(AddedDevice { device, access })
}

fn kind_of(kind: NodeKind) -> Option<DeviceKind> {
    match kind {
        NodeKind::Character => Some(DeviceKind::Character),
        NodeKind::Block => Some(DeviceKind::Block),
        NodeKind::Fifo => None,
    }
}

fn volume(mount: &Mount) -> Result<VolumeSpec> {
    let Mount { host_path, container_path, options } = mount;
    // A volume of a request is made where it is missing; what a vendor's driver brings is there or is an error.
    let look = |source| DeviceError::Mount { path: host_path.clone(), source };
    fs::metadata(host_path).map_err(look)?;
    let mut volume = VolumeSpec {
        source: VolumeSource::Host { host_path: host_path.clone() },
        container_path: container_path.clone(),
        access: Access::ReadWrite,
        propagation: MountPropagation::Private,
        options: VolumeOptions::default(),
        selinux_relabel: false,
        id_maps: None,
    };
    for option in options {
        apply(&mut volume, option)
            .ok_or_else(|| DeviceError::MountOption { path: host_path.clone(), option: option.clone() })?;
    }
    Ok(volume)
}

/// `None` for an option that is not known. Binds are recursive always, as volumes are. Source: mount(8).
fn apply(volume: &mut VolumeSpec, option: &str) -> Option<()> {
    match option {
        "ro" => volume.access = Access::ReadOnly,
        "rro" => volume.access = Access::RecursiveReadOnly,
        "rw" => volume.access = Access::ReadWrite,
        "noexec" => volume.options.noexec = true,
        "nodev" => volume.options.nodev = true,
        "nosuid" => volume.options.nosuid = true,
        "private" | "rprivate" => volume.propagation = MountPropagation::Private,
        "slave" | "rslave" => volume.propagation = MountPropagation::HostToContainer,
        "shared" | "rshared" => volume.propagation = MountPropagation::Bidirectional,
        "bind" | "rbind" | "exec" | "dev" | "suid" | "defaults" | "relatime" => {}
        _ => return None,
    }
    Some(())
}

fn planned_hook(hook: Hook) -> PlannedHook {
    let Hook { point, path, args, env, timeout } = hook;
    let point = match point {
        HookPoint::Prestart => PlannedPoint::Prestart,
        HookPoint::CreateRuntime => PlannedPoint::CreateRuntime,
        HookPoint::CreateContainer => PlannedPoint::CreateContainer,
        HookPoint::StartContainer => PlannedPoint::StartContainer,
        HookPoint::Poststart => PlannedPoint::Poststart,
        HookPoint::Poststop => PlannedPoint::Poststop,
    };
    let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    PlannedHook { point, path, args, env, timeout_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host_path: &str, kind: Option<NodeKind>, number: Option<(u32, u32)>) -> Node {
        let (path, host_path) = ("/dev/x".into(), host_path.into());
        Node {
            path,
            host_path,
            kind,
            number,
            mode: None,
            permissions: "r".to_owned(),
            uid: None,
            gid: Some(7),
        }
    }

    #[test]
    fn what_a_node_does_not_say_is_the_hosts() {
        let owner = Owner { uid: Some(1000), gid: Some(1000) };
        let added = device(&node("/dev/null", None, None), owner).unwrap();
        let Device { kind, major, minor, mode, uid, gid, .. } = added.device;
        assert_eq!((kind, major, minor, mode), (DeviceKind::Character, 1, 3, 0o666));
        assert_eq!((uid, gid, added.access.to_string().as_str()), (1000, 7, "r"));
        // One that says all need not exist.
        let whole = node("/dev/no-such", Some(NodeKind::Block), Some((8, 1)));
        assert_eq!(device(&whole, owner).unwrap().device.major, 8);
        for (path, kind) in [("/dev/no-such", None), ("/dev/null", Some(NodeKind::Block)), ("/etc", None)] {
            let error = device(&node(path, kind, None), owner).unwrap_err().to_string();
            assert!(error.contains(path), "{error}");
        }
    }

    #[test]
    fn mount_options_are_known_by_name() {
        let mount = |host_path: &str, options: &[&str]| Mount {
            host_path: host_path.into(),
            container_path: "/x".into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let given = volume(&mount("/etc", &["ro", "nosuid", "nodev", "rbind", "rprivate"])).unwrap();
        assert_eq!(given.access, Access::ReadOnly);
        assert!(given.options.nosuid && given.options.nodev && !given.options.noexec);
        let error = volume(&mount("/etc", &["uid=5"])).unwrap_err().to_string();
        assert_eq!(error, "CDI mount of /etc: option \"uid=5\" is not known");
        let error = volume(&mount("/no-such", &[])).unwrap_err().to_string();
        assert!(error.contains("/no-such"), "{error}");
    }
}
