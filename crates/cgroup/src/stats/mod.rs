//! What the processes of a cgroup have used, read from the kernel's files.
//!
//! A [`Meter`] belongs to one cgroup and reads; `parse` turns the texts into the numbers below and is pure. What the
//! kernel or the layout does not have is `None`: no controller, no accounting of swap, no pressure stall information.
//! A cgroup that is gone has nothing at all ([`Usage::is_empty`]). Nothing here fails otherwise: a number that could
//! not be read is a number that is not there.
//!
//! All numbers include what is below the cgroup, so a pod's are those of its own cgroup and no sum.

mod meter;
mod parse;

pub use meter::{Allowance, Meter};

/// What is asked for all the time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// CPU time on all cores since the cgroup was made, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// How long tasks had to wait for something.
    pub pressure: PressureUsage,
}

/// Memory and swap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// All that is charged to the cgroup, caches included.
    pub usage_bytes: u64,
    /// Pages of files that nobody has used lately: what the kernel takes back first.
    pub inactive_file_bytes: u64,
    /// Anonymous memory, transparent huge pages included.
    pub anonymous_bytes: u64,
    /// Pages of files.
    pub cache_bytes: u64,
    /// Pages of files that are mapped.
    pub mapped_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that took a read from a disk.
    pub major_page_faults: u64,
    /// The cgroup's own limit; `None` without one.
    pub limit_bytes: Option<u64>,
    /// `None` where swap is not accounted.
    pub swap_bytes: Option<u64>,
    /// Swap beyond the memory; `None` without a limit.
    pub swap_limit_bytes: Option<u64>,
}

/// Pressure stall information of the three resources that have it.
/// Source: kernel accounting/psi.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PressureUsage {
    /// Waiting for a CPU.
    pub cpu: Option<Pressure>,
    /// Waiting for memory.
    pub memory: Option<Pressure>,
    /// Waiting for a disk.
    pub io: Option<Pressure>,
}

/// How long tasks had to wait for one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks that could have run waited.
    pub full: Stall,
}

/// A share of the time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total_us: u64,
}

/// What only a monitoring system asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// CPU time by where it was spent.
    pub cpu: Option<CpuDetail>,
    /// How often the CPU quota was spent.
    pub throttling: Option<Throttling>,
    /// More about memory.
    pub memory: Option<MemoryDetail>,
    /// Most processes and threads; `None` without a limit.
    pub tasks_limit: Option<u64>,
    /// How often a process or thread was not made for that limit, or for one of a parent's; on version 2 only for its own
    /// and those below it.
    pub tasks_refused: Option<u64>,
    /// Reads and writes of block devices, those that have any.
    pub devices: Vec<DeviceIo>,
    /// Huge pages, by size.
    pub huge_pages: Vec<HugePages>,
}

/// CPU time by where it was spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuDetail {
    /// In the programs, in nanoseconds.
    pub user_ns: u64,
    /// In the kernel, in nanoseconds.
    pub system_ns: u64,
}

/// How often the CPU quota was spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which anything ran.
    pub periods: u64,
    /// Those of them in which the quota was spent.
    pub throttled_periods: u64,
    /// Time without a CPU for that reason, in nanoseconds.
    pub throttled_ns: u64,
}

/// More about memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    /// The highest usage so far; `None` before Linux 5.19 on version 2.
    pub peak_bytes: Option<u64>,
    /// What the kernel itself holds for the cgroup.
    pub kernel_bytes: u64,
    /// How often the usage met the limit.
    pub limit_hits: u64,
    /// Processes that were killed for want of memory.
    pub oom_kills: u64,
}

/// Reads and writes of one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's number, first half.
    pub major: u32,
    /// The device's number, second half.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Like `2MB`.
    pub page_size: String,
    /// In use.
    pub usage_bytes: u64,
    /// The highest usage so far; on version 2, which keeps none, the highest that the meter has read.
    pub peak_bytes: u64,
}

impl Usage {
    /// Whether nothing could be read: there is no such cgroup.
    pub fn is_empty(&self) -> bool {
        self.cpu_ns.is_none() && self.memory.is_none() && self.tasks.is_none()
    }
}

impl MemoryUsage {
    /// What the processes can't do without: the usage without the inactive pages of files.
    pub fn working_set_bytes(&self) -> u64 {
        self.usage_bytes.saturating_sub(self.inactive_file_bytes)
    }

    /// How much more can be used before the limit; `None` without one.
    pub fn available_bytes(&self) -> Option<u64> {
        Some(self.limit_bytes?.saturating_sub(self.working_set_bytes()))
    }

    /// How much more can be swapped out; `None` without a limit.
    pub fn swap_available_bytes(&self) -> Option<u64> {
        Some(self.swap_limit_bytes?.saturating_sub(self.swap_bytes?))
    }
}
