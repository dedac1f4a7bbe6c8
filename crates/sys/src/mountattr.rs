//! `mount_setattr(2)`: flags and propagation of a whole mount tree in one call.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::clone::last_errno;

/// How far a change reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The one mount.
    This,
    /// The mount and all mounts below it.
    Tree,
}

/// The attributes to switch on; what is false or absent stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// `MOUNT_ATTR_RDONLY`.
    pub read_only: bool,
    /// `MOUNT_ATTR_NOSUID`.
    pub nosuid: bool,
    /// `MOUNT_ATTR_NODEV`.
    pub nodev: bool,
    /// `MOUNT_ATTR_NOEXEC`.
    pub noexec: bool,
    /// One of the propagation types of mount_namespaces(7).
    pub propagation: Option<Propagation>,
}

/// The propagation types of mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither sends nor receives mount events.
    Private,
    /// Receives from its former peers.
    Slave,
    /// Sends and receives.
    Shared,
}

/// Changes the mount at `mount`, a descriptor of its root (`O_PATH` or from open_tree). Since Linux 5.12.
///
/// # Errors
/// The errno of the call; on failure nothing of the tree has changed.
pub fn set_attributes(mount: BorrowedFd<'_>, reach: Reach, wanted: MountAttributes) -> Result<(), Errno> {
    let flag = |wanted: bool, flag: u64| if wanted { flag } else { 0 };
    // SAFETY: every field of mount_attr is an integer, for which zero is valid and means "no change".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = flag(wanted.read_only, libc::MOUNT_ATTR_RDONLY)
        | flag(wanted.nosuid, libc::MOUNT_ATTR_NOSUID)
        | flag(wanted.nodev, libc::MOUNT_ATTR_NODEV)
        | flag(wanted.noexec, libc::MOUNT_ATTR_NOEXEC);
    attr.propagation = match wanted.propagation {
        None => 0,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    change(mount, reach, &attr)
}

/// Shows the mount at `mount`, which must be attached nowhere yet, with the ids of a user namespace: what the
/// filesystem holds as user 0 is that namespace's root here, and the other way round for what is written. Since Linux
/// 5.12, for each filesystem since its own version. Source: mount_setattr(2), "ID-mapped mounts".
///
/// # Errors
/// The errno of the call: `INVAL` for a filesystem that can't be mapped, `PERM` for a namespace that is the host's.
pub fn set_id_map(mount: BorrowedFd<'_>, reach: Reach, user_namespace: impl AsFd) -> Result<(), Errno> {
    // SAFETY: every field of mount_attr is an integer, for which zero is valid and means "no change".
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = libc::MOUNT_ATTR_IDMAP;
    attr.userns_fd = user_namespace.as_fd().as_raw_fd() as u64;
    change(mount, reach, &attr)
}

fn change(mount: BorrowedFd<'_>, reach: Reach, attr: &libc::mount_attr) -> Result<(), Errno> {
    let recursive = if reach == Reach::Tree { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the empty path and `attr` outlive the call, and the size given is that of `attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
