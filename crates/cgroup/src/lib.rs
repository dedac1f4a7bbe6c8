//! Control groups: make, limit, enter, kill, remove. Version 2 first, version 1 beside it.
//!
//! The agent owns every [`Cgroup`]; the monitor gets only an [`Entry`] in its launch plan, with which a new process
//! goes in and all of them are killed. All calls are short file operations, except [`Cgroup::remove`] and
//! [`ExecCgroup::remove`], which wait for processes to die until a deadline: from async code call them on a blocking
//! thread. Nothing is cached but which hierarchies are mounted; the kernel's files are the state.
//!
//! ```text
//! layout    what is mounted                          where a container is        killed by
//! Unified   cgroup2 with the controllers             one directory               cgroup.kill
//! Hybrid    v1 controllers, cgroup2 without any      a directory in each         cgroup.kill in the cgroup2
//! Legacy    v1 controllers                           a directory in each         freezer and SIGKILL
//! ```
//! An exec session has a directory below the container's, in one hierarchy only and with no controller of its own, so
//! that it can be killed alone while the container's limits count it.
//!
//! Everything is idempotent: making what exists and removing what is gone succeed. Not here: the systemd D-Bus
//! interface (slice names are understood, see [`CgroupPath::from_parent`]).

mod apply;
mod cgroup;
mod device_program;
mod devices;
mod entry;
mod error;
mod exec;
mod files;
mod hierarchy;
mod kill;
mod limits;
mod oom;
mod path;
mod stats;

pub use cgroup::Cgroup;
pub use devices::{DEFAULT_DEVICES, DeviceAccess, DeviceKind, DeviceRule};
pub use entry::Entry;
pub use error::CgroupError;
pub use exec::ExecCgroup;
pub use hierarchy::{Cgroups, Layout};
pub use kill::kill_all;
pub use limits::{Limit, Limits};
pub use oom::read_oom_kills;
pub use path::{CgroupPath, Driver};
pub use stats::{
    Allowance, CpuDetail, Detail, DeviceIo, HugePages, MemoryDetail, MemoryUsage, Meter, Pressure,
    PressureUsage, Stall, Throttling, Usage,
};
