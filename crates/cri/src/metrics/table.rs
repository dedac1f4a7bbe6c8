//! Every metric, in the order of the alphabet.
//!
//! Names, meanings and labels are cAdvisor's (its `lib/metrics/prometheus.go`); critest pins the names.

use berth_cgroup::{Detail, Limit, MemoryDetail, MemoryUsage, Pressure, Throttling};
use berth_cri_proto::v1::MetricType::{Counter, Gauge};
use berth_pod::stats::ProcessUsage;
use berth_pod::view::ContainerState;

use super::Value::{Device, Filesystem, HugePages, Labelled, Link, Plain};
use super::{Entry, MetricType, Reading, Samples, Value};

const NS_PER_S: u64 = 1_000_000_000;
const US_PER_S: u64 = 1_000_000;
/// What the kernel takes where nothing is asked for.
const DEFAULT_SHARES: u64 = 1024;
const DEFAULT_PERIOD_US: u64 = 100_000;

const fn entry(name: &'static str, kind: MetricType, value: Value, help: &'static str) -> Entry {
    Entry { name, help, kind, value }
}

#[rustfmt::skip]
pub(super) static TABLE: [Entry; 56] = [
    entry("container_blkio_device_usage_total", Counter, Labelled(&["device", "major", "minor", "operation"], device_usage),
        "Bytes read from and written to a block device."),
    entry("container_cpu_cfs_periods_total", Counter, Plain(|r| Some(r.throttling()?.periods)),
        "Elapsed periods in which the CPU quota was enforced."),
    entry("container_cpu_cfs_throttled_periods_total", Counter, Plain(|r| Some(r.throttling()?.throttled_periods)),
        "Periods in which the CPU quota was spent."),
    entry("container_cpu_cfs_throttled_seconds_total", Counter, Plain(|r| Some(r.throttling()?.throttled_ns / NS_PER_S)),
        "Time without a CPU because the quota was spent, in seconds."),
    entry("container_cpu_system_seconds_total", Counter, Plain(|r| Some(r.detail().cpu?.system_ns / NS_PER_S)),
        "CPU time spent in the kernel, in seconds."),
    entry("container_cpu_usage_seconds_total", Counter, Labelled(&["cpu"], cpu_usage),
        "CPU time spent, in seconds."),
    entry("container_cpu_user_seconds_total", Counter, Plain(|r| Some(r.detail().cpu?.user_ns / NS_PER_S)),
        "CPU time spent outside of the kernel, in seconds."),
    entry("container_file_descriptors", Gauge, Plain(|r| Some(r.processes().descriptors)),
        "Open file descriptors of all processes."),
    entry("container_fs_inodes_free", Gauge, Filesystem(|r| r.space.free_inodes),
        "Free inodes of the filesystem with the writable layer."),
    entry("container_fs_inodes_total", Gauge, Filesystem(|r| r.space.inodes),
        "Inodes of the filesystem with the writable layer."),
    entry("container_fs_limit_bytes", Gauge, Filesystem(|r| r.space.bytes),
        "Size of the filesystem with the writable layer, in bytes."),
    entry("container_fs_reads_bytes_total", Counter, Device(|io| io.read_bytes),
        "Bytes read from a block device."),
    entry("container_fs_reads_total", Counter, Device(|io| io.reads),
        "Reads of a block device."),
    entry("container_fs_usage_bytes", Gauge, Filesystem(|r| r.usage.layer.layer.bytes),
        "Size of the writable layer, in bytes."),
    entry("container_fs_writes_bytes_total", Counter, Device(|io| io.written_bytes),
        "Bytes written to a block device."),
    entry("container_fs_writes_total", Counter, Device(|io| io.writes),
        "Writes to a block device."),
    entry("container_hugetlb_max_usage_bytes", Gauge, HugePages(|pages| pages.peak_bytes),
        "Highest usage of huge pages so far, in bytes."),
    entry("container_hugetlb_usage_bytes", Gauge, HugePages(|pages| pages.usage_bytes),
        "Huge pages in use, in bytes."),
    entry("container_last_seen", Gauge, Plain(|r| Some(seconds(r.usage.at_ns))),
        "When the container was last seen, in seconds since the epoch."),
    entry("container_memory_cache", Gauge, Plain(|r| Some(r.memory()?.cache_bytes)),
        "Pages of files in memory, in bytes."),
    entry("container_memory_failcnt", Counter, Plain(|r| Some(r.memory_detail()?.limit_hits)),
        "How often the memory usage met its limit."),
    entry("container_memory_failures_total", Counter, Labelled(&["failure_type", "scope"], page_faults),
        "Page faults, minor and major."),
    entry("container_memory_kernel_usage", Gauge, Plain(|r| Some(r.memory_detail()?.kernel_bytes)),
        "Memory that the kernel holds for the container, in bytes."),
    entry("container_memory_mapped_file", Gauge, Plain(|r| Some(r.memory()?.mapped_bytes)),
        "Pages of files that are mapped, in bytes."),
    entry("container_memory_max_usage_bytes", Gauge, Plain(peak_bytes),
        "Highest memory usage so far, in bytes."),
    entry("container_memory_rss", Gauge, Plain(|r| Some(r.memory()?.anonymous_bytes)),
        "Anonymous memory, in bytes."),
    entry("container_memory_swap", Gauge, Plain(|r| Some(r.memory()?.swap_bytes.unwrap_or(0))),
        "Swap in use, in bytes."),
    entry("container_memory_usage_bytes", Gauge, Plain(|r| Some(r.memory()?.usage_bytes)),
        "Memory in use, caches included, in bytes."),
    entry("container_memory_working_set_bytes", Gauge, Plain(|r| Some(r.memory()?.working_set_bytes())),
        "Memory in use without what is easily given back, in bytes."),
    entry("container_network_receive_bytes_total", Counter, Link(|link| link.received.bytes),
        "Bytes received."),
    entry("container_network_receive_errors_total", Counter, Link(|link| link.received.errors),
        "Errors while receiving."),
    entry("container_network_receive_packets_dropped_total", Counter, Link(|link| link.received.dropped),
        "Packets dropped while receiving."),
    entry("container_network_receive_packets_total", Counter, Link(|link| link.received.packets),
        "Packets received."),
    entry("container_network_transmit_bytes_total", Counter, Link(|link| link.sent.bytes),
        "Bytes sent."),
    entry("container_network_transmit_errors_total", Counter, Link(|link| link.sent.errors),
        "Errors while sending."),
    entry("container_network_transmit_packets_dropped_total", Counter, Link(|link| link.sent.dropped),
        "Packets dropped while sending."),
    entry("container_network_transmit_packets_total", Counter, Link(|link| link.sent.packets),
        "Packets sent."),
    entry("container_oom_events_total", Counter, Plain(|r| Some(r.memory_detail()?.oom_kills)),
        "Processes killed for want of memory."),
    entry("container_pressure_cpu_stalled_seconds_total", Counter, Plain(|r| Some(stalled(r.usage.usage.pressure.cpu?))),
        "Time in which no task got on for want of a CPU, in seconds."),
    entry("container_pressure_cpu_waiting_seconds_total", Counter, Plain(|r| Some(waiting(r.usage.usage.pressure.cpu?))),
        "Time in which some task waited for a CPU, in seconds."),
    entry("container_pressure_io_stalled_seconds_total", Counter, Plain(|r| Some(stalled(r.usage.usage.pressure.io?))),
        "Time in which no task got on because of a disk, in seconds."),
    entry("container_pressure_io_waiting_seconds_total", Counter, Plain(|r| Some(waiting(r.usage.usage.pressure.io?))),
        "Time in which some task waited for a disk, in seconds."),
    entry("container_pressure_memory_stalled_seconds_total", Counter, Plain(|r| Some(stalled(r.usage.usage.pressure.memory?))),
        "Time in which no task got on for want of memory, in seconds."),
    entry("container_pressure_memory_waiting_seconds_total", Counter, Plain(|r| Some(waiting(r.usage.usage.pressure.memory?))),
        "Time in which some task waited for memory, in seconds."),
    entry("container_processes", Gauge, Plain(|r| Some(r.processes().processes)),
        "Processes."),
    entry("container_sockets", Gauge, Plain(|r| Some(r.processes().sockets)),
        "Open sockets of all processes."),
    entry("container_spec_cpu_period", Gauge, Plain(|r| Some(r.limits().cpu_period_us.unwrap_or(DEFAULT_PERIOD_US))),
        "Length of the period that the CPU quota is for, in microseconds."),
    entry("container_spec_cpu_quota", Gauge, Plain(cpu_quota),
        "CPU time in each period, in microseconds."),
    entry("container_spec_cpu_shares", Gauge, Plain(|r| Some(r.limits().cpu_shares.unwrap_or(DEFAULT_SHARES))),
        "Relative weight when CPUs are short."),
    entry("container_spec_memory_limit_bytes", Gauge, Plain(|r| Some(r.memory()?.limit_bytes.unwrap_or(0))),
        "Memory limit in bytes; 0 is none."),
    entry("container_spec_memory_reservation_limit_bytes", Gauge, Plain(|r| Some(reserved_bytes(r))),
        "Memory that is kept for the container, in bytes; 0 is none."),
    entry("container_spec_memory_swap_limit_bytes", Gauge, Plain(|r| Some(memory_and_swap_bytes(r.memory()?))),
        "Limit of memory and swap together, in bytes; 0 is none."),
    entry("container_start_time_seconds", Gauge, Plain(|r| Some(seconds(started_at_ns(r)))),
        "When the container was started, in seconds since the epoch."),
    entry("container_threads", Gauge, Plain(|r| r.usage.usage.tasks),
        "Threads of all processes."),
    entry("container_threads_max", Gauge, Plain(|r| Some(r.detail().tasks_limit.unwrap_or(0))),
        "Most threads that there may be; 0 is no limit."),
    entry("container_ulimits_soft", Gauge, Labelled(&["ulimit"], soft_limits),
        "Soft limits of the container's first process."),
];

