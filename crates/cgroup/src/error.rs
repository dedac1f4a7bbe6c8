//! What can go wrong with a control group. A caller meets two families: values that were refused
//! ([`CgroupError::is_invalid`]), and operations that the kernel refused, each naming its object.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

/// Why an operation on a control group failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table could not be read.
    #[error("read /proc/self/mountinfo")]
    ReadMounts {
        /// What the kernel said.
        source: io::Error,
    },
    /// No hierarchy is mounted.
    #[error("find a cgroup hierarchy: none is mounted")]
    NotMounted,
    /// A path or slice name names no cgroup below the root.
    #[error("cgroup path {path:?}: {reason}")]
    InvalidPath {
        /// What was given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A limit cannot be expressed.
    #[error("{field} {value:?}: {reason}")]
    InvalidLimit {
        /// Name of the limit.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A directory could not be made, or not prepared for use.
    #[error("create cgroup {}", path.display())]
    Create {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A limit needs a controller that the kernel or the layout does not have.
    #[error("set {field} to {value:?}: there is no {controller} controller")]
    NoController {
        /// Name of the limit.
        field: &'static str,
        /// What was to be written.
        value: String,
        /// Which controller.
        controller: String,
    },
    /// A controller could not be enabled for the children of a cgroup.
    #[error("enable controller {controller} in {}", path.display())]
    EnableController {
        /// Which controller.
        controller: String,
        /// The `cgroup.subtree_control` file.
        path: PathBuf,
        /// What the kernel said; busy means that the cgroup has processes of its own.
        source: io::Error,
    },
    /// The kernel refused a value.
    #[error("set {field}: write {value:?} to {}", path.display())]
    Set {
        /// Name of the limit.
        field: &'static str,
        /// What was written.
        value: String,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A process could not be moved.
    #[error("move process {pid} by {}", path.display())]
    Adopt {
        /// Which.
        pid: u32,
        /// The `cgroup.procs` file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the program that controls the devices.
    #[error("control the devices of cgroup {}", path.display())]
    AllowDevices {
        /// The cgroup's directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The processes use more memory than the new limit allows, and the kernel could not reclaim enough.
    #[error("set memory limit to {limit_bytes}: {usage_bytes} bytes are in use in {}", path.display())]
    BelowUsage {
        /// What was asked for.
        limit_bytes: u64,
        /// What is in use after reclaim.
        usage_bytes: u64,
        /// The cgroup's directory.
        path: PathBuf,
    },
    /// A file or directory could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file does not hold what the kernel's documents say.
    #[error("read {}: no valid {key} line", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line that was looked for.
        key: &'static str,
    },
    /// The processes could not be killed.
    #[error("kill the processes of cgroup {}", path.display())]
    Kill {
        /// The file that was written.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Processes outlived the deadline.
    #[error("remove cgroup {}: processes {pids:?} still in it after {waited:?}", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// Who is still there; a process in uninterruptible sleep (state D) cannot die before its I/O ends.
        pids: Vec<u32>,
        /// How long was waited.
        waited: Duration,
    },
    /// A directory could not be removed.
    #[error("remove cgroup {}", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CgroupError {
    /// Whether the value given was refused, not the operation: a client's mistake.
    pub fn is_invalid(&self) -> bool {
        // This is how the kernel says that it does not like a value.
        let is_refusal = |source| matches!(Errno::from_io_error(source), Some(Errno::INVAL | Errno::RANGE));
        matches!(self, Self::InvalidPath { .. } | Self::InvalidLimit { .. })
            || matches!(self, Self::Set { source, .. } if is_refusal(source))
    }
}
