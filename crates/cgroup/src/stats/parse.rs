//! The kernel's texts to numbers. Pure; a text that is not as documented gives `None`, and a line that is missing, as
//! with an older kernel, a zero.
//!
//! Source: kernel admin-guide/cgroup-v2; admin-guide/cgroup-v1 `memory`, `cpuacct`, `blkio-controller`, `hugetlb`;
//! scheduler/sched-bwc; accounting/psi.

use super::{CpuDetail, DeviceIo, MemoryDetail, MemoryUsage, Pressure, Stall, Throttling};
use crate::files::keyed_number;

/// Above this a version 1 limit is none: the kernel rounds the largest number down to a page.
const UNLIMITED: u64 = 1 << 62;

/// A text that is one number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A limit of version 2, or a `pids.max` of either: a number, or `max` for none.
pub(super) fn limit(text: &str) -> Option<u64> {
    number(text).filter(|limit| *limit <= UNLIMITED)
}

/// `cpu.stat` of version 2: the whole CPU time in nanoseconds.
pub(super) fn v2_cpu_ns(cpu_stat: &str) -> Option<u64> {
    Some(keyed_number(cpu_stat, "usage_usec")?.saturating_mul(1000))
}

/// `cpu.stat` of version 2: where the time was spent.
pub(super) fn v2_cpu(cpu_stat: &str) -> Option<CpuDetail> {
    let time = |key| Some(keyed_number(cpu_stat, key)?.saturating_mul(1000));
    Some(CpuDetail { user_ns: time("user_usec")?, system_ns: time("system_usec")? })
}

/// `cpuacct.stat` of version 1, in clock ticks.
pub(super) fn v1_cpu(cpuacct_stat: &str, ticks_per_second: u64) -> Option<CpuDetail> {
    let tick_ns = 1_000_000_000_u64.checked_div(ticks_per_second)?;
    let time = |key| Some(keyed_number(cpuacct_stat, key)?.saturating_mul(tick_ns));
    Some(CpuDetail { user_ns: time("user")?, system_ns: time("system")? })
}

/// `cpu.stat` of either version; absent on version 2 where no quota can be set.
pub(super) fn throttling(cpu_stat: &str) -> Option<Throttling> {
    let throttled_ns = keyed_number(cpu_stat, "throttled_time")
        .or_else(|| Some(keyed_number(cpu_stat, "throttled_usec")?.saturating_mul(1000)))?;
    let count = |key| keyed_number(cpu_stat, key).unwrap_or_default();
    Some(Throttling { periods: count("nr_periods"), throttled_periods: count("nr_throttled"), throttled_ns })
}

/// The texts of a cgroup's memory files; whichever are there.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct MemoryTexts<'a> {
    pub(super) usage: &'a str,
    pub(super) stat: &'a str,
    pub(super) limit: Option<&'a str>,
    /// Version 2: `memory.swap.current`.
    pub(super) swap: Option<&'a str>,
    /// Version 2: `memory.swap.max`. Version 1: `memory.memsw.limit_in_bytes`, which counts memory too.
    pub(super) swap_limit: Option<&'a str>,
}

/// Memory of version 2.
pub(super) fn v2_memory(texts: &MemoryTexts<'_>) -> Option<MemoryUsage> {
    let stat = |key| keyed_number(texts.stat, key).unwrap_or_default();
    Some(MemoryUsage {
        usage_bytes: number(texts.usage)?,
        inactive_file_bytes: stat("inactive_file"),
        anonymous_bytes: stat("anon"),
        cache_bytes: stat("file"),
        mapped_bytes: stat("file_mapped"),
        page_faults: stat("pgfault"),
        major_page_faults: stat("pgmajfault"),
        limit_bytes: texts.limit.and_then(limit),
        swap_bytes: texts.swap.and_then(number),
        swap_limit_bytes: texts.swap_limit.and_then(limit),
    })
}

