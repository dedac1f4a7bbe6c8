//! Writing limits: all at once for a new cgroup, and for one in use with a way back.
//!
//! The kernel checks some limits against each other or against a parent's (on version 1 memory against memory+swap,
//! and quota against period), so the right order depends on what is set already. It is not worked out: what is refused
//! is tried again after the rest, and only then an error.
//!
//! A memory limit below the usage must not kill. Version 1 reclaims and refuses what it can't (EBUSY). Version 2 would
//! kill until it fits, so there the limit goes down in two steps: as `memory.high`, which reclaims and slows allocation
//! but never kills, and only if the usage fits then as `memory.max`. Until that is written `memory.high` stays down, so
//! that the usage does not grow again in between.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::hierarchy::enable;
use crate::limits::{Need, Setting, v1_settings, v2_settings};
use crate::{Cgroup, CgroupError, Layout, Limit, Limits, files};

/// The file of version 1 that refuses a value below the usage.
const MEMORY_LIMIT_V1: &str = "memory.limit_in_bytes";

/// What a file held before it was written.
struct Former {
    path: PathBuf,
    text: String,
}

impl Cgroup {
    /// Sets the limits that are given and leaves the others; for a cgroup that nobody uses yet. Returns which hugepage
    /// limits were left out for want of a controller or page size.
    ///
    /// Errors: a value that cannot be expressed, before anything was written; one that the kernel refuses, or a
    /// controller that is missing, when others may have been written.
    pub fn apply(&self, limits: &Limits) -> Result<Vec<String>, CgroupError> {
        let settings = self.settings(limits)?;
        self.write_all(&settings)?;
        Ok(settings.iter().filter_map(|setting| self.left_out(setting)).collect())
    }

    /// Changes limits of a cgroup in use that has the limits `current`: all that `change` gives, or nothing. Returns
    /// the limits that hold then.
    ///
    /// Errors: as for [`Cgroup::apply`], and [`CgroupError::BelowUsage`]; what had been written has been taken back.
    pub fn update(&self, current: &Limits, change: &Limits) -> Result<Limits, CgroupError> {
        let settings = self.settings(&current.effective(change))?;
        let former: Vec<Former> = settings.iter().filter_map(|setting| self.read(setting)).collect();
        let changed = self.shrink_memory(change).and_then(|high| {
            let written = self.write_all(&settings);
            // One that the change itself sets is no longer the former one.
            let is_set = |high: &Former| written.is_ok() && former.iter().any(|file| file.path == high.path);
            let restored = high.filter(|high| !is_set(high)).map_or(Ok(()), |high| take_back(&high));
            written.and(restored)
        });
        match changed {
            Ok(()) => Ok(current.with(change)),
            Err(error) => {
                restore(&former);
                Err(error)
            }
        }
    }

    fn settings(&self, limits: &Limits) -> Result<Vec<Setting>, CgroupError> {
        match self.cgroups.layout() {
            Layout::Unified => v2_settings(limits, &self.current_quota(limits)),
            Layout::Hybrid | Layout::Legacy => v1_settings(limits),
        }
    }

    fn write_all(&self, settings: &[Setting]) -> Result<(), CgroupError> {
        let refused: Vec<_> = settings.iter().filter(|setting| self.write(setting).is_err()).collect();
        refused.into_iter().try_for_each(|setting| self.write(setting))
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
            Err(error) if file == MEMORY_LIMIT_V1 && Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                Err(below_usage(directory, value.parse().unwrap_or_default(), "memory.usage_in_bytes"))
            }
            Err(error) => {
                if error.kind() == ErrorKind::NotFound && self.cgroups.layout() == Layout::Unified {
                    // Not passed on by the parent: ask again, for the reason. If it works now, the second try will.
                    enable(directory.parent().unwrap_or(Path::new("/")), controller)?;
                }
                Err(CgroupError::Set { field, value: value.clone(), path, source: error })
            }
        }
    }

    /// What a file holds; `None` where it is missing, which the write will tell.
    fn read(&self, setting: &Setting) -> Option<Former> {
        let path = self.directory_of(setting.controller())?.join(&setting.file);
        let text = fs::read_to_string(&path).ok()?;
        Some(Former { path, text })
    }

    /// What is told of a hugepage limit that has nothing to hold it. Zero is what is used there anyway.
    fn left_out(&self, setting: &Setting) -> Option<String> {
        let Setting { field, file, value, need } = setting;
        let is_asked_for = *need == Need::IfPresent && file.starts_with("hugetlb.") && value != "0";
        let exists = || self.directory_of("hugetlb").is_some_and(|directory| directory.join(file).exists());
        (is_asked_for && !exists()).then(|| format!("{field} {value} is left out: there is no {file} here"))
    }

    /// The quota that a new period must not change: version 2 has both in one file.
    fn current_quota(&self, limits: &Limits) -> String {
        let is_needed = limits.cpu_period_us.is_some() && limits.cpu_quota_us.is_none();
        let read = || fs::read_to_string(self.directory_of("cpu")?.join("cpu.max")).ok();
        let text = if is_needed { read() } else { None };
        text.as_deref().and_then(|text| text.split(' ').next()).unwrap_or("max").to_owned()
    }

    /// The first step down of version 2; see the module. Returns what `memory.high` held, where it has been lowered; on
    /// an error it is as it was.
    fn shrink_memory(&self, change: &Limits) -> Result<Option<Former>, CgroupError> {
        let (Some(Limit::At(limit_bytes)), Layout::Unified) = (change.memory_bytes, self.cgroups.layout())
        else {
            return Ok(None);
        };
        let Some(directory) = self.directory_of("memory") else { return Ok(None) };
        if usage_bytes(&directory, "memory.current").is_none_or(|usage_bytes| usage_bytes <= limit_bytes) {
            return Ok(None);
        }
        let path = directory.join("memory.high");
        let text = fs::read_to_string(&path).unwrap_or_else(|_| "max".to_owned());
        let high = Former { path, text };
        // The kernel reclaims within this write. Whether enough, the usage says.
        let value = limit_bytes.to_string();
        if let Err(source) = files::write(&high.path, &value) {
            return Err(CgroupError::Set { field: "memory limit", value, path: high.path, source });
        }
        match usage_bytes(&directory, "memory.current") {
            Some(usage_bytes) if usage_bytes <= limit_bytes => Ok(Some(high)),
            _ => {
                take_back(&high)?;
                Err(below_usage(directory, limit_bytes, "memory.current"))
            }
        }
    }
}

