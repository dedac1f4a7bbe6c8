//! One control group, in every hierarchy at once.
//!
//! A handle of two names; the kernel holds the state. Order of a container's life: create, devices, limits (in
//! `apply`), entry, (exec sessions, other limits), OOM count after the exit, remove.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::{CgroupError, CgroupPath, Cgroups, DeviceRule, Entry, Layout, device_program, files, kill};

/// A cgroup, which may or may not exist.
#[derive(Clone, Debug)]
pub struct Cgroup {
    pub(crate) cgroups: Cgroups,
    path: CgroupPath,
}

impl Cgroup {
    pub(crate) fn new(cgroups: Cgroups, path: CgroupPath) -> Self {
        Self { cgroups, path }
    }

    /// Its name in the hierarchy.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Whether it is there, in every hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().iter().all(|directory| directory.is_dir())
    }

    /// How a new process gets in; also what [`crate::kill_all`] takes.
    pub fn entry(&self) -> Entry {
        procs_entry(self.cgroups.layout(), self.directories())
    }

    /// Moves a process with all its threads into it; one that has ended is no error.
    ///
    /// Blocks for some 10 ms, in which the kernel waits until no processor can be in the middle of a fork: processes that
    /// are new had better be born inside, see [`Cgroup::entry`]. Calls that follow soon take microseconds.
    pub fn adopt(&self, pid: u32) -> Result<(), CgroupError> {
        for directory in self.directories() {
            let path = directory.join("cgroup.procs");
            match files::write(&path, &pid.to_string()) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(()),
                moved => moved.map_err(|source| CgroupError::Adopt { pid, path, source })?,
            }
        }
        Ok(())
    }

    /// The file that counts OOM kills, for [`crate::read_oom_kills`]; `None` where there is no memory controller.
    pub fn oom_file(&self) -> Option<PathBuf> {
        let name = match self.cgroups.layout() {
            Layout::Unified => "memory.events",
            Layout::Hybrid | Layout::Legacy => "memory.oom_control",
        };
        Some(self.directory_of("memory")?.join(name))
    }

    /// The processes in it and in all cgroups below it; none if it does not exist.
    pub fn procs(&self) -> Result<Vec<u32>, CgroupError> {
        let directory = self.directories().swap_remove(0);
        files::pids_in_tree(&directory).map_err(|source| CgroupError::Read { path: directory, source })
    }

    /// Lets the processes use only the devices that `rules` allow; rules that were given before are replaced, on
    /// version 2 in one step.
    ///
    /// On version 1 call it while the cgroup has no children. Where nothing can control devices
    /// ([`Cgroups::controls_devices`]), nothing is done.
    pub fn allow_devices(&self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        match (self.cgroups.layout(), self.directory_of("devices")) {
            (Layout::Unified, _) if self.cgroups.controls_devices() => {
                let path = self.directories().swap_remove(0);
                let replaced = device_program::replace(&path, rules);
                replaced.map_err(|errno| CgroupError::AllowDevices { path, source: errno.into() })
            }
            (Layout::Hybrid | Layout::Legacy, Some(directory)) => allow_devices_v1(&directory, rules),
            (Layout::Unified, _) | (_, None) => Ok(()),
        }
    }

    /// Kills every process in it, waits for them at most until `timeout`, and removes it with all cgroups below it.
    ///
    /// Blocks. Errors: a process did not die in time (named), or the kernel refused; calling again is right.
    pub fn remove(&self, timeout: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + timeout;
        for directory in self.directories() {
            kill::remove_tree(&directory, deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// Removes it with all cgroups below it where nobody is inside; absent means done. False if somebody is, and then some
    /// of it stays.
    pub fn remove_if_empty(&self) -> Result<bool, CgroupError> {
        for path in self.directories() {
            match files::remove_tree(&path) {
                Ok(()) => {}
                Err(error) if files::is_in_use(&error) => return Ok(false),
                Err(source) => return Err(CgroupError::Remove { path, source }),
            }
        }
        Ok(true)
    }

    /// Its directory in each hierarchy; the first is the one through which it is killed.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let hierarchies = self.cgroups.hierarchies().iter();
        hierarchies.map(|hierarchy| self.path.below(&hierarchy.mount)).collect()
    }

    pub(crate) fn layout(&self) -> Layout {
        self.cgroups.layout()
    }

    /// Its directory in the version 2 hierarchy, if there is one.
    pub(crate) fn unified_directory(&self) -> Option<PathBuf> {
        match self.layout() {
            // It is the first.
            Layout::Unified | Layout::Hybrid => {
                Some(self.path.below(&self.cgroups.hierarchies().first()?.mount))
            }
            Layout::Legacy => None,
        }
    }

    pub(crate) fn directory_of(&self, controller: &str) -> Option<PathBuf> {
        let mut hierarchies = self.cgroups.hierarchies().iter();
        Some(self.path.below(&hierarchies.find(|hierarchy| hierarchy.has(controller))?.mount))
    }
}

fn allow_devices_v1(directory: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let write = |name, value: String| {
        let path = directory.join(name);
        let result = files::write(&path, &value);
        result.map_err(|source| CgroupError::Set { field: "devices", value, path, source })
    };
    write("devices.deny", "a".to_owned())?;
    rules.iter().try_for_each(|rule| write("devices.allow", rule.to_string()))
}

/// The entry to the cgroup that has these directories, one in each hierarchy.
pub(crate) fn procs_entry(layout: Layout, mut directories: Vec<PathBuf>) -> Entry {
    let directory = match layout {
        // The version 2 hierarchy is the first.
        Layout::Unified | Layout::Hybrid => Some(directories.remove(0)),
        Layout::Legacy => None,
    };
    Entry { directory, tasks: directories.into_iter().map(|directory| directory.join("tasks")).collect() }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;
    use crate::ExecCgroup;

    /// A cgroup of version 2 made of plain files, which exist before they are written, as the kernel's do.
    pub(crate) fn unified(directory: &Path, files: &[(&str, &str)]) -> Cgroup {
        fs::write(directory.join("cgroup.controllers"), "cpu memory pids").unwrap();
        let text = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw", directory.display());
        let cgroups = Cgroups::from_mountinfo(&text).unwrap();
        let cgroup = cgroups.create(&CgroupPath::new("/web").unwrap()).unwrap();
        for (name, content) in files {
            fs::write(directory.join("web").join(name), content).unwrap();
        }
        cgroup
    }

    fn v2(directory: PathBuf) -> Entry {
        Entry { directory: Some(directory), tasks: Vec::new() }
    }

    #[test]
    fn version_2_is_entered_through_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = unified(dir.path(), &[]);
        assert_eq!(cgroup.entry(), v2(dir.path().join("web")));
        assert_eq!(cgroup.oom_file(), Some(dir.path().join("web/memory.events")));
        let exec = ExecCgroup::create(&cgroup.entry(), "exec").unwrap();
        assert_eq!(*exec.entry(), v2(dir.path().join("web/exec")));
    }
}
