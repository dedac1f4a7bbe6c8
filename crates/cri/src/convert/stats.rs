//! What is told of usage. Numbers that the kernel does not have are absent, never zero.

use berth_cgroup::{MemoryUsage as Memory, Pressure, Stall, Usage};
use berth_cri_proto::v1::{
    ContainerAttributes, ContainerStats, CpuUsage, IoUsage, LinuxPodSandboxStats, MemoryUsage,
    NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats, ProcessUsage, PsiData,
    PsiStats, SwapUsage, UInt64Value,
};
use berth_net::LinkUsage;
use berth_pod::stats::{ContainerUsage, PodUsage};

use super::{container_status, pod_status};
use crate::filesystems::Filesystems;

/// The interface that is a pod's default one.
const DEFAULT_INTERFACE: &str = "eth0";

/// What a container uses.
pub(crate) fn container_stats_of(usage: &ContainerUsage, filesystems: &Filesystems) -> ContainerStats {
    let ContainerUsage { container, at_ns, usage, nano_cores, layer } = usage;
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: container.id.to_string(),
            metadata: Some(container_status::metadata_of(container)),
            labels: container.spec.labels.clone().into_iter().collect(),
            annotations: container.spec.annotations.clone().into_iter().collect(),
        }),
        cpu: cpu_of(usage, *nano_cores, *at_ns),
        memory: memory_of(usage, *at_ns),
        writable_layer: Some(filesystems.usage_of_layers(layer.at_ns, layer.layer)),
        swap: usage.memory.as_ref().and_then(|memory| swap_of(memory, *at_ns)),
        io: io_of(usage, *at_ns),
    }
}

/// What a pod uses.
pub(crate) fn pod_stats_of(usage: &PodUsage, filesystems: &Filesystems) -> PodSandboxStats {
    let PodUsage { pod, at_ns, usage, nano_cores, links, containers } = usage;
    let process_count = usage.tasks.and_then(number);
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: pod.id.to_string(),
            metadata: Some(pod_status::metadata_of(&pod.spec.identity)),
            labels: pod.spec.labels.clone().into_iter().collect(),
            annotations: pod.spec.annotations.clone().into_iter().collect(),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: cpu_of(usage, *nano_cores, *at_ns),
            memory: memory_of(usage, *at_ns),
            network: links.as_deref().map(|links| network_of(links, *at_ns)),
            process: process_count
                .map(|count| ProcessUsage { timestamp: *at_ns, process_count: Some(count) }),
            containers: containers.iter().map(|one| container_stats_of(one, filesystems)).collect(),
            io: io_of(usage, *at_ns),
        }),
        windows: None,
    }
}

fn cpu_of(usage: &Usage, nano_cores: Option<u64>, timestamp: i64) -> Option<CpuUsage> {
    Some(CpuUsage {
        timestamp,
        usage_core_nano_seconds: number(usage.cpu_ns?),
        usage_nano_cores: nano_cores.and_then(number),
        psi: usage.pressure.cpu.map(psi_of),
    })
}

fn memory_of(usage: &Usage, timestamp: i64) -> Option<MemoryUsage> {
    let memory = usage.memory.as_ref()?;
    Some(MemoryUsage {
        timestamp,
        working_set_bytes: number(memory.working_set_bytes()),
        available_bytes: memory.available_bytes().and_then(number),
        usage_bytes: number(memory.usage_bytes),
        rss_bytes: number(memory.anonymous_bytes),
        page_faults: number(memory.page_faults),
        major_page_faults: number(memory.major_page_faults),
        psi: usage.pressure.memory.map(psi_of),
    })
}

fn swap_of(memory: &Memory, timestamp: i64) -> Option<SwapUsage> {
    Some(SwapUsage {
        timestamp,
        swap_available_bytes: memory.swap_available_bytes().and_then(number),
        swap_usage_bytes: number(memory.swap_bytes?),
    })
}

/// Of a disk, only the pressure is told.
fn io_of(usage: &Usage, timestamp: i64) -> Option<IoUsage> {
    Some(IoUsage { timestamp, psi: Some(psi_of(usage.pressure.io?)) })
}

fn network_of(links: &[LinkUsage], timestamp: i64) -> NetworkUsage {
    let (default, others): (Vec<_>, Vec<_>) = links.iter().partition(|link| link.name == DEFAULT_INTERFACE);
    NetworkUsage {
        timestamp,
        default_interface: default.first().map(|link| interface_of(link)),
        interfaces: others.into_iter().map(interface_of).collect(),
    }
}

fn interface_of(link: &LinkUsage) -> NetworkInterfaceUsage {
    NetworkInterfaceUsage {
        name: link.name.clone(),
        rx_bytes: number(link.received.bytes),
        rx_errors: number(link.received.errors),
        tx_bytes: number(link.sent.bytes),
        tx_errors: number(link.sent.errors),
    }
}

fn psi_of(pressure: Pressure) -> PsiStats {
    let data = |stall: Stall| PsiData {
        total: stall.total_us,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    PsiStats { full: Some(data(pressure.full)), some: Some(data(pressure.some)) }
}

fn number(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}
