//! How a new process gets into a control group, as plain paths: this is what the agent sends to a pod's monitor.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The way into a cgroup; it stays valid until the cgroup is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// Version 2: open this directory and clone into it (`CLONE_INTO_CGROUP`).
    Directory(PathBuf),
    /// Version 1: the child writes `0` to each of these `cgroup.procs` files, before it does anything else.
    Files(Vec<PathBuf>),
}

impl Entry {
    /// The directory through which the processes are best counted and killed.
    pub(crate) fn killing_directory(&self) -> Option<&Path> {
        match self {
            Entry::Directory(directory) => Some(directory),
            Entry::Files(files) => {
                let having = |name: &str| files.iter().find(|file| file.with_file_name(name).exists());
                having("cgroup.kill")
                    .or_else(|| having("freezer.state"))
                    .or(files.first())?
                    .parent()
            }
        }
    }
}
