//! What a container may use, and how each version of the kernel's interface spells it.
//!
//! [`Limits`] speaks the CRI's units; two pure functions turn it into files and values, in the order in which they are
//! written. A limit that is `None` is left as it is in the cgroup: that is what zero means in the CRI.
//! Source: CRI `LinuxContainerResources`; kernel admin-guide/cgroup-v2, cgroup-v1/memory, scheduler/sched-bwc.

mod change;

use std::collections::BTreeMap;
use std::fmt;

use crate::CgroupError;

/// Weights and shares at both ends of their ranges: 2 shares are weight 1, 262144 are 10000.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
const WEIGHT_MAX: u64 = 10_000;

/// An upper bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Limit {
    /// No bound.
    Max,
    /// At most so much.
    At(u64),
}

impl Limit {
    /// The convention of the CRI and of OCI: zero leaves things as they are, a negative number lifts the limit.
    pub fn from_signed(value: i64) -> Option<Self> {
        match value {
            0 => None,
            value => Some(u64::try_from(value).map_or(Limit::Max, Limit::At)),
        }
    }

    fn or_minus_one(self) -> String {
        match self {
            Limit::Max => "-1".to_owned(),
            Limit::At(value) => value.to_string(),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Max => f.write_str("max"),
            Limit::At(value) => value.fmt(f),
        }
    }
}

/// Limits to set; `None` and empty change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Relative weight in version 1's scale, 2 to 262144, where 1024 is usual; others are moved to the nearest end.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each period.
    pub cpu_quota_us: Option<Limit>,
    /// Length of the period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// CPUs to run on, as a list like `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from, as a list.
    pub cpuset_mems: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: Option<Limit>,
    /// Memory and swap together in bytes, as the CRI's `memory_swap_limit_in_bytes`; set with the memory limit. It is
    /// left out where the kernel does not account for swap. See [`Limits::settled`] for a memory limit without it.
    pub memory_and_swap_bytes: Option<Limit>,
    /// Bytes by page size, like `2MB`. Left out where there is no such controller or page size: the kubelet always
    /// sends all of them.
    pub hugepages_bytes: BTreeMap<String, u64>,
    /// Number of processes and threads.
    pub pids: Option<Limit>,
    /// Files of version 2 and what to write to them; beats what would be written from the fields above.
    pub unified: BTreeMap<String, String>,
}

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Which limit, for the error.
    pub(crate) field: &'static str,
    pub(crate) file: String,
    pub(crate) value: String,
    pub(crate) need: Need,
}

/// Whether a setting may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Without the file it is an error.
    Required,
    /// Without the file there is nothing to limit.
    IfPresent,
}

impl Setting {
    /// The controller to which the file belongs: the part of its name before the first dot.
    pub(crate) fn controller(&self) -> &str {
        self.file.split('.').next().unwrap_or_default()
    }
}

/// Collects settings; a value that is absent adds none.
#[derive(Default)]
struct Settings(Vec<Setting>);

impl Settings {
    fn add(&mut self, need: Need, field: &'static str, file: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.push(Setting { field, file: file.to_owned(), value: value.to_string(), need });
        }
    }
}

/// The files of version 2; `current_quota` is what `cpu.max` says, for a new period without a new quota.
pub(crate) fn v2_settings(limits: &Limits, current_quota: &str) -> Result<Vec<Setting>, CgroupError> {
    use Need::{IfPresent, Required};
    check(limits)?;
    let swap = swap_alone(limits)?;
    let cpu_max = match (limits.cpu_quota_us, limits.cpu_period_us) {
        (None, None) => None,
        (Some(quota), None) => Some(quota.to_string()),
        (Some(quota), Some(period_us)) => Some(format!("{quota} {period_us}")),
        (None, Some(period_us)) => Some(format!("{current_quota} {period_us}")),
    };
    let mut settings = Settings::default();
    settings.add(Required, "cpu shares", "cpu.weight", limits.cpu_shares.map(weight_from_shares));
    settings.add(Required, "cpu quota", "cpu.max", cpu_max);
    settings.add(Required, "cpuset cpus", "cpuset.cpus", limits.cpuset_cpus.as_ref());
    settings.add(Required, "cpuset mems", "cpuset.mems", limits.cpuset_mems.as_ref());
    settings.add(Required, "memory limit", "memory.max", limits.memory_bytes);
    settings.add(IfPresent, "memory swap limit", "memory.swap.max", swap);
    for (size, bytes) in &limits.hugepages_bytes {
        settings.add(IfPresent, "hugepage limit", &format!("hugetlb.{size}.max"), Some(bytes));
        settings.add(IfPresent, "hugepage limit", &format!("hugetlb.{size}.rsvd.max"), Some(bytes));
    }
    settings.add(Required, "pids limit", "pids.max", limits.pids);
    settings.0.retain(|setting| !limits.unified.contains_key(&setting.file));
    for (file, value) in &limits.unified {
        settings.add(Required, "unified", file, Some(value));
    }
    Ok(settings.0)
}

