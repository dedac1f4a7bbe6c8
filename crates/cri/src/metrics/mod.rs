//! The metrics that a monitoring system gets through the kubelet, under the names, labels and units that it knows from
//! cAdvisor.
//!
//! One [`table`] says of each metric what it is called, what it means and where its value comes from; descriptors and
//! values are both made from it, so that nothing is told that was not announced, and with the labels that were
//! announced. The API's values are whole numbers: seconds are cut off.
//!
//! A container's series carry its cgroup as `id`, its id as `name`, and its name as `container`; those of the network
//! are the pod's, with an empty `container` and `image`. A value without a time of its own is of the moment of the
//! answer; the size of a writable layer is as old as the last walk over it.

mod table;

use std::collections::BTreeMap;

use berth_cgroup::{DeviceIo, HugePages};
use berth_cri_proto::v1::{
    ContainerMetrics, Metric, MetricDescriptor, MetricType, PodSandboxMetrics, UInt64Value,
};
use berth_net::LinkUsage;
use berth_pod::stats::{ContainerDetails, ContainerUsage, LayersSpace, NodeDetails, PodDetails, PodUsage};

use table::TABLE;

/// The labels of every series, in this order.
const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// One metric.
struct Entry {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: Value,
}

/// Where a metric's values come from, and so which labels they have besides those of every series.
enum Value {
    /// One for a container.
    Plain(fn(&Reading<'_>) -> Option<u64>),
    /// Any number for a container, with these labels.
    Labelled(&'static [&'static str], fn(&Reading<'_>) -> Samples),
    /// One for a container: about the filesystem that its layer is on.
    Filesystem(fn(&Reading<'_>) -> u64),
    /// One for each block device that a container has used.
    Device(fn(&DeviceIo) -> u64),
    /// One for each size of huge pages.
    HugePages(fn(&HugePages) -> u64),
    /// One for each interface of a pod.
    Link(fn(&LinkUsage) -> u64),
}

/// Values, each with those of its metric's own labels.
type Samples = Vec<(Vec<String>, u64)>;

/// A container's numbers, as the table's functions take them.
struct Reading<'a> {
    usage: &'a ContainerUsage,
    details: &'a ContainerDetails,
    space: &'a LayersSpace,
    device_names: &'a BTreeMap<(u32, u32), String>,
}

/// What may be told, ever.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let descriptor = |entry: &Entry| MetricDescriptor {
        name: entry.name.to_owned(),
        help: entry.help.to_owned(),
        label_keys: BASE_LABELS.iter().chain(entry.value.labels()).map(|label| (*label).to_owned()).collect(),
    };
    TABLE.iter().map(descriptor).collect()
}

/// What is to be told of each pod.
pub(crate) fn metrics_of(node: &NodeDetails) -> Vec<PodSandboxMetrics> {
    node.pods.iter().map(|pod| metrics_of_pod(node, pod)).collect()
}

fn metrics_of_pod(node: &NodeDetails, pod: &PodDetails) -> PodSandboxMetrics {
    let mut metrics = Vec::new();
    for link in pod.usage.links.iter().flatten() {
        for entry in &TABLE {
            if let Value::Link(value) = entry.value {
                let labels = labels_of_pod(&pod.usage).into_iter().chain([link.name.clone()]).collect();
                metrics.push(entry.metric(labels, value(link)));
            }
        }
    }
    let containers = pod.usage.containers.iter().zip(&pod.containers);
    let container_metrics = containers.map(|(usage, details)| ContainerMetrics {
        container_id: usage.container.id.to_string(),
        metrics: metrics_of_container(
            &pod.usage,
            &Reading { usage, details, space: &node.space, device_names: &node.device_names },
        ),
    });
    PodSandboxMetrics {
        pod_sandbox_id: pod.usage.pod.id.to_string(),
        metrics,
        container_metrics: container_metrics.collect(),
    }
}

fn metrics_of_container(pod: &PodUsage, reading: &Reading<'_>) -> Vec<Metric> {
    let base = labels_of_container(pod, reading.usage);
    let mut metrics = Vec::new();
    for entry in &TABLE {
        for (labels, value) in entry.value.of(reading) {
            metrics.push(entry.metric(base.iter().cloned().chain(labels).collect(), value));
        }
    }
    metrics
}

impl Entry {
    fn metric(&self, label_values: Vec<String>, value: u64) -> Metric {
        Metric {
            name: self.name.to_owned(),
            timestamp: 0,
            metric_type: self.kind.into(),
            label_values,
            value: Some(UInt64Value { value }),
        }
    }
}

impl Value {
    fn labels(&self) -> &'static [&'static str] {
        match self {
            Self::Plain(_) => &[],
            Self::Labelled(labels, _) => labels,
            Self::Filesystem(_) | Self::Device(_) => &["device"],
            Self::HugePages(_) => &["pagesize"],
            Self::Link(_) => &["interface"],
        }
    }

    /// A container's values.
    fn of(&self, reading: &Reading<'_>) -> Samples {
        let detail = &reading.details.detail;
        match self {
            Self::Plain(value) => value(reading).map(|value| (Vec::new(), value)).into_iter().collect(),
            Self::Labelled(_, values) => values(reading),
            Self::Filesystem(value) => {
                vec![(vec![reading.device_name(reading.space.device)], value(reading))]
            }
            Self::Device(value) => {
                let of_device = |io: &DeviceIo| (vec![reading.device_name((io.major, io.minor))], value(io));
                detail.devices.iter().map(of_device).collect()
            }
            Self::HugePages(value) => {
                detail.huge_pages.iter().map(|pages| (vec![pages.page_size.clone()], value(pages))).collect()
            }
            Self::Link(_) => Vec::new(),
        }
    }
}

impl Reading<'_> {
    /// Like `/dev/sda`; the device's number where it has no name.
    fn device_name(&self, device: (u32, u32)) -> String {
        let (major, minor) = device;
        self.device_names.get(&device).cloned().unwrap_or_else(|| format!("{major}:{minor}"))
    }
}

