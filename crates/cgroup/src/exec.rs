//! The cgroup of an exec session: a directory below its container's, in one hierarchy, with no controllers.
//!
//! Its one purpose is that a timeout kills the session with all that it started, and nothing else. Everything else
//! about it is the container's: limits and OOM counts are, since no controller is enabled below the container, and
//! so the container's processes may stay in the parent (version 2 forbids that only where controllers are enabled).
//! It goes with the container at the latest.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup::procs_entry;
use crate::{Cgroup, CgroupError, Entry, kill};

/// The cgroup of one exec session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCgroup {
    directory: PathBuf,
    entry: Entry,
}

impl Cgroup {
    /// Makes the cgroup of an exec session, called `name`, below this container's, which must exist.
    pub fn create_exec(&self, name: &str) -> Result<ExecCgroup, CgroupError> {
        let exec = self.open_exec(name)?;
        match fs::create_dir(&exec.directory) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => Err(CgroupError::Create {
                path: exec.directory,
                source,
            }),
            _ => Ok(exec),
        }
    }

    /// A handle to the cgroup of an exec session that may or may not exist.
    pub fn open_exec(&self, name: &str) -> Result<ExecCgroup, CgroupError> {
        let path = self.path().join(name)?;
        let mut directories = self.directories();
        let directory = path.below(&self.cgroups().hierarchies()[0].mount);
        directories[0].clone_from(&directory);
        Ok(ExecCgroup {
            directory,
            entry: procs_entry(self.cgroups().layout(), directories),
        })
    }
}

impl ExecCgroup {
    /// How the session's first process gets in, at the same time into the container's other cgroups; killing through
    /// this entry kills the session alone.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Kills what is left of the session and removes its cgroup; blocks at most for `timeout`.
    ///
    /// Errors: as for [`Cgroup::remove`].
    pub fn remove(&self, timeout: Duration) -> Result<(), CgroupError> {
        kill::remove_tree(&self.directory, timeout)
    }
}
