//! The cgroup of an exec session: a directory below its container's, in one hierarchy, with no controllers.
//!
//! Its one purpose is that a timeout kills the session with all that it started, and nothing else. Everything else
//! about it is the container's: limits and OOM counts are, since no controller is enabled below the container, and
//! so the container's processes may stay in the parent (version 2 forbids that only where controllers are enabled).
//! It is made by the monitor, which knows of the container only its [`Entry`], and goes with the container at the
//! latest.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use crate::{CgroupError, Entry, files, kill};

/// The cgroup of one exec session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCgroup {
    /// The container's, in the same hierarchy.
    parent: PathBuf,
    directory: PathBuf,
    entry: Entry,
}

impl ExecCgroup {
    /// Makes the cgroup of an exec session below that of the container with this entry; `name` is one path component.
    /// One that exists is taken over.
    ///
    /// Errors: the container's cgroup does not exist, or the kernel refused.
    pub fn create(container: &Entry, name: &str) -> Result<Self, CgroupError> {
        let invalid = |reason| CgroupError::InvalidPath { path: name.to_owned(), reason };
        if name.contains('/') || matches!(name, "" | "." | "..") {
            return Err(invalid("not one path component"));
        }
        let parent =
            container.killing_directory().ok_or_else(|| invalid("the container has no cgroup"))?.to_owned();
        let directory = parent.join(name);
        let moved = |file: &PathBuf| match file.parent() == Some(&parent) {
            true => directory.join("tasks"),
            false => file.clone(),
        };
        let entry = Entry {
            directory: container.directory.as_ref().map(|_| directory.clone()),
            tasks: container.tasks.iter().map(moved).collect(),
        };
        match fs::create_dir(&directory) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                Err(CgroupError::Create { path: directory, source })
            }
            _ => Ok(Self { parent, directory, entry }),
        }
    }

    /// How the session's first process gets in, at the same time into the container's other cgroups; killing through
    /// this entry kills the session alone.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Kills what is left of the session and removes its cgroup; blocks at most for `timeout`.
    ///
    /// Errors: as for [`crate::Cgroup::remove`].
    pub fn remove(&self, timeout: Duration) -> Result<(), CgroupError> {
        kill::remove_tree(&self.directory, timeout)
    }

    /// Removes the cgroup and leaves to the container what the session left running, as a daemon started by hand
    /// should stay. Does not wait: what a fork brings in meanwhile goes with the container.
    ///
    /// Errors: it could not be removed; it goes with the container's.
    pub fn dissolve(&self) -> Result<(), CgroupError> {
        let fail = |source| CgroupError::Remove { path: self.directory.clone(), source };
        match files::remove_tree(&self.directory) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
            removed => return removed.map_err(fail),
        }
        for pid in files::pids_in_tree(&self.directory).map_err(fail)? {
            // One that has just died needs no new home.
            let _ = files::write(&self.parent.join("cgroup.procs"), &pid.to_string());
        }
        files::remove_tree(&self.directory).map_err(fail)
    }
}