impl Reading<'_> {
    fn detail(&self) -> &Detail {
        &self.details.detail
    }

    fn memory(&self) -> Option<&MemoryUsage> {
        self.usage.usage.memory.as_ref()
    }

    fn memory_detail(&self) -> Option<MemoryDetail> {
        self.detail().memory
    }

    fn processes(&self) -> ProcessUsage {
        self.details.processes
    }

    fn limits(&self) -> &berth_cgroup::Limits {
        &self.usage.container.limits
    }

    /// Without a quota there is nothing to be throttled by.
    fn throttling(&self) -> Option<Throttling> {
        cpu_quota(self).and(self.detail().throttling)
    }
}

fn cpu_quota(reading: &Reading<'_>) -> Option<u64> {
    match reading.limits().cpu_quota_us {
        Some(Limit::At(quota_us)) => Some(quota_us),
        Some(Limit::Max) | None => None,
    }
}

fn cpu_usage(reading: &Reading<'_>) -> Samples {
    let total = reading.usage.usage.cpu_ns.map(|cpu_ns| (vec!["total".to_owned()], cpu_ns / NS_PER_S));
    total.into_iter().collect()
}

fn device_usage(reading: &Reading<'_>) -> Samples {
    let of_device = |io: &berth_cgroup::DeviceIo| {
        let name = reading.device_name((io.major, io.minor));
        let labels = |operation: &str| {
            vec![name.clone(), io.major.to_string(), io.minor.to_string(), operation.to_owned()]
        };
        [(labels("Read"), io.read_bytes), (labels("Write"), io.written_bytes)]
    };
    reading.detail().devices.iter().flat_map(of_device).collect()
}

