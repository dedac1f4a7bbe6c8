//! What carries our names in kernel and cgroups is ours to remove, so no other agent may use the same names: each is
//! claimed by a lock, which the kernel takes back from a process that ends. An agent claims them before it changes
//! anything that carries them.
//!
//! What is locked is a file that only root can open. A cgroup's own directory anybody can open, a container that is
//! shown the host's cgroups too, and who can open it can lock it; an abstract socket's name any container with the
//! host's network could have (CVE-2020-15257). Either would keep the next agent from starting.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use berth_cgroup::{CgroupPath, Cgroups};
use berth_net::NetworkConfig;
use rustix::fs::{FlockOperation, Mode, OFlags, Stat, flock, open, stat};

use crate::error::{Error, Result};

/// Where names are claimed, whatever directories an agent has. The files stay, empty, until the machine goes: who
/// removes one may remove the lock of somebody else.
const DIRECTORY: &str = "/run/berth-claims";

/// The names that this process alone uses, for as long as this lives.
#[derive(Debug)]
pub struct Claims {
    locks: Vec<OwnedFd>,
}

impl Claims {
    /// Takes the names for an agent; makes the cgroup root, and nothing else but the files that are locked. Blocks.
    ///
    /// # Errors
    /// Busy, when another process has one of them.
    pub fn take(network: &NetworkConfig, cgroup_root: &CgroupPath) -> Result<Self> {
        let mut claims = Self::of_network(network)?;
        let cgroups = Cgroups::detect()?;
        cgroups.create(cgroup_root)?;
        claims.add_cgroup_root(&cgroups, cgroup_root)?;
        Ok(claims)
    }

    /// As for an agent, but where there is no such cgroup, nobody can use it, and none is made.
    pub(crate) fn take_existing(network: &NetworkConfig, cgroup_root: &CgroupPath) -> Result<Self> {
        let mut claims = Self::of_network(network)?;
        let cgroups = Cgroups::detect()?;
        if cgroups.open(cgroup_root).exists() {
            claims.add_cgroup_root(&cgroups, cgroup_root)?;
        }
        Ok(claims)
    }

    /// The names that belong to a network namespace.
    fn of_network(network: &NetworkConfig) -> Result<Self> {
        let namespace = look_at(Path::new("/proc/self/ns/net"))?.st_ino;
        // A table's name may have a slash, and none has a plus sign.
        let file = |name: &str| format!("{namespace}/{}", name.replace('/', "+"));
        let (bridge, table) = (network.bridge.as_str(), network.nft_table.as_str());
        Ok(Self {
            locks: vec![
                claim("bridge", "bridges", &file(bridge), bridge)?,
                claim("nftables table", "tables", &file(table), table)?,
            ],
        })
    }

    fn add_cgroup_root(&mut self, cgroups: &Cgroups, root: &CgroupPath) -> Result<()> {
        let entry = cgroups.open(root).entry();
        let directory = entry.directory.or_else(|| Some(entry.tasks.first()?.parent()?.to_owned()));
        let Stat { st_dev, st_ino, .. } = look_at(&directory.unwrap_or_default())?;
        self.locks.push(claim("cgroup root", "cgroups", &format!("{st_dev}-{st_ino}"), root.as_str())?);
        Ok(())
    }
}

fn look_at(path: &Path) -> Result<Stat> {
    stat(path).map_err(|errno| Error::file("look at", path)(errno.into()))
}

/// Locks the file of a name, which it makes if there is none.
fn claim(what: &'static str, kind: &str, file: &str, name: &str) -> Result<OwnedFd> {
    let path = Path::new(DIRECTORY).join(kind).join(file);
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(Error::file("create directory", directory))?;
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(&path, flags, Mode::RUSR | Mode::WUSR);
    let file = file.map_err(|errno| Error::file("open", &path)(errno.into()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::Taken { what, name: name.to_owned() }),
    }
}