/// Sets `memory.high` as it was.
fn take_back(high: &Former) -> Result<(), CgroupError> {
    let (value, path) = (high.text.trim().to_owned(), high.path.clone());
    write_back(high).map_err(|source| CgroupError::Set { field: "memory high", value, path, source })
}

fn usage_bytes(directory: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
}

fn below_usage(path: PathBuf, limit_bytes: u64, usage_file: &str) -> CgroupError {
    let usage_bytes = usage_bytes(&path, usage_file).unwrap_or_default();
    CgroupError::BelowUsage { limit_bytes, usage_bytes, path }
}

/// Writes back what files held, the last first, and again what was refused: they held it together before. What can't be
/// written any more belongs to a cgroup that is gone.
fn restore(former: &[Former]) {
    let refused: Vec<&Former> = former.iter().rev().filter(|former| write_back(former).is_err()).collect();
    for former in refused {
        let _ = write_back(former);
    }
}

/// Files with several keys take one line at a time; an empty list is written as an empty line.
fn write_back(former: &Former) -> io::Result<()> {
    match former.text.trim() {
        "" => files::write(&former.path, "\n"),
        text => text.lines().try_for_each(|line| files::write(&former.path, line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::unified;

    fn read(directory: &Path, file: &str) -> String {
        fs::read_to_string(directory.join("web").join(file)).unwrap().trim().to_owned()
    }

    #[test]
    fn a_new_period_keeps_the_quota() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = unified(dir.path(), &[("cpu.max", "20000 99999\n")]);
        cgroup.apply(&Limits { cpu_period_us: Some(50_000), ..Limits::default() }).unwrap();
        assert_eq!(read(dir.path(), "cpu.max"), "20000 50000");
    }

    #[test]
    fn memory_in_use_is_not_limited_away() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("memory.current", "2000\n"), ("memory.high", "max\n"), ("memory.max", "9999\n")];
        let cgroup = unified(dir.path(), &files);
        let limit = |bytes| Limits { memory_bytes: Some(Limit::At(bytes)), ..Limits::default() };
        let error = cgroup.update(&limit(9999), &limit(500)).unwrap_err();
        let is_named = matches!(error, CgroupError::BelowUsage { limit_bytes: 500, usage_bytes: 2000, .. });
        assert!(is_named, "{error}");
        assert_eq!(
            (read(dir.path(), "memory.high"), read(dir.path(), "memory.max")),
            ("max".into(), "9999".into())
        );
        let now = cgroup.update(&limit(9999), &limit(2000)).unwrap();
        assert_eq!(now.memory_bytes, Some(Limit::At(2000)));
        assert_eq!(read(dir.path(), "memory.max"), "2000");
    }

    #[test]
    fn memory_stays_held_down_until_the_limit_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = unified(dir.path(), &[("memory.high", "2000\n")]);
        // One file in the place of all three: the usage follows at once, and what is written last stays.
        for name in ["memory.current", "memory.max"] {
            let path = dir.path().join("web").join(name);
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink("memory.high", path).unwrap();
        }
        let limits = |bytes| Limits { memory_bytes: Some(Limit::At(bytes)), ..Limits::default() };
        cgroup.update(&limits(9999), &limits(1000)).unwrap();
        assert_eq!(read(dir.path(), "memory.high"), "2000");
    }

    #[test]
    fn a_refused_change_takes_back_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = unified(dir.path(), &[("cpu.weight", "100\n"), ("cpu.max", "max 100000\n")]);
        let change = Limits {
            cpu_shares: Some(512),
            cpu_quota_us: Some(Limit::At(5000)),
            cpuset_cpus: Some("0".to_owned()),
            ..Limits::default()
        };
        let error = cgroup.update(&Limits::default(), &change).unwrap_err();
        assert!(matches!(error, CgroupError::NoController { .. }), "{error}");
        assert_eq!(
            (read(dir.path(), "cpu.weight"), read(dir.path(), "cpu.max")),
            ("100".into(), "max 100000".into())
        );
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
    }

    #[test]
    fn hugepages_that_nothing_can_limit_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = unified(dir.path(), &[]);
        let limits =
            |bytes| Limits { hugepages_bytes: [("2MB".to_owned(), bytes)].into(), ..Limits::default() };
        assert!(cgroup.apply(&limits(0)).unwrap().is_empty());
        let left_out = cgroup.apply(&limits(4)).unwrap();
        assert_eq!(left_out[0], "hugepage limit 4 is left out: there is no hugetlb.2MB.max here");
    }
}
