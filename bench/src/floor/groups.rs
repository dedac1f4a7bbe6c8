//! Cgroups in the cheapest way: directories whose parent has been made ready once.
//!
//! [`berth_cgroup`] says where they are, removes them, and writes the rules for devices; what it does to make one that
//! may exist or whose parents may be missing is not needed here.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_cgroup::{Cgroup, CgroupPath, Cgroups, DEFAULT_DEVICES, Entry};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, open, unlinkat};
use rustix::io::Errno;

/// How long what has been killed may take to die.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// The parent of all cgroups of the floor, in each hierarchy.
#[derive(Debug)]
pub(super) struct Base {
    cgroups: Cgroups,
    path: CgroupPath,
}

impl Base {
    /// Makes it, and has it pass on to its children what the kernel wants passed on.
    pub(super) fn make(name: &str) -> Result<Self> {
        let cgroups = Cgroups::detect()?;
        let base = Self { path: CgroupPath::new(&format!("/{name}"))?, cgroups };
        base.prepare().inspect_err(|_| drop(base.remove()))?;
        Ok(base)
    }

    fn prepare(&self) -> Result<()> {
        // On version 2 the making of a child passes the controllers on.
        self.cgroups.create(&self.path.join("first")?)?.remove(DEATH_LIMIT)?;
        // On version 1 the kernel then copies CPUs and memory nodes for each new child.
        let inherit = directories(&self.cgroups.open(&self.path).entry())
            .map(|directory| directory.join("cgroup.clone_children"))
            .find(|file| file.exists() && file.with_file_name("cpuset.cpus").exists());
        inherit.map_or(Ok(()), |file| fs::write(&file, "1").with_context(|| file.display().to_string()))
    }

    /// A name for a cgroup below it.
    pub(super) fn child(&self, name: &str) -> Result<Group> {
        let cgroup = self.cgroups.open(&self.path.join(name)?);
        Ok(Group { entry: cgroup.entry(), cgroup })
    }

    /// Kills whatever is in it or below it, and removes it.
    pub(super) fn remove(&self) -> Result<()> {
        Ok(self.cgroups.open(&self.path).remove(DEATH_LIMIT)?)
    }
}

/// The cgroups of one process: a directory in each hierarchy.
#[derive(Debug)]
pub(super) struct Group {
    cgroup: Cgroup,
    entry: Entry,
}

impl Group {
    /// Makes the directories.
    pub(super) fn make(&self) -> Result<()> {
        directories(&self.entry).try_for_each(|directory| {
            fs::create_dir(directory).with_context(|| format!("make {}", directory.display()))
        })
    }

    /// Allows the devices that every container may use; the one limit that a container without any has.
    pub(super) fn limit(&self) -> Result<()> {
        Ok(self.cgroup.allow_devices(&DEFAULT_DEVICES)?)
    }

    /// The directory to clone into, where there is a version 2 hierarchy.
    pub(super) fn open(&self) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = self.entry.directory.as_ref();
        Ok(directory.map(|directory| open(directory, flags, Mode::empty())).transpose()?)
    }

    /// Moves this process, which has one thread, in on version 1; on version 2 it was born there.
    pub(super) fn enter(&self) -> Result<()> {
        self.entry
            .tasks
            .iter()
            .try_for_each(|file| fs::write(file, "0").with_context(|| format!("enter by {}", file.display())))
    }

    /// On version 1 the directories by the names that they have below `/sys/fs/cgroup`; none on version 2.
    pub(super) fn by_controller(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.entry.tasks.iter().filter_map(|file| {
            let directory = file.parent()?;
            let name = directory.strip_prefix("/sys/fs/cgroup").ok()?.iter().next()?;
            Some((Path::new(name), directory))
        })
    }

    /// Removes the directories; the processes are gone.
    pub(super) fn remove(&self) -> Result<()> {
        directories(&self.entry).try_for_each(|directory| {
            match unlinkat(CWD, directory, AtFlags::REMOVEDIR) {
                // A process that has been reaped may still be on its way out.
                Err(Errno::BUSY) => Ok(self.cgroup.remove(DEATH_LIMIT)?),
                Err(Errno::NOENT) => Ok(()),
                removed => removed.with_context(|| format!("remove {}", directory.display())),
            }
        })
    }
}

fn directories(entry: &Entry) -> impl Iterator<Item = &Path> {
    entry.directory.as_deref().into_iter().chain(entry.tasks.iter().filter_map(|file| file.parent()))
}
