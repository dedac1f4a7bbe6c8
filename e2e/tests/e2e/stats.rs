//! The numbers: CPU, memory, disk and network move with what a pod does, metrics are complete, and disks agree with
//! `du`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::requests::{limits, sandbox_namespaces, shell};
use berth_e2e::{Node, eventually, run};
use tonic::Code;

const MIB: u64 = 1 << 20;

fn stats(node: &Node, id: &str) -> ContainerStats {
    let request = ContainerStatsRequest { container_id: id.into() };
    node.cri().container_stats(request).unwrap().stats.unwrap()
}

fn pod_stats(node: &Node, id: &str) -> LinuxPodSandboxStats {
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.into() };
    node.cri().pod_sandbox_stats(request).unwrap().stats.unwrap().linux.unwrap()
}

fn value(number: Option<UInt64Value>) -> u64 {
    number.expect("a number").value
}

#[test]
#[ignore = "needs root and the test images"]
fn cpu_and_memory_are_those_of_the_container_and_its_pod() {
    let node = Node::start();
    let pod = node.pod("busy");
    let mut config =
        shell("worker", "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ready; exec sleep 1000");
    limits(&mut config).memory_limit_in_bytes = 256 << 20;
    // The shell, which has the memory, must stay.
    config.command[2] = config.command[2].replace("exec sleep 1000", "while :; do sleep 1000; done");
    let worker = pod.start(config);
    let idle = pod.shell("idle", "exec sleep 1000");
    pod.await_line("worker", "ready");

    let cpu_ns = |id: &str| value(stats(&node, id).cpu.unwrap().usage_core_nano_seconds);
    let (before, idle_before, pod_before) = (
        cpu_ns(&worker),
        cpu_ns(&idle),
        value(pod_stats(&node, &pod.id).cpu.unwrap().usage_core_nano_seconds),
    );
    pod.exec(&worker, "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done");
    let burnt = cpu_ns(&worker) - before;
    assert!(burnt > 100_000_000, "{burnt}");
    let idle_burnt = cpu_ns(&idle) - idle_before;
    assert!(idle_burnt < burnt / 10, "{idle_burnt} {burnt}");
    let of_pod = value(pod_stats(&node, &pod.id).cpu.unwrap().usage_core_nano_seconds) - pod_before;
    assert!(of_pod >= burnt, "{of_pod} {burnt}");

    let memory = stats(&node, &worker).memory.unwrap();
    let (usage, rss) = (value(memory.usage_bytes), value(memory.rss_bytes));
    let working_set = value(memory.working_set_bytes);
    assert!((28 * MIB..80 * MIB).contains(&rss) && usage >= rss, "{memory:?}");
    assert!(working_set >= rss && working_set <= usage, "{memory:?}");
    assert_eq!(value(memory.available_bytes) + working_set, 256 * MIB);
    assert!(value(memory.page_faults) > 5000, "{memory:?}");
    let idle_memory = stats(&node, &idle).memory.unwrap();
    assert!(
        value(idle_memory.rss_bytes) < 5 * MIB && idle_memory.available_bytes.is_none(),
        "{idle_memory:?}"
    );
    let of_pod = pod_stats(&node, &pod.id);
    assert!(value(of_pod.memory.unwrap().rss_bytes) >= rss);
    // Two shells and sleeps, pause and monitor.
    assert!((4..20).contains(&value(of_pod.process.unwrap().process_count)));
    let listed: BTreeSet<_> = of_pod.containers.into_iter().map(|one| one.attributes.unwrap().id).collect();
    assert_eq!(listed, BTreeSet::from([worker, idle]));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_rate_takes_two_readings() {
    let node = Node::start();
    let pod = node.pod("rate");
    let busy = pod.shell("busy", "while :; do :; done");
    let rate = || stats(&node, &busy).cpu.unwrap().usage_nano_cores;
    assert_eq!(rate(), None);
    let cores = eventually("a rate", Duration::from_secs(10), rate).value as f64 / 1e9;
    assert!((0.02..1.5).contains(&cores), "{cores}");
}

#[test]
#[ignore = "needs root and the test images"]
fn layers_and_disks_agree_with_du() {
    let node = Node::start();
    let pod = node.pod("writer");
    let id = pod.shell("writer", "exec sleep 1000");
    pod.exec(&id, "dd if=/dev/zero of=/big bs=1M count=20; for i in $(seq 100); do echo > /small-$i; done");
    let layer = eventually("the layer to be measured", Duration::from_secs(40), || {
        Some(stats(&node, &id).writable_layer.unwrap()).filter(|layer| value(layer.inodes_used) > 100)
    });
    let directory = node.dir().join("root/containers").join(&id);
    assert_eq!(value(layer.used_bytes), du(&directory.join("upper"), "--block-size=1"));
    assert_eq!(value(layer.inodes_used), du(&directory.join("upper"), "--inodes"));
    assert!(value(layer.used_bytes) >= 20 * MIB && layer.timestamp > 0, "{layer:?}");

    let info = node.cri().image_fs_info(ImageFsInfoRequest {}).unwrap();
    let [images] = &info.image_filesystems[..] else { panic!("{info:?}") };
    let [containers] = &info.container_filesystems[..] else { panic!("{info:?}") };
    let root = node.dir().join("root/images");
    assert_eq!(images.fs_id.as_ref().unwrap().mountpoint, root.to_str().unwrap());
    // One filesystem, one name: what a kubelet takes two names to mean, it is not.
    assert_eq!((&images.fs_id, &containers.fs_id), (&containers.fs_id, &layer.fs_id));
    assert_eq!(value(images.used_bytes), du(&root, "--block-size=1"));
    assert_eq!(value(images.inodes_used), du(&root, "--inodes"));
    assert_eq!(value(containers.used_bytes), du(&directory, "--block-size=1"));
    assert_eq!(value(containers.inodes_used), du(&directory, "--inodes"));
}

/// What `du` counts in a unit.
fn du(directory: &Path, unit: &str) -> u64 {
    let text = run(std::process::Command::new("du").args(["-s", unit]).arg(directory));
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root and the test images"]
fn traffic_is_counted_at_the_pods_interface() {
    let node = Node::start();
    let pod = node.pod("server");
    pod.shell("web", "dd if=/dev/zero of=/page bs=1M count=8 && exec httpd -f -p 8080 -h /");
    let sent = || {
        let network = pod_stats(&node, &pod.id).network.unwrap();
        let default = network.default_interface.unwrap();
        assert_eq!((default.name.as_str(), network.interfaces.len()), ("eth0", 0));
        (value(default.tx_bytes), value(default.rx_bytes))
    };
    let before = sent();
    let url = format!("http://{}:8080/page", pod.addresses()[0]);
    node.site().run(
        "curl",
        &["--silent", "--show-error", "--retry", "8", "--retry-connrefused", "-o", "/dev/null", &url],
    );
    let after = sent();
    assert!((8 * MIB..12 * MIB).contains(&(after.0 - before.0)), "{before:?} {after:?}");
    assert!(after.1 > before.1, "{before:?} {after:?}");

    let mut config = node.sandbox("host");
    sandbox_namespaces(&mut config).network = NamespaceMode::Node.into();
    let host = berth_e2e::Pod::run(&node, config);
    assert_eq!(pod_stats(&node, &host.id).network, None);

    // Another agent has another socket in the same namespace.
    node.kill9();
    node.restart();
    assert!(sent().0 >= after.0);
}

#[test]
#[ignore = "needs root and the test images"]
fn only_what_runs_has_stats_and_filters_narrow_them() {
    let node = Node::start();
    let (pod, other) = (node.pod("one"), node.pod("other"));
    let mut config = shell("labelled", "exec sleep 1000");
    config.labels = HashMap::from([("app".to_owned(), "web".to_owned())]);
    let labelled = pod.start(config);
    let plain = other.shell("plain", "exec sleep 1000");
    let ended = pod.shell("ended", "true");
    pod.end_of(&ended);
    let created = pod.create(shell("created", "true"));
    let cri = node.cri();
    let ids = |stats: Vec<ContainerStats>| -> BTreeSet<String> {
        stats.into_iter().map(|one| one.attributes.unwrap().id).collect()
    };
    let check = |filter: Option<ContainerStatsFilter>, want: &[&str]| {
        let want: BTreeSet<_> = want.iter().map(|id| (*id).to_owned()).collect();
        let request = ListContainerStatsRequest { filter: filter.clone() };
        assert_eq!(ids(cri.list_container_stats(request).unwrap().stats), want, "{filter:?}");
        let parts = cri.stream_container_stats(StreamContainerStatsRequest { filter }).unwrap();
        let parts = cri.collect(parts).unwrap();
        assert_eq!(ids(parts.into_iter().flat_map(|part| part.container_stats).collect()), want);
    };
    let all = ContainerStatsFilter::default;
    let selector = |value: &str| HashMap::from([("app".to_owned(), value.to_owned())]);
    check(None, &[&labelled, &plain]);
    check(Some(all()), &[&labelled, &plain]);
    check(Some(ContainerStatsFilter { id: plain[..13].into(), ..all() }), &[&plain]);
    check(Some(ContainerStatsFilter { id: "ffff".into(), ..all() }), &[]);
    check(Some(ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..all() }), &[&labelled]);
    check(Some(ContainerStatsFilter { label_selector: selector("web"), ..all() }), &[&labelled]);
    check(Some(ContainerStatsFilter { label_selector: selector("db"), ..all() }), &[]);
    for id in [&ended, &created] {
        let refused = cri.container_stats(ContainerStatsRequest { container_id: id.clone() }).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
    }
    let unknown = ContainerStatsRequest { container_id: "0123".into() };
    assert_eq!(cri.container_stats(unknown).unwrap_err().code(), Code::NotFound);

    let pods = |id: &str| -> Vec<String> {
        let filter = Some(PodSandboxStatsFilter { id: id.into(), ..Default::default() });
        let listed =
            cri.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter: filter.clone() }).unwrap();
        let parts = cri.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest { filter }).unwrap();
        let parts = cri.collect(parts).unwrap();
        let ids = |stats: Vec<PodSandboxStats>| {
            stats.into_iter().map(|one| one.attributes.unwrap().id).collect::<Vec<_>>()
        };
        let listed = ids(listed.stats);
        assert_eq!(ids(parts.into_iter().flat_map(|part| part.pod_sandbox_stats).collect()), listed);
        listed
    };
    assert_eq!(pods("").len(), 2);
    assert_eq!(pods(&other.id[..12]), [&*other.id]);
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: other.id.clone() }).unwrap();
    assert_eq!(pods(""), [&*pod.id]);
    let stopped = PodSandboxStatsRequest { pod_sandbox_id: other.id.clone() };
    assert_eq!(cri.pod_sandbox_stats(stopped).unwrap_err().code(), Code::FailedPrecondition);
    let unknown = PodSandboxStatsRequest { pod_sandbox_id: "0123".into() };
    assert_eq!(cri.pod_sandbox_stats(unknown).unwrap_err().code(), Code::NotFound);
}

