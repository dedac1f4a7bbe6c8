//! Limits of a container, in both directions.
//!
//! Zero and empty mean "not set", as in the API. Names of unified settings are judged where they are written.

use std::collections::BTreeMap;

use berth_cgroup::{Limit, Limits};
use berth_cri_proto::v1::{HugepageLimit, LinuxContainerResources};

use berth_pod::spec::PodResources;

use super::{Refusal, Result};

/// The kernel's bounds for the length of a period and the least quota. Source: kernel scheduler/sched-bwc.
const PERIOD_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
const MIN_QUOTA_US: i64 = 1_000;

/// With less, no program comes as far as its first instruction. Who asks for it has usually forgotten a unit.
const MIN_MEMORY_BYTES: i64 = 1 << 20;

const NEGATIVE: &str = "is negative, and not -1 for no limit";

const OOM_SCORES: std::ops::RangeInclusive<i64> = -1_000..=1_000;

/// The limits, and the score for the out-of-memory killer.
pub(crate) fn limits_from(resources: Option<LinuxContainerResources>) -> Result<(Limits, Option<i32>)> {
    let Some(given) = resources else {
        return Ok((Limits::default(), None));
    };
    let limits = Limits {
        cpu_shares: set("cpu_shares", given.cpu_shares)?,
        cpu_quota_us: quota(given.cpu_quota)?,
        cpu_period_us: period(given.cpu_period)?,
        cpuset_cpus: list("cpuset_cpus", given.cpuset_cpus)?,
        cpuset_mems: list("cpuset_mems", given.cpuset_mems)?,
        memory_bytes: memory("memory_limit_in_bytes", given.memory_limit_in_bytes)?,
        memory_and_swap_bytes: memory("memory_swap_limit_in_bytes", given.memory_swap_limit_in_bytes)?,
        hugepages_bytes: hugepages(given.hugepage_limits)?,
        pids: None,
        unified: given.unified.into_iter().collect(),
    };
    if let (Some(Limit::At(memory)), Some(Limit::At(both))) =
        (limits.memory_bytes, limits.memory_and_swap_bytes)
        && both < memory
    {
        return Err(Refusal::invalid(
            "memory_swap_limit_in_bytes",
            both,
            "includes the memory, and is less than its limit",
        ));
    }
    let score = i32::try_from(given.oom_score_adj).ok().filter(|_| OOM_SCORES.contains(&given.oom_score_adj));
    let score = score
        .ok_or_else(|| Refusal::invalid("oom_score_adj", given.oom_score_adj, "is not from -1000 to 1000"))?;
    Ok((limits, Some(score)))
}

/// A pod's overhead, and what its containers are limited to together. A score is no pod's.
pub(crate) fn pod_resources_from(
    overhead: Option<LinuxContainerResources>,
    resources: Option<LinuxContainerResources>,
) -> Result<PodResources> {
    let read = |field, given| limits_from(given).map_err(|refusal| refusal.within(field));
    let ((overhead, _), (containers, _)) = (read("overhead", overhead)?, read("resources", resources)?);
    Ok(PodResources { overhead, containers })
}

