//! One control group, in every hierarchy at once.
//!
//! A handle of two names; the kernel holds the state. Order of a container's life: create, devices, limits, entry,
//! (exec sessions), OOM count after the exit, remove.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::hierarchy::enable;
use crate::limits::{Need, Setting, v1_settings, v2_settings};
use crate::{
    CgroupError, CgroupPath, Cgroups, DeviceRule, Entry, Layout, Limit, Limits, device_program, files, kill,
};

/// A cgroup, which may or may not exist.
#[derive(Clone, Debug)]
pub struct Cgroup {
    cgroups: Cgroups,
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

    /// How a new process gets in; also what [`crate::kill_all`] takes.
    pub fn entry(&self) -> Entry {
        procs_entry(self.cgroups.layout(), self.directories())
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

    /// Sets the limits that are given and leaves the others.
    ///
    /// The kernel checks some of them against each other or against a parent's (on version 1 memory against
    /// memory+swap, and quota against period), so that the right order depends on what is set already: what is refused is
    /// tried again after the rest, and only then an error.
    ///
    /// Errors: a value that cannot be expressed, before anything was written; one that the kernel refuses, a controller
    /// that is missing, or memory in use beyond the limit, when others may have been written.
    pub fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        let settings = match self.cgroups.layout() {
            Layout::Unified => {
                let settings = v2_settings(limits, &self.current_quota(limits))?;
                self.make_room(limits)?;
                settings
            }
            Layout::Hybrid | Layout::Legacy => v1_settings(limits)?,
        };
        let refused: Vec<_> = settings.iter().filter(|setting| self.write(setting).is_err()).collect();
        refused.into_iter().try_for_each(|setting| self.write(setting))
    }

    /// Lets the processes use only the devices that `rules` allow; rules that were given before are replaced, on version 2
    /// in one step.
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

    /// Its directory in each hierarchy; the first is the one through which it is killed.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let hierarchies = self.cgroups.hierarchies().iter();
        hierarchies.map(|hierarchy| self.path.below(&hierarchy.mount)).collect()
    }

    fn directory_of(&self, controller: &str) -> Option<PathBuf> {
        let mut hierarchies = self.cgroups.hierarchies().iter();
        Some(self.path.below(&hierarchies.find(|hierarchy| hierarchy.has(controller))?.mount))
    }

    fn write(&self, setting: &Setting) -> Result<(), CgroupError> {
        let Setting { field, file, value, need } = setting;
        let controller = setting.controller();
        let Some(directory) = self.directory_of(controller) else {
            return match need {
                Need::IfPresent => Ok(()),
                Need::Required => Err(CgroupError::NoController {
                    field,
                    value: value.clone(),
                    controller: controller.to_owned(),
                }),
            };
        };
        let path = directory.join(file);
        match files::write(&path, value) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && *need == Need::IfPresent => Ok(()),
            Err(error) => {
                if error.kind() == ErrorKind::NotFound && self.cgroups.layout() == Layout::Unified {
                    // Not passed on by the parent: ask again, for the reason. If it works now, the second try will.
                    enable(directory.parent().unwrap_or(Path::new("/")), controller)?;
                }
                Err(CgroupError::Set { field, value: value.clone(), path, source: error })
            }
        }
    }

    /// The quota that a new period must not change: version 2 has both in one file.
    fn current_quota(&self, limits: &Limits) -> String {
        let is_needed = limits.cpu_period_us.is_some() && limits.cpu_quota_us.is_none();
        let read = || fs::read_to_string(self.directory_of("cpu")?.join("cpu.max")).ok();
        let text = if is_needed { read() } else { None };
        text.as_deref().and_then(|text| text.split(' ').next()).unwrap_or("max").to_owned()
    }

    /// Version 2 answers a memory limit below the usage with OOM kills (version 1 refuses it): reclaim first, and
    /// refuse what cannot be reclaimed.
    fn make_room(&self, limits: &Limits) -> Result<(), CgroupError> {
        let (Some(Limit::At(limit_bytes)), Some(path)) = (limits.memory_bytes, self.directory_of("memory"))
        else {
            return Ok(());
        };
        let usage = || fs::read_to_string(path.join("memory.current")).ok()?.trim().parse().ok();
        let excess = |usage_bytes: u64| usage_bytes.checked_sub(limit_bytes).filter(|excess| *excess > 0);
        let Some(excess_bytes) = usage().and_then(excess) else {
            return Ok(());
        };
        // EAGAIN says that less was reclaimed than asked for; the usage says whether it suffices.
        let _ = files::write(&path.join("memory.reclaim"), &excess_bytes.to_string());
        match usage() {
            Some(usage_bytes) if usage_bytes > limit_bytes => {
                Err(CgroupError::BelowUsage { limit_bytes, usage_bytes, path })
            }
            _ => Ok(()),
        }
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
mod tests {
    use super::*;
    use crate::ExecCgroup;

    /// A cgroup of version 2 made of plain files, which exist before they are written, as the kernel's do.
    fn unified(directory: &Path, files: &[(&str, &str)]) -> Cgroup {
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

    #[test]
    fn a_new_period_keeps_the_quota() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = unified(dir.path(), &[("cpu.max", "20000 99999\n")]);
        cgroup.apply(&Limits { cpu_period_us: Some(50_000), ..Limits::default() }).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("web/cpu.max")).unwrap(), "20000 50000\n");
    }

    #[test]
    fn memory_in_use_is_not_limited_away() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("memory.current", "2000\n"), ("memory.reclaim", ""), ("memory.max", "max")];
        let cgroup = unified(dir.path(), &files);
        let limit = |bytes| Limits { memory_bytes: Some(Limit::At(bytes)), ..Limits::default() };
        let error = cgroup.apply(&limit(500)).unwrap_err();
        assert!(
            matches!(error, CgroupError::BelowUsage { limit_bytes: 500, usage_bytes: 2000, .. }),
            "{error}"
        );
        assert_eq!(fs::read_to_string(dir.path().join("web/memory.reclaim")).unwrap(), "1500");
        assert_eq!(fs::read_to_string(dir.path().join("web/memory.max")).unwrap(), "max");
        cgroup.apply(&limit(2000)).unwrap();
    }

    #[test]
    fn a_missing_controller_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = unified(dir.path(), &[]);
        let check = |limits: Limits, expected: &str| {
            let error = cgroup.apply(&limits).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        // The kernel has no cpuset; it has pids, but the parent does not pass it on.
        let cpuset_cpus = Some("0".to_owned());
        check(
            Limits { cpuset_cpus, ..Limits::default() },
            "set cpuset cpus to \"0\": there is no cpuset controller",
        );
        check(Limits { pids: Some(Limit::At(1)), ..Limits::default() }, "enable controller pids in /");
        cgroup
            .apply(&Limits { hugepages_bytes: [("2MB".to_owned(), 0)].into(), ..Limits::default() })
            .unwrap();
    }
}