/// The kernel counts for a cgroup with all below it; a container has nothing below it that is counted apart.
fn page_faults(reading: &Reading<'_>) -> Samples {
    let Some(memory) = reading.memory() else { return Vec::new() };
    let kinds = [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)];
    let scopes = ["container", "hierarchy"];
    let of_kind = |(kind, count): (&'static str, u64)| {
        scopes.map(|scope| (vec![kind.to_owned(), scope.to_owned()], count))
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

fn peak_bytes(reading: &Reading<'_>) -> Option<u64> {
    let usage_bytes = reading.memory()?.usage_bytes;
    Some(reading.memory_detail()?.peak_bytes.unwrap_or(usage_bytes))
}

fn reserved_bytes(reading: &Reading<'_>) -> u64 {
    let wanted = reading.limits().unified.get("memory.min");
    wanted.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn memory_and_swap_bytes(memory: &MemoryUsage) -> u64 {
    let both = memory.limit_bytes.zip(memory.swap_limit_bytes);
    both.map_or(0, |(limit_bytes, swap_bytes)| limit_bytes.saturating_add(swap_bytes))
}

fn soft_limits(reading: &Reading<'_>) -> Samples {
    let open_files = reading.processes().descriptors_limit;
    open_files.map(|limit| (vec!["max_open_files".to_owned()], limit)).into_iter().collect()
}

fn started_at_ns(reading: &Reading<'_>) -> i64 {
    match &reading.usage.container.state {
        ContainerState::Running { started_at_ns } => *started_at_ns,
        ContainerState::Created | ContainerState::Exited(_) => 0,
    }
}

fn waiting(pressure: Pressure) -> u64 {
    pressure.some.total_us / US_PER_S
}

fn stalled(pressure: Pressure) -> u64 {
    pressure.full.total_us / US_PER_S
}

fn seconds(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or_default() / NS_PER_S
}