/// What status answers.
pub(crate) fn resources_of(limits: &Limits, oom_score_adj: Option<i32>) -> LinuxContainerResources {
    let signed = |limit: Option<Limit>| match limit {
        None => 0,
        Some(Limit::Max) => -1,
        Some(Limit::At(value)) => bounded(value),
    };
    LinuxContainerResources {
        cpu_period: limits.cpu_period_us.map_or(0, bounded),
        cpu_quota: signed(limits.cpu_quota_us),
        cpu_shares: limits.cpu_shares.map_or(0, bounded),
        memory_limit_in_bytes: signed(limits.memory_bytes),
        oom_score_adj: oom_score_adj.unwrap_or(0).into(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: limits
            .hugepages_bytes
            .iter()
            .map(|(page_size, limit)| HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: limits.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: signed(limits.memory_and_swap_bytes),
    }
}

fn bounded(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A number of which zero means none.
fn set(field: &str, value: i64) -> Result<Option<u64>> {
    let number = u64::try_from(value).map_err(|_| Refusal::invalid(field, value, "is negative"))?;
    Ok(Some(number).filter(|number| *number != 0))
}

fn quota(value: i64) -> Result<Option<Limit>> {
    match value {
        ..=-2 => Err(Refusal::invalid("cpu_quota", value, NEGATIVE)),
        1..MIN_QUOTA_US => Err(Refusal::invalid("cpu_quota", value, "is less than 1000 microseconds")),
        _ => Ok(Limit::from_signed(value)),
    }
}

fn period(value: i64) -> Result<Option<u64>> {
    if value != 0 && !PERIOD_US.contains(&value) {
        return Err(Refusal::invalid("cpu_period", value, "is not from 1000 to 1000000 microseconds"));
    }
    set("cpu_period", value)
}

fn memory(field: &str, value: i64) -> Result<Option<Limit>> {
    match value {
        ..=-2 => Err(Refusal::invalid(field, value, NEGATIVE)),
        1..MIN_MEMORY_BYTES => {
            Err(Refusal::invalid(field, value, "bytes is too little to start anything: at least 1 MiB"))
        }
        _ => Ok(Limit::from_signed(value)),
    }
}

/// Page sizes that no machine can have are refused; those that only this one lacks are left out, since a kubelet sends
/// all that it knows.
fn hugepages(limits: Vec<HugepageLimit>) -> Result<BTreeMap<String, u64>> {
    let is_size = |size: &str| {
        let digits = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
        digits.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(u32::is_power_of_two)
    };
    match limits.iter().find(|limit| !is_size(&limit.page_size)) {
        Some(bad) => Err(Refusal::invalid("hugepage_limits", &bad.page_size, "is no page size such as 2MB")),
        None => Ok(limits.into_iter().map(|limit| (limit.page_size, limit.limit)).collect()),
    }
}

/// Source: cpuset(7), list format.
fn list(field: &str, value: String) -> Result<Option<String>> {
    let is_range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u32>(), last.parse::<u32>()), (Ok(first), Ok(last)) if first <= last)
    };
    if !value.is_empty() && !value.split(',').all(is_range) {
        return Err(Refusal::invalid(field, value, "is no list such as 0-2,7"));
    }
    Ok(Some(value).filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_back_as_they_were_given() {
        let given = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: -999,
            cpuset_cpus: "0-1,3".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            memory_swap_limit_in_bytes: 64 << 20,
        };
        let (limits, score) = limits_from(Some(given.clone())).unwrap();
        assert_eq!(limits.cpu_quota_us, Some(Limit::Max));
        assert_eq!(resources_of(&limits, score), given);
        let empty = LinuxContainerResources::default();
        assert_eq!(limits_from(Some(empty)).unwrap(), (Limits::default(), Some(0)));
        assert_eq!(limits_from(None).unwrap(), (Limits::default(), None));
    }

    #[test]
    fn negative_and_absurd_sizes_are_refused() {
        let check = |field: &str, value: &str, change: fn(&mut LinuxContainerResources)| {
            let mut given = LinuxContainerResources::default();
            change(&mut given);
            let text = limits_from(Some(given)).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{field}: {value} ")), "{text}");
        };
        check("cpu_shares", "-1", |r| r.cpu_shares = -1);
        check("cpu_period", "-5", |r| r.cpu_period = -5);
        check("cpu_period", "999", |r| r.cpu_period = 999);
        check("cpu_quota", "1", |r| r.cpu_quota = 1);
        check("cpu_quota", "-77", |r| r.cpu_quota = -77);
        check("memory_limit_in_bytes", "-2", |r| r.memory_limit_in_bytes = -2);
        check("memory_limit_in_bytes", "400", |r| r.memory_limit_in_bytes = 400);
        check("oom_score_adj", "1001", |r| r.oom_score_adj = 1001);
        check("oom_score_adj", "-9223372036854775808", |r| r.oom_score_adj = i64::MIN);
        check("cpuset_cpus", "\"0-\"", |r| r.cpuset_cpus = "0-".into());
        check("cpuset_mems", "\"x\"", |r| r.cpuset_mems = "x".into());
        check("hugepage_limits", "\"3KB\"", |r| {
            r.hugepage_limits = vec![HugepageLimit { page_size: "3KB".into(), limit: 1 }];
        });
        check("memory_swap_limit_in_bytes", "2097152", |r| {
            r.memory_limit_in_bytes = 4 << 20;
            r.memory_swap_limit_in_bytes = 2 << 20;
        });
    }
}