#[test]
#[ignore = "needs root and the test images"]
fn every_metric_is_announced_and_told_with_its_labels() {
    let node = Node::start();
    let pod = node.pod("metered");
    let mut config = shell("metered", "exec sleep 1000");
    *limits(&mut config) = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let id = pod.start(config);
    let cri = node.cri();
    let descriptors = cri.list_metric_descriptors(ListMetricDescriptorsRequest {}).unwrap().descriptors;
    let labels: BTreeMap<_, _> =
        descriptors.iter().map(|one| (one.name.as_str(), one.label_keys.len())).collect();
    assert_eq!(labels.len(), 56);
    let listed = cri.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).unwrap().pod_metrics;
    let parts = cri.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {}).unwrap();
    assert_eq!(
        cri.collect(parts).unwrap().iter().map(|part| part.pod_sandbox_metrics.len()).sum::<usize>(),
        1
    );
    let [metrics] = &listed[..] else { panic!("one pod: {listed:?}") };
    assert_eq!(metrics.pod_sandbox_id, pod.id);
    let [container] = &metrics.container_metrics[..] else { panic!("one container: {metrics:?}") };
    assert_eq!(container.container_id, id);

    let mut told = BTreeMap::new();
    for metric in metrics.metrics.iter().chain(&container.metrics) {
        assert_eq!(Some(&metric.label_values.len()), labels.get(metric.name.as_str()), "{metric:?}");
        told.insert(metric.name.as_str(), metric.value.unwrap().value);
    }
    // A container that has touched no disk has no counts of one, and a kernel may lack huge pages and pressure.
    let is_optional = |name: &str| {
        ["blkio", "fs_reads", "fs_writes", "hugetlb", "pressure"].iter().any(|part| name.contains(part))
    };
    let missing: Vec<_> =
        labels.keys().filter(|name| !told.contains_key(*name) && !is_optional(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (name, want) in [
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_quota", 20_000),
        ("container_spec_cpu_shares", 1024),
        ("container_spec_memory_limit_bytes", 64 << 20),
        ("container_spec_memory_swap_limit_bytes", 64 << 20),
        ("container_processes", 1),
        ("container_threads", 1),
    ] {
        assert_eq!(told[name], want, "{name}");
    }
    assert!(told["container_file_descriptors"] >= 3 && told["container_sockets"] == 0, "{told:?}");
    assert!(told["container_last_seen"] >= told["container_start_time_seconds"]);
    assert!(
        Path::new("/proc/pressure/cpu").exists()
            == told.contains_key("container_pressure_cpu_waiting_seconds_total")
    );
}

#[test]
#[ignore = "needs root and the test images"]
fn crictl_shows_the_numbers() {
    let node = Node::start();
    let pod = node.pod("shown");
    let id = pod.shell("worker", "while :; do :; done");
    for (args, want) in [
        (&["stats", "-s", "1"][..], "worker"),
        (&["statsp", "-s", "1"], "shown"),
        (&["stats", "-o", "json", &id], "usageCoreNanoSeconds"),
        (&["statsp", "-o", "json", &pod.id], "defaultInterface"),
        (&["metricsp"], "container_cpu_usage_seconds_total"),
        (&["metricdescs"], "container_ulimits_soft"),
        (&["imagefsinfo"], "containerFilesystems"),
    ] {
        let shown = node.crictl(args);
        assert!(shown.contains(want), "{args:?}: {shown}");
    }
}
