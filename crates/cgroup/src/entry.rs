//! How a new process gets into a control group, as plain paths: this is what the agent sends to a pod's monitor.
//!
//! Moving a process by its `cgroup.procs` file makes the kernel wait until no processor is in a fork or exit any more,
//! some ten milliseconds. Two ways are free of that, and together they cover every layout: being born inside on
//! version 2, and on version 1 the `tasks` file, to which a process with one thread writes `0` for itself.
//! Source: clone(2), `CLONE_INTO_CGROUP`; Linux `cgroup_procs_write_start`, which takes no lock for that case.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The way into a cgroup; it stays valid until the cgroup is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Version 2, with or without controllers: open this directory and clone into it.
    pub directory: Option<PathBuf>,
    /// Version 1: the child writes `0` to each of these `tasks` files, while it has one thread and before it does
    /// anything else.
    pub tasks: Vec<PathBuf>,
}

impl Entry {
    /// The directory through which the processes are best counted and killed.
    pub(crate) fn killing_directory(&self) -> Option<&Path> {
        let has_freezer = |file: &&PathBuf| file.with_file_name("freezer.state").exists();
        let v1 = || self.tasks.iter().find(has_freezer).or(self.tasks.first())?.parent();
        self.directory.as_deref().or_else(v1)
    }
}
