//! What carries our names in kernel and cgroups is ours to remove, so no other agent may use the same names: each is
//! claimed by a lock, which the kernel takes back from a process that ends. An agent claims them before it changes
//! anything that carries them.
//!
//! What is locked is a file that only root can open. A cgroup's own directory anybody can open, a container that is
//! shown the host's cgroups too, and who can open it can lock it; an abstract socket's name any container with the
//! host's network could have (CVE-2020-15257). Either would keep the next agent from starting.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_cgroup::{CgroupPath, Cgroups};
use berth_net::NetworkConfig;
use rustix::fs::{FlockOperation, Mode, OFlags, Stat, flock, open, stat};

use crate::error::{Error, Result};

/// Where names are claimed, whatever directories an agent has. The files of an agent stay, empty, until the machine goes:
/// who removes one may remove the lock of somebody else.
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

    /// Removes the files of names that nobody else could have; before the cgroup goes.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn remove_files(network: &NetworkConfig, cgroup_root: &CgroupPath) -> Result<()> {
        let cgroup = file_of_cgroup(&Cgroups::detect()?, cgroup_root);
        for path in files_of_network(network)?.into_iter().chain(cgroup) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::file("remove file", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The names that belong to a network namespace.
    fn of_network(network: &NetworkConfig) -> Result<Self> {
        let [bridge, table] = files_of_network(network)?;
        Ok(Self {
            locks: vec![
                claim("bridge", &bridge, network.bridge.as_str())?,
                claim("nftables table", &table, &network.nft_table)?,
            ],
        })
    }

    fn add_cgroup_root(&mut self, cgroups: &Cgroups, root: &CgroupPath) -> Result<()> {
        self.locks.push(claim("cgroup root", &file_of_cgroup(cgroups, root)?, root.as_str())?);
        Ok(())
    }
}

/// Of bridge and table.
fn files_of_network(network: &NetworkConfig) -> Result<[PathBuf; 2]> {
    let namespace = look_at(Path::new("/proc/self/ns/net"))?.st_ino.to_string();
    let names = [("bridges", network.bridge.as_str()), ("tables", network.nft_table.as_str())];
    // A table's name may have a slash, and none has a plus sign.
    let file =
        |(kind, name): (&str, &str)| [DIRECTORY, kind, &namespace, &name.replace('/', "+")].iter().collect();
    Ok(names.map(file))
}

fn file_of_cgroup(cgroups: &Cgroups, root: &CgroupPath) -> Result<PathBuf> {
    let entry = cgroups.open(root).entry();
    let directory = entry.directory.or_else(|| Some(entry.tasks.first()?.parent()?.to_owned()));
    let Stat { st_dev, st_ino, .. } = look_at(&directory.unwrap_or_default())?;
    Ok(Path::new(DIRECTORY).join("cgroups").join(format!("{st_dev}-{st_ino}")))
}

fn look_at(path: &Path) -> Result<Stat> {
    stat(path).map_err(|errno| Error::file("look at", path)(errno.into()))
}

/// Locks the file of a name, which it makes if there is none.
fn claim(what: &'static str, path: &Path, name: &str) -> Result<OwnedFd> {
    if let Some(directory) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(Error::file("create directory", directory))?;
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR);
    let file = file.map_err(|errno| Error::file("open", path)(errno.into()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::Taken { what, name: name.to_owned() }),
    }
}
