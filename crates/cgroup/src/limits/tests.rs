//! Tables of limits and what is written for them.

use super::*;

type Expected<'a> = &'a [(&'a str, &'a str)];

fn check_both(limits: Limits, v2: Result<Expected<'_>, &str>, v1: Result<Expected<'_>, &str>) {
    for (settings, expected) in [(v2_settings(&limits, "5000"), v2), (v1_settings(&limits), v1)] {
        match (settings, expected) {
            (Ok(settings), Ok(expected)) => {
                let settings: Vec<_> = settings.iter().map(|set| (&set.file[..], &set.value[..])).collect();
                assert_eq!(settings, expected, "{limits:?}");
            }
            (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
            (settings, expected) => panic!("{limits:?}: {settings:?} where {expected:?} was expected"),
        }
    }
}

fn text_map<V>(entries: impl IntoIterator<Item = (&'static str, V)>) -> BTreeMap<String, V> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[test]
fn shares_become_weights_on_the_new_curve() {
    let table = [(0, 1), (2, 1), (10, 4), (100, 17), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)];
    for (shares, weight) in table {
        assert_eq!(weight_from_shares(shares), weight, "{shares} shares");
    }
    assert_eq!(weight_from_shares(u64::MAX), 10_000);
    assert!((2..262_144).all(|shares| weight_from_shares(shares) <= weight_from_shares(shares + 1)));
}

#[test]
fn signed_numbers_follow_the_cri() {
    assert_eq!(Limit::from_signed(0), None);
    assert_eq!(Limit::from_signed(-1), Some(Limit::Max));
    assert_eq!(Limit::from_signed(7), Some(Limit::At(7)));
}

#[test]
fn nothing_given_changes_nothing() {
    check_both(Limits::default(), Ok(&[]), Ok(&[]));
}

#[test]
fn cpu_limits() {
    let limits = |quota, period| Limits { cpu_quota_us: quota, cpu_period_us: period, ..Limits::default() };
    check_both(
        limits(Some(Limit::At(20_000)), Some(100_000)),
        Ok(&[("cpu.max", "20000 100000")]),
        Ok(&[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "20000")]),
    );
    check_both(limits(Some(Limit::Max), None), Ok(&[("cpu.max", "max")]), Ok(&[("cpu.cfs_quota_us", "-1")]));
    check_both(
        limits(None, Some(50_000)),
        Ok(&[("cpu.max", "5000 50000")]),
        Ok(&[("cpu.cfs_period_us", "50000")]),
    );
    let cpus = Some("0-1".to_owned());
    check_both(
        Limits { cpu_shares: Some(1024), cpuset_cpus: cpus.clone(), cpuset_mems: cpus, ..Limits::default() },
        Ok(&[("cpu.weight", "100"), ("cpuset.cpus", "0-1"), ("cpuset.mems", "0-1")]),
        Ok(&[("cpu.shares", "1024"), ("cpuset.cpus", "0-1"), ("cpuset.mems", "0-1")]),
    );
}

#[test]
fn memory_limits() {
    use Limit::{At, Max};
    let limits =
        |memory, both| Limits { memory_bytes: memory, memory_and_swap_bytes: both, ..Limits::default() };
    let (memory, memsw) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
    check_both(limits(Some(At(64)), None), Ok(&[("memory.max", "64")]), Ok(&[(memory, "64")]));
    check_both(
        limits(Some(At(64)), Some(At(64))),
        Ok(&[("memory.max", "64"), ("memory.swap.max", "0")]),
        Ok(&[(memory, "64"), (memsw, "64")]),
    );
    check_both(
        limits(Some(At(64)), Some(At(100))),
        Ok(&[("memory.max", "64"), ("memory.swap.max", "36")]),
        Ok(&[(memory, "64"), (memsw, "100")]),
    );
    check_both(
        limits(Some(Max), None),
        Ok(&[("memory.max", "max"), ("memory.swap.max", "max")]),
        Ok(&[(memory, "-1"), (memsw, "-1")]),
    );
    check_both(limits(None, Some(Max)), Ok(&[("memory.swap.max", "max")]), Ok(&[(memsw, "-1")]));
    for (limits, text) in [
        (limits(None, Some(At(9))), "\"9\": it includes the memory, and no memory limit is given"),
        (limits(Some(Max), Some(At(9))), "\"9\": it includes the memory, which is unlimited"),
        (
            limits(Some(At(64)), Some(At(9))),
            "\"9\": it includes the memory, and is less than the memory limit",
        ),
    ] {
        let text = format!("memory swap limit {text}");
        check_both(limits, Err(&text), Err(&text));
    }
}

#[test]
fn counted_limits() {
    check_both(
        Limits { pids: Some(Limit::At(9)), hugepages_bytes: text_map([("2MB", 4)]), ..Limits::default() },
        Ok(&[("hugetlb.2MB.max", "4"), ("hugetlb.2MB.rsvd.max", "4"), ("pids.max", "9")]),
        Ok(&[
            ("hugetlb.2MB.limit_in_bytes", "4"),
            ("hugetlb.2MB.rsvd.limit_in_bytes", "4"),
            ("pids.max", "9"),
        ]),
    );
    check_both(
        Limits { pids: Some(Limit::Max), ..Limits::default() },
        Ok(&[("pids.max", "max")]),
        Ok(&[("pids.max", "max")]),
    );
    for size in ["", "MB", "2", "2mb", "../2MB", "2.MB", "é"] {
        let limits = Limits { hugepages_bytes: text_map([(size, 1)]), ..Limits::default() };
        assert!(v2_settings(&limits, "max").is_err_and(|error| error.is_invalid()), "{size}");
    }
}

#[test]
fn unified_files_beat_what_is_converted() {
    let limits = Limits {
        cpu_shares: Some(1024),
        pids: Some(Limit::At(9)),
        unified: text_map([("cpu.weight", "77".to_owned()), ("memory.oom.group", "1".to_owned())]),
        ..Limits::default()
    };
    check_both(
        limits,
        Ok(&[("pids.max", "9"), ("cpu.weight", "77"), ("memory.oom.group", "1")]),
        Err("unified \"cpu.weight\": this machine has cgroup version 1"),
    );
    for key in
        ["", "memory", ".high", "memory.", "memory..high", "a/memory.high", "../a.b", "cgroup.procs", "a b.c"]
    {
        let limits = Limits { unified: text_map([(key, String::new())]), ..Limits::default() };
        assert!(v2_settings(&limits, "max").is_err_and(|error| error.is_invalid()), "{key}");
    }
}
