//! What a container sees: kernel filesystems, the pod's own files, volumes, devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_monitor::plan::{Access, Device, DeviceKind, Mount, MountPropagation, MountSource, Sharing};

use crate::error::Result;
use crate::plan::{AddedDevice, CgroupView, Surroundings};
use crate::spec::ContainerSpec;
use crate::volumes;

/// All mounts, from the shallowest target to the deepest, so that none hides one that was mounted below it. A volume
/// takes the place of what would be mounted at the same target.
///
/// # Errors
/// A volume at a place where there can be none.
pub(crate) fn plan_mounts(
    spec: &ContainerSpec,
    image_volumes: &[String],
    surroundings: &Surroundings,
) -> Result<Vec<Mount>> {
    let volumes = volumes::plan_volumes(spec, surroundings)?;
    let mut mounts = kernel_mounts(spec, surroundings);
    mounts.extend(cgroup_mounts(spec, &surroundings.cgroup_view));
    mounts.extend(pod_files(spec, surroundings));
    mounts.retain(|mount| !volumes.iter().any(|volume| volume.target == mount.target));
    mounts.extend(volumes::plan_image_volumes(image_volumes, &volumes, surroundings));
    mounts.extend(volumes);
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// Whether this is the container's own `/dev`, in which nodes can be made.
pub(crate) fn is_own_dev(mount: &Mount) -> bool {
    mount.target == Path::new("/dev") && matches!(mount.source, MountSource::Tmpfs { .. })
}

fn kernel_mounts(spec: &ContainerSpec, surroundings: &Surroundings) -> Vec<Mount> {
    let sys_access = if spec.security.privileged { Access::ReadWrite } else { Access::ReadOnly };
    let shm = match surroundings.ipc {
        Sharing::Own => MountSource::PodShm,
        Sharing::Host => MountSource::Bind("/dev/shm".into()),
    };
    let sys = match (surroundings.user_namespace, surroundings.net) {
        // The kernel mounts sysfs only for the owner of the network namespace that it shows.
        (Some(_), Sharing::Host) => {
            Mount { access: Access::RecursiveReadOnly, ..hardened(MountSource::Bind("/sys".into()), "/sys") }
        }
        _ => Mount { access: sys_access, ..hardened(MountSource::Sysfs, "/sys") },
    };
    let mut mounts = vec![
        hardened(MountSource::Proc, "/proc"),
        Mount { nodev: false, noexec: false, ..hardened(tmpfs(64 << 20), "/dev") },
        Mount { nodev: false, ..hardened(MountSource::Devpts, "/dev/pts") },
        hardened(MountSource::Mqueue, "/dev/mqueue"),
        hardened(shm, "/dev/shm"),
        sys,
    ];
    // The host's message queues come with its IPC namespace and are mounted by nobody there.
    if surroundings.ipc == Sharing::Host {
        mounts.retain(|mount| mount.source != MountSource::Mqueue);
    }
    mounts
}

/// On v2 the hierarchy as the container's cgroup namespace shows it; on v1 the container's own directories.
fn cgroup_mounts(spec: &ContainerSpec, view: &CgroupView) -> Vec<Mount> {
    let access = if spec.security.privileged { Access::ReadWrite } else { Access::ReadOnly };
    match view {
        CgroupView::Unified => vec![Mount { access, ..hardened(MountSource::Cgroup2, "/sys/fs/cgroup") }],
        CgroupView::PerController(directories) => {
            let own = |(name, directory): &(String, PathBuf)| Mount {
                access,
                ..hardened(MountSource::Bind(directory.clone()), Path::new("/sys/fs/cgroup").join(name))
            };
            let base = hardened(tmpfs(64 << 10), "/sys/fs/cgroup");
            std::iter::once(base).chain(directories.iter().map(own)).collect()
        }
    }
}

/// The files that the pod's containers share; read-only where the root is.
fn pod_files(spec: &ContainerSpec, surroundings: &Surroundings) -> Vec<Mount> {
    let access = if spec.security.read_only_rootfs { Access::ReadOnly } else { Access::ReadWrite };
    ["hosts", "hostname", "resolv.conf"]
        .map(|name| Mount {
            access,
            nosuid: false,
            nodev: false,
            noexec: false,
            ..hardened(MountSource::Bind(surroundings.pod_directory.join(name)), Path::new("/etc").join(name))
        })
        .into()
}

pub(crate) fn hardened(source: MountSource, target: impl Into<PathBuf>) -> Mount {
    Mount {
        source,
        target: target.into(),
        access: Access::ReadWrite,
        nosuid: true,
        nodev: true,
        noexec: true,
        propagation: MountPropagation::Private,
        follows_host: false,
        idmapped: false,
    }
}

fn tmpfs(size_bytes: u64) -> MountSource {
    MountSource::Tmpfs { mode: 0o755, size_bytes: Some(size_bytes) }
}

/// What is made: the devices of every container and those that were added. One that was asked for at a default's path
/// takes its place; what a privileged container sees of the host leaves the links and the terminal's console alone.
pub(crate) fn plan_devices(added: &[AddedDevice]) -> Vec<Device> {
    let mut devices: BTreeMap<PathBuf, Device> = BTreeMap::new();
    for device in default_devices().into_iter().chain(added.iter().map(|added| added.device.clone())) {
        devices.insert(device.path.clone(), device);
    }
    devices.into_values().collect()
}

/// The devices of every container. Source: OCI runtime-spec, config-linux.md, "Default Devices".
fn default_devices() -> Vec<Device> {
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        .map(|(name, major, minor)| Device {
            path: Path::new("/dev").join(name),
            kind: DeviceKind::Character,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            host_path: Some(Path::new("/dev").join(name)),
        })
        .into()
}

/// Source: OCI runtime-spec, config-linux.md, "Dev symbolic links" and "Default Devices" (ptmx).
pub(crate) fn default_links() -> Vec<(PathBuf, PathBuf)> {
    [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ]
    .map(|(path, target)| (path.into(), target.into()))
    .into()
}
