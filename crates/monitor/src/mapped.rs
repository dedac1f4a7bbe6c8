//! What a pod with a user namespace shows with its own ids, and what can only be made outside of it.
//!
//! All of this runs with the host's rights, in a private copy of the host's mounts. Layers, which pods share, are
//! mapped by laying a mapped copy of the mount over each: every path to them then leads to the copy, so overlayfs takes
//! it as its layer on every kernel. What is the container's own is given to the pod's root instead: overlayfs works in
//! the writable directory as the host's root, which a mapped one would not know. It is mounted by the host's root,
//! since the layers' whiteouts are not for others to read.
//! Source: mount_setattr(2), "ID-mapped mounts"; overlayfs takes mapped layers since Linux 5.19.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::mountattr::{MountAttributes, Reach, set_attributes, set_id_map};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chownat, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags, unmount};

use crate::birth::PodUsers;
use crate::plan::{Device, LaunchPlan, MountSource};
use crate::rootfs::{self, MountError, Result, on};

/// Maps one mount that is attached nowhere.
pub(crate) fn map(tree: BorrowedFd<'_>, shown_as: &Path, user_namespace: BorrowedFd<'_>) -> Result<()> {
    match set_id_map(tree, Reach::This, user_namespace) {
        Err(Errno::INVAL) => Err(MountError {
            object: format!(
                "{}: its filesystem can't be shown with the ids of a user namespace",
                shown_as.display()
            ),
            errno: None,
        }),
        mapped => on(shown_as, mapped),
    }
}

/// Maps the layers of all images of the plan, and gives the writable directory to the pod's root.
pub(crate) fn map_layers(plan: &LaunchPlan, users: &PodUsers<'_>) -> Result<()> {
    let mut directories: Vec<&Path> = plan.rootfs.lower.iter().map(PathBuf::as_path).collect();
    for mount in &plan.mounts {
        if let MountSource::Image { layers, .. } = &mount.source {
            directories.extend(layers.iter().map(PathBuf::as_path));
        }
    }
    directories.sort_unstable();
    directories.dedup();
    directories.into_iter().try_for_each(|directory| lay_over(directory, users.namespace))?;
    give(&plan.rootfs.upper, users)
}

/// Gives a directory of the container's own to the pod's root.
pub(crate) fn give(directory: &Path, users: &PodUsers<'_>) -> Result<()> {
    let (uid, gid) = (users.maps.uids.host_root(), users.maps.gids.host_root());
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    on(directory, chownat(CWD, directory, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
}

fn lay_over(directory: &Path, user_namespace: BorrowedFd<'_>) -> Result<()> {
    let tree = on(directory, rootfs::clone_tree(CWD, directory, OpenTreeFlags::empty()))?;
    map(tree.as_fd(), directory, user_namespace)?;
    on(directory, rootfs::attach(tree.as_fd(), CWD, directory))
}

/// Makes the plan's device nodes, to be mounted one by one: in a user namespace none can be made. They lie on a
/// filesystem of their own, over the staging directory for the time being, with their owners as the pod's ids have
/// them.
pub(crate) fn make_nodes(devices: &[Device], staging: &Path, users: &PodUsers<'_>) -> Result<Vec<OwnedFd>> {
    let tmpfs = on(staging, rootfs::detached_tmpfs(0o755, None))?;
    on(staging, rootfs::attach(tmpfs.as_fd(), CWD, staging))?;
    let node = |(index, device): (usize, &Device)| {
        on(&device.path, make_node(tmpfs.as_fd(), &index.to_string(), device, users))
    };
    let nodes = devices.iter().enumerate().map(node).collect();
    on(staging, unmount(staging, UnmountFlags::DETACH))?;
    nodes
}

fn make_node(
    directory: BorrowedFd<'_>,
    name: &str,
    device: &Device,
    users: &PodUsers<'_>,
) -> std::result::Result<OwnedFd, Errno> {
    let number = makedev(device.major, device.minor);
    mknodat(directory, name, rootfs::file_type(device.kind), Mode::from_raw_mode(device.mode), number)?;
    let uid = users.maps.uids.host_id(device.uid).unwrap_or_else(|| users.maps.uids.host_root());
    let gid = users.maps.gids.host_id(device.gid).unwrap_or_else(|| users.maps.gids.host_root());
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let node = rootfs::clone_tree(directory, Path::new(name), OpenTreeFlags::empty())?;
    let hardened = MountAttributes { nosuid: true, noexec: true, ..Default::default() };
    set_attributes(node.as_fd(), Reach::This, hardened)?;
    Ok(node)
}