/// In the order of [`BASE_LABELS`].
fn labels_of_container(pod: &PodUsage, usage: &ContainerUsage) -> [String; 6] {
    let (container, identity) = (&usage.container, &pod.pod.spec.identity);
    let image = match container.spec.user_specified_image.as_str() {
        "" => &container.spec.image,
        name => name,
    };
    [
        container.spec.name.clone(),
        container.cgroup.clone(),
        image.to_owned(),
        container.id.to_string(),
        identity.namespace.clone(),
        identity.name.clone(),
    ]
}

fn labels_of_pod(usage: &PodUsage) -> [String; 6] {
    let (pod, identity) = (&usage.pod, &usage.pod.spec.identity);
    let (namespace, name) = (identity.namespace.clone(), identity.name.clone());
    [String::new(), pod.cgroup.clone(), String::new(), pod.id.to_string(), namespace, name]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use berth_cgroup::{
        CpuDetail, Detail, Limit, MemoryDetail, MemoryUsage, Pressure, PressureUsage, Throttling, Usage,
    };
    use berth_image::DiskUsage;
    use berth_net::Traffic;
    use berth_pod::stats::{LayerUsage, ProcessUsage};
    use berth_pod::view::ContainerState;

    use super::*;
    use crate::convert::testing::{container_view, pod_view};

    /// A node with one pod of one container, of which everything is known.
    fn node() -> NodeDetails {
        let mut container = container_view();
        container.state = ContainerState::Running { started_at_ns: 5_000_000_000 };
        container.limits.cpu_quota_us = Some(Limit::At(20_000));
        let usage = Usage {
            cpu_ns: Some(2_900_000_000),
            memory: Some(MemoryUsage { usage_bytes: 4096, page_faults: 7, ..MemoryUsage::default() }),
            tasks: Some(3),
            pressure: PressureUsage {
                cpu: Some(Pressure::default()),
                memory: Some(Pressure::default()),
                io: Some(Pressure::default()),
            },
        };
        let layer = LayerUsage::new(1, DiskUsage { bytes: 8192, inodes: 2 });
        let containers = vec![ContainerUsage {
            container: Arc::new(container),
            at_ns: 9_000_000_000,
            usage: usage.clone(),
            nano_cores: None,
            layer,
        }];
        let link = LinkUsage {
            name: "eth0".into(),
            received: Traffic { bytes: 100, ..Traffic::default() },
            ..LinkUsage::default()
        };
        let usage = PodUsage {
            pod: Arc::new(pod_view()),
            at_ns: 9_000_000_000,
            usage,
            nano_cores: None,
            links: Some(vec![link]),
            containers,
        };
        let detail = Detail {
            cpu: Some(CpuDetail::default()),
            throttling: Some(Throttling::default()),
            memory: Some(MemoryDetail::default()),
            tasks_limit: None,
            tasks_refused: None,
            devices: vec![DeviceIo { major: 254, read_bytes: 11, written_bytes: 12, ..DeviceIo::default() }],
            huge_pages: vec![HugePages { page_size: "2MB".into(), ..HugePages::default() }],
        };
        let processes = ProcessUsage { descriptors_limit: Some(1024), ..ProcessUsage::default() };
        let space = LayersSpace { device: (254, 0), bytes: 1 << 30, ..LayersSpace::default() };
        NodeDetails {
            pods: vec![PodDetails { usage, containers: vec![ContainerDetails { detail, processes }] }],
            space,
            device_names: BTreeMap::from([((254, 0), "/dev/vda".to_owned())]),
        }
    }

    fn told() -> Vec<Metric> {
        let [pod] = &metrics_of(&node())[..] else { panic!("one pod") };
        let containers = pod.container_metrics.iter().flat_map(|container| container.metrics.clone());
        pod.metrics.iter().cloned().chain(containers).collect()
    }

    /// The value of the series with these labels besides those of every series.
    fn check(name: &str, labels: &[&str], want: u64) {
        let told = told();
        let mut named = told.iter().filter(|metric| metric.name == name);
        let found = named.find(|metric| metric.label_values[BASE_LABELS.len()..] == *labels);
        assert_eq!(found.unwrap().value.unwrap().value, want, "{name} {labels:?}");
    }

    #[test]
    fn what_is_announced_and_what_is_told_are_the_same() {
        let announced: BTreeMap<_, _> =
            descriptors().into_iter().map(|one| (one.name, one.label_keys.len())).collect();
        assert_eq!(announced.len(), TABLE.len(), "each name once");
        assert_eq!(announced.len(), 56);
        let told = told();
        let names: BTreeSet<_> = told.iter().map(|metric| metric.name.clone()).collect();
        assert_eq!(names, announced.keys().cloned().collect());
        for metric in told {
            assert_eq!(metric.label_values.len(), announced[&metric.name], "{}", metric.name);
        }
    }

    #[test]
    fn values_are_in_the_units_of_their_names() {
        check("container_cpu_usage_seconds_total", &["total"], 2);
        check("container_start_time_seconds", &[], 5);
        check("container_last_seen", &[], 9);
        check("container_memory_usage_bytes", &[], 4096);
        check("container_memory_failures_total", &["pgfault", "hierarchy"], 7);
        check("container_spec_cpu_quota", &[], 20_000);
        check("container_spec_cpu_period", &[], 100_000);
        check("container_fs_usage_bytes", &["/dev/vda"], 8192);
        check("container_fs_limit_bytes", &["/dev/vda"], 1 << 30);
        check("container_blkio_device_usage_total", &["/dev/vda", "254", "0", "Write"], 12);
        check("container_fs_reads_bytes_total", &["/dev/vda"], 11);
        check("container_network_receive_bytes_total", &["eth0"], 100);
        check("container_hugetlb_usage_bytes", &["2MB"], 0);
        check("container_ulimits_soft", &["max_open_files"], 1024);
        check("container_threads", &[], 3);
    }

    #[test]
    fn series_are_labelled_by_pod_and_container() {
        let told = told();
        let labels = |name: &str| {
            let metric = told.iter().find(|metric| metric.name == name).unwrap();
            metric.label_values[..BASE_LABELS.len()].to_vec()
        };
        let (pod, container) = (pod_view(), container_view());
        let id = container.id.to_string();
        assert_eq!(
            labels("container_memory_rss"),
            ["server", "/berth/x/y", "busybox", &id, "default", "web"].map(str::to_owned)
        );
        let id = pod.id.to_string();
        assert_eq!(
            labels("container_network_transmit_bytes_total"),
            ["", "/berth/x", "", &id, "default", "web"].map(str::to_owned)
        );
    }

    #[test]
    fn what_a_kernel_does_not_count_is_not_told() {
        let mut node = node();
        node.pods[0].containers[0].detail = Detail::default();
        node.pods[0].usage.containers[0].usage.pressure = PressureUsage::default();
        node.pods[0].usage.links = None;
        let [pod] = &metrics_of(&node)[..] else { panic!("one pod") };
        assert!(pod.metrics.is_empty());
        let names = |text: &str| {
            let metrics = &pod.container_metrics[0].metrics;
            metrics.iter().filter(|metric| metric.name.contains(text)).count()
        };
        assert_eq!((names("pressure"), names("hugetlb"), names("oom"), names("memory_rss")), (0, 0, 0, 1));
    }
}
