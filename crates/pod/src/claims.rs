//! What carries our names in kernel and cgroups is ours to remove, so no other agent may use the same names: each is
//! claimed by a lock, which the kernel takes back from a process that ends.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use berth_cgroup::{CgroupPath, Cgroups};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, stat};

use crate::error::{Error, Result};

/// Where bridges are claimed, whatever directories an agent has. The files stay, empty, until the machine goes: who
/// removes one may remove the lock of somebody else.
const BRIDGES: &str = "/run/berth-bridges";

pub(crate) fn claim_cgroup_root(cgroups: &Cgroups, root: &CgroupPath) -> Result<OwnedFd> {
    cgroups.create(root)?;
    lock_cgroup_root(cgroups, root)
}

/// As for an agent, but makes nothing: `None` where there is no such cgroup, and so nothing that anybody could use.
pub(crate) fn claim_existing_cgroup_root(cgroups: &Cgroups, root: &CgroupPath) -> Result<Option<OwnedFd>> {
    match cgroups.open(root).exists() {
        true => lock_cgroup_root(cgroups, root).map(Some),
        false => Ok(None),
    }
}

fn lock_cgroup_root(cgroups: &Cgroups, root: &CgroupPath) -> Result<OwnedFd> {
    let entry = cgroups.open(root).entry();
    let directory =
        entry.directory.or_else(|| Some(entry.tasks.first()?.parent()?.to_owned())).unwrap_or_default();
    let opened = open(&directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let opened = opened.map_err(|errno| Error::file("open", &directory)(errno.into()))?;
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(opened),
        Err(_) => Err(Error::Taken { what: "cgroup root", name: root.as_str().to_owned() }),
    }
}

/// A bridge's name belongs to a network namespace. No abstract socket's name stands for it, although that does as well: a
/// container with the host's network could have it (CVE-2020-15257).
pub(crate) fn claim_bridge(bridge: &str) -> Result<OwnedFd> {
    let namespace = Path::new("/proc/self/ns/net");
    let number = stat(namespace).map_err(|errno| Error::file("look at", namespace)(errno.into()))?.st_ino;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(BRIDGES);
    made.map_err(Error::file("create directory", BRIDGES))?;
    let path = Path::new(BRIDGES).join(format!("{number}-{bridge}"));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(&path, flags, Mode::RUSR | Mode::WUSR);
    let file = file.map_err(|errno| Error::file("open", &path)(errno.into()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::Taken { what: "bridge", name: bridge.to_owned() }),
    }
}