/// The files of version 1.
pub(crate) fn v1_settings(limits: &Limits) -> Result<Vec<Setting>, CgroupError> {
    use Need::{IfPresent, Required};
    check(limits)?;
    if let Some(key) = limits.unified.keys().next() {
        return Err(refuse("unified", key, "this machine has cgroup version 1"));
    }
    swap_alone(limits)?;
    // Memory may not exceed memory+swap, so that lifting the one without the other cannot be.
    let lifted = limits.memory_bytes.filter(|limit| *limit == Limit::Max);
    let memory_and_swap = limits.memory_and_swap_bytes.or(lifted);
    let mut settings = Settings::default();
    settings.add(Required, "cpu shares", "cpu.shares", limits.cpu_shares);
    settings.add(Required, "cpu period", "cpu.cfs_period_us", limits.cpu_period_us);
    settings.add(Required, "cpu quota", "cpu.cfs_quota_us", limits.cpu_quota_us.map(Limit::or_minus_one));
    settings.add(Required, "cpuset cpus", "cpuset.cpus", limits.cpuset_cpus.as_ref());
    settings.add(Required, "cpuset mems", "cpuset.mems", limits.cpuset_mems.as_ref());
    let memory = "memory.limit_in_bytes";
    settings.add(Required, "memory limit", memory, limits.memory_bytes.map(Limit::or_minus_one));
    let memsw = "memory.memsw.limit_in_bytes";
    settings.add(IfPresent, "memory swap limit", memsw, memory_and_swap.map(Limit::or_minus_one));
    for (size, bytes) in &limits.hugepages_bytes {
        settings.add(IfPresent, "hugepage limit", &format!("hugetlb.{size}.limit_in_bytes"), Some(bytes));
        settings.add(
            IfPresent,
            "hugepage limit",
            &format!("hugetlb.{size}.rsvd.limit_in_bytes"),
            Some(bytes),
        );
    }
    settings.add(Required, "pids limit", "pids.max", limits.pids);
    Ok(settings.0)
}

/// Version 2's weight for version 1's shares: a curve through (2, 1), (1024, 100) and (262144, 10000).
///
/// The straight line of old gave the usual 1024 shares a weight of 39, less than half of what any other
/// process has, and the kubelet's smallest request a weight of 1.
/// Source: crun 1.23 and runc 1.3.2; kubernetes/kubernetes#131216.
fn weight_from_shares(shares: u64) -> u64 {
    if shares <= *SHARES.start() {
        return 1;
    }
    if shares >= *SHARES.end() {
        return WEIGHT_MAX;
    }
    let doublings = (shares as f64).log2();
    let exponent = (doublings * doublings + 125.0 * doublings) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

/// Swap without the memory in it, which is how version 2 counts.
fn swap_alone(limits: &Limits) -> Result<Option<Limit>, CgroupError> {
    let invalid = |swap: Limit, reason| Err(refuse("memory swap limit", &swap.to_string(), reason));
    match (limits.memory_and_swap_bytes, limits.memory_bytes) {
        (None, Some(Limit::Max)) | (Some(Limit::Max), _) => Ok(Some(Limit::Max)),
        (None, _) => Ok(None),
        (Some(swap), None) => invalid(swap, "it includes the memory, and no memory limit is given"),
        (Some(swap), Some(Limit::Max)) => invalid(swap, "it includes the memory, which is unlimited"),
        (Some(Limit::At(both)), Some(Limit::At(memory))) => match both.checked_sub(memory) {
            Some(alone) => Ok(Some(Limit::At(alone))),
            None => invalid(Limit::At(both), "it includes the memory, and is less than the memory limit"),
        },
    }
}

/// Refuses names that would lead to a file of another kind; values are for the kernel to judge.
fn check(limits: &Limits) -> Result<(), CgroupError> {
    for size in limits.hugepages_bytes.keys() {
        let digits = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
        let is_size = matches!(&size[digits.len()..], "KB" | "MB" | "GB");
        if !is_size || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse("hugepage limit", size, "it is not a page size like 2MB"));
        }
    }
    for key in limits.unified.keys() {
        let is_word =
            |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        if !key.contains('.') || !key.split('.').all(is_word) {
            return Err(refuse("unified", key, "it is not of the form controller.file"));
        }
        if key.starts_with("cgroup.") {
            return Err(refuse("unified", key, "it is no controller's"));
        }
    }
    Ok(())
}

fn refuse(field: &'static str, value: &str, reason: &'static str) -> CgroupError {
    CgroupError::InvalidLimit { field, value: value.to_owned(), reason }
}

#[cfg(test)]
mod tests;