/// Memory of version 1. Lines that begin with `total_` count what is below the cgroup too, as version 2 always does.
pub(super) fn v1_memory(texts: &MemoryTexts<'_>) -> Option<MemoryUsage> {
    let stat = |key| keyed_number(texts.stat, key).unwrap_or_default();
    let limit_bytes = texts.limit.and_then(limit);
    let both_bytes = texts.swap_limit.and_then(limit);
    Some(MemoryUsage {
        usage_bytes: number(texts.usage)?,
        inactive_file_bytes: stat("total_inactive_file"),
        anonymous_bytes: stat("total_rss"),
        cache_bytes: stat("total_cache"),
        mapped_bytes: stat("total_mapped_file"),
        page_faults: stat("total_pgfault"),
        major_page_faults: stat("total_pgmajfault"),
        limit_bytes,
        swap_bytes: keyed_number(texts.stat, "total_swap"),
        swap_limit_bytes: both_bytes
            .zip(limit_bytes)
            .map(|(both_bytes, bytes)| both_bytes.saturating_sub(bytes)),
    })
}

/// `memory.stat` and `memory.events` of version 2, and `memory.peak` where there is one.
pub(super) fn v2_memory_detail(stat: &str, events: &str, peak: Option<&str>) -> MemoryDetail {
    let part = |key| keyed_number(stat, key).unwrap_or_default();
    MemoryDetail {
        peak_bytes: peak.and_then(number),
        // Before Linux 5.18 the sum has to be made here, of what was told then.
        kernel_bytes: keyed_number(stat, "kernel")
            .unwrap_or_else(|| part("kernel_stack") + part("pagetables") + part("percpu") + part("slab")),
        limit_hits: keyed_number(events, "max").unwrap_or_default(),
        oom_kills: keyed_number(events, "oom_kill").unwrap_or_default(),
    }
}

/// `io.stat` of version 2: `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub(super) fn v2_devices(io_stat: &str) -> Vec<DeviceIo> {
    let device = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device_number(words.next()?)?;
        let mut device = DeviceIo { major, minor, ..DeviceIo::default() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
        Some(device)
    };
    io_stat.lines().filter_map(device).collect()
}

/// `blkio.throttle.io_service_bytes_recursive` and `blkio.throttle.io_serviced_recursive` of version 1, both with lines
/// like `254:0 Read 4096`.
pub(super) fn v1_devices(bytes: &str, operations: &str) -> Vec<DeviceIo> {
    let mut devices: Vec<DeviceIo> = Vec::new();
    let texts = [(bytes, true), (operations, false)];
    let lines = texts.into_iter().flat_map(|(text, is_bytes)| text.lines().map(move |line| (line, is_bytes)));
    for (line, is_bytes) in lines {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device_number) else { continue };
        let (Some(kind), Some(value)) = (words.next(), words.next().and_then(number)) else { continue };
        let known = devices.iter().position(|known| (known.major, known.minor) == (major, minor));
        let index = known.unwrap_or_else(|| {
            devices.push(DeviceIo { major, minor, ..DeviceIo::default() });
            devices.len() - 1
        });
        match (kind, is_bytes) {
            ("Read", true) => devices[index].read_bytes = value,
            ("Write", true) => devices[index].written_bytes = value,
            ("Read", false) => devices[index].reads = value,
            ("Write", false) => devices[index].writes = value,
            _ => {}
        }
    }
    devices
}

fn device_number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A `*.pressure` file; a line for `full` came to the CPU's with Linux 5.13.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |name: &str| text.lines().find_map(|line| stall(line.strip_prefix(name)?));
    Some(Pressure { some: line("some ")?, full: line("full ").unwrap_or_default() })
}

/// `avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn stall(words: &str) -> Option<Stall> {
    let mut stall = Stall::default();
    for (key, value) in words.split_whitespace().filter_map(|word| word.split_once('=')) {
        match key {
            "avg10" => stall.avg10 = value.parse().ok()?,
            "avg60" => stall.avg60 = value.parse().ok()?,
            "avg300" => stall.avg300 = value.parse().ok()?,
            "total" => stall.total_us = value.parse().ok()?,
            _ => {}
        }
    }
    Some(stall)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a web server's cgroup on Debian 12, shortened at the end.
    const V2_STAT: &str = "anon 10977280\nfile 39845888\nkernel 3489792\nkernel_stack 131072\npagetables 856064\n\
        sec_pagetables 0\npercpu 15840\nsock 4096\nvmalloc 0\nshmem 4096\nfile_mapped 22573056\nfile_dirty 0\n\
        file_writeback 0\nswapcached 0\nanon_thp 0\ninactive_anon 10973184\nactive_anon 8192\ninactive_file 15511552\n\
        active_file 24330240\nunevictable 0\nslab_reclaimable 1922472\nslab_unreclaimable 477744\nslab 2400216\n\
        pgfault 21453\npgmajfault 174\n";
    const V1_STAT: &str = "cache 0\nrss 0\nmapped_file 0\nswap 0\npgfault 9\npgmajfault 0\ninactive_file 0\n\
        hierarchical_memory_limit 67108864\nhierarchical_memsw_limit 134217728\ntotal_cache 39845888\n\
        total_rss 10977280\ntotal_mapped_file 22573056\ntotal_swap 8192\ntotal_pgfault 21453\ntotal_pgmajfault 174\n\
        total_inactive_file 15511552\n";

    fn memory(limit_bytes: Option<u64>, swap: (Option<u64>, Option<u64>)) -> MemoryUsage {
        MemoryUsage {
            usage_bytes: 54_312_960,
            inactive_file_bytes: 15_511_552,
            anonymous_bytes: 10_977_280,
            cache_bytes: 39_845_888,
            mapped_bytes: 22_573_056,
            page_faults: 21_453,
            major_page_faults: 174,
            limit_bytes,
            swap_bytes: swap.0,
            swap_limit_bytes: swap.1,
        }
    }

    #[test]
    fn memory_is_read_of_both_versions() {
        let check = |read: fn(&MemoryTexts<'_>) -> Option<MemoryUsage>, texts, want: Option<MemoryUsage>| {
            assert_eq!(read(&texts), want, "{texts:?}");
        };
        let v2 = MemoryTexts {
            usage: "54312960\n",
            stat: V2_STAT,
            limit: Some("max\n"),
            swap: Some("8192\n"),
            swap_limit: Some("max\n"),
        };
        check(v2_memory, v2, Some(memory(None, (Some(8192), None))));
        let limited = MemoryTexts { limit: Some("67108864\n"), swap_limit: Some("0\n"), ..v2 };
        check(v2_memory, limited, Some(memory(Some(67_108_864), (Some(8192), Some(0)))));
        check(v2_memory, MemoryTexts { swap: None, ..v2 }, Some(memory(None, (None, None))));
        check(v2_memory, MemoryTexts { usage: "", ..v2 }, None);

        let none = "9223372036854771712\n";
        let v1 = MemoryTexts {
            usage: "54312960\n",
            stat: V1_STAT,
            limit: Some("67108864\n"),
            swap: None,
            swap_limit: Some("134217728\n"),
        };
        check(v1_memory, v1, Some(memory(Some(67_108_864), (Some(8192), Some(67_108_864)))));
        let only_memory = MemoryTexts { swap_limit: Some(none), ..v1 };
        check(v1_memory, only_memory, Some(memory(Some(67_108_864), (Some(8192), None))));
        let unlimited = MemoryTexts { limit: Some(none), ..only_memory };
        check(v1_memory, unlimited, Some(memory(None, (Some(8192), None))));
    }

    #[test]
    fn the_working_set_is_what_cannot_be_given_back() {
        let memory = memory(Some(67_108_864), (Some(8192), Some(67_108_864)));
        assert_eq!(memory.working_set_bytes(), 38_801_408);
        assert_eq!(memory.available_bytes(), Some(28_307_456));
        assert_eq!(memory.swap_available_bytes(), Some(67_100_672));
        // Caches that were charged elsewhere first can make a part larger than the whole.
        let odd = MemoryUsage { usage_bytes: 1, inactive_file_bytes: 2, ..MemoryUsage::default() };
        assert_eq!((odd.working_set_bytes(), odd.available_bytes()), (0, None));
    }

    #[test]
    fn memory_details_of_version_2_are_summed_where_the_kernel_does_not() {
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 0\n";
        let detail = v2_memory_detail(V2_STAT, events, Some("60000000\n"));
        let want = MemoryDetail {
            peak_bytes: Some(60_000_000),
            kernel_bytes: 3_489_792,
            limit_hits: 12,
            oom_kills: 3,
        };
        assert_eq!(detail, want);
        let old = V2_STAT.replace("kernel 3489792\n", "");
        assert_eq!(v2_memory_detail(&old, "", None).kernel_bytes, 131_072 + 856_064 + 15_840 + 2_400_216);
    }

    #[test]
    fn cpu_time_is_in_nanoseconds_in_both_versions() {
        let v2 = "usage_usec 2000001\nuser_usec 1500000\nsystem_usec 500001\nnr_periods 40\nnr_throttled 7\n\
            throttled_usec 250000\nnr_bursts 0\nburst_usec 0\n";
        assert_eq!(v2_cpu_ns(v2), Some(2_000_001_000));
        assert_eq!(v2_cpu(v2), Some(CpuDetail { user_ns: 1_500_000_000, system_ns: 500_001_000 }));
        let throttled = Throttling { periods: 40, throttled_periods: 7, throttled_ns: 250_000_000 };
        assert_eq!(throttling(v2), Some(throttled));
        assert_eq!(v1_cpu("user 150\nsystem 50\n", 100), v2_cpu("user_usec 1500000\nsystem_usec 500000\n"));
        let v1 = "nr_periods 40\nnr_throttled 7\nthrottled_time 250000000\nnr_bursts 0\nburst_time 0\n";
        assert_eq!(throttling(v1), Some(throttled));
        // Without the controller, version 2 tells of the time only.
        assert_eq!(throttling("usage_usec 1\nuser_usec 1\nsystem_usec 0\n"), None);
        assert_eq!((v2_cpu_ns(""), v2_cpu(""), v1_cpu("user 1\nsystem 1\n", 0)), (None, None, None));
    }

    #[test]
    fn devices_are_the_same_in_both_versions() {
        let want = [
            DeviceIo { major: 254, minor: 0, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 },
            DeviceIo { major: 7, minor: 1, read_bytes: 512, ..DeviceIo::default() },
        ];
        let v2 = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:1 rbytes=512\n";
        assert_eq!(v2_devices(v2), want);
        let bytes = "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 0\n254:0 Async 12288\n254:0 Discard 0\n\
            254:0 Total 12288\n7:1 Read 512\nTotal 12800\n";
        assert_eq!(v1_devices(bytes, "254:0 Read 1\n254:0 Write 2\nTotal 3\n"), want);
        assert_eq!(v1_devices("Total 0\n", "Total 0\n"), []);
        assert_eq!(v2_devices("nonsense\n1:x rbytes=1\n\n"), []);
    }

    #[test]
    fn pressure_may_lack_its_second_line() {
        let some = Stall { avg10: 53.02, avg60: 39.55, avg300: 16.93, total_us: 74_632_296 };
        let text = "some avg10=53.02 avg60=39.55 avg300=16.93 total=74632296\n";
        assert_eq!(pressure(text), Some(Pressure { some, full: Stall::default() }));
        let both = format!("{text}full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n");
        let full = Stall { total_us: 5, ..Stall::default() };
        assert_eq!(pressure(&both), Some(Pressure { some, full }));
        assert_eq!(pressure(""), None);
        assert_eq!(pressure("some avg10=many total=1\n"), None);
    }

    #[test]
    fn a_limit_that_is_none_is_none() {
        for (text, want) in [
            ("max\n", None),
            ("9223372036854771712\n", None),
            ("18446744073709551615", None),
            ("33\n", Some(33)),
        ] {
            assert_eq!(limit(text), want, "{text}");
        }
    }
}
