//! Limits: what is asked for is in the cgroup, can be changed while the container runs, and is what status tells.

use std::fs;
use std::path::{Path, PathBuf};

use berth_cri_proto::v1::*;
use berth_e2e::requests::{limits, shell};
use berth_e2e::{Node, Pod, eventually};
use tonic::Code;

const MIB: i64 = 1 << 20;

/// One file of a container's cgroup, by its name on version 2 and on version 1.
fn cgroup_file(pod: &Pod<'_>, id: &str, v2: &str, v1: &str) -> String {
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", pod.pid(Some(id)))).unwrap();
    let (root, line, file) = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => (PathBuf::from("/sys/fs/cgroup"), "0::".to_owned(), v2),
        false => {
            let controller = v1.split('.').next().unwrap();
            let has = |line: &&str| line.split(':').nth(1).unwrap().split(',').any(|name| name == controller);
            let names = cgroups.lines().find(has).unwrap().split(':').nth(1).unwrap();
            (Path::new("/sys/fs/cgroup").join(names), format!(":{names}:"), v1)
        }
    };
    let path = cgroups.lines().find_map(|found| Some(found.split_once(&line)?.1)).unwrap();
    fs::read_to_string(root.join(&path[1..]).join(file)).unwrap().trim().to_owned()
}

fn memory(pod: &Pod<'_>, id: &str) -> String {
    cgroup_file(pod, id, "memory.max", "memory.limit_in_bytes")
}

fn update(node: &Node, id: &str, linux: LinuxContainerResources) -> Result<(), tonic::Status> {
    let request =
        UpdateContainerResourcesRequest { container_id: id.into(), linux: Some(linux), ..Default::default() };
    node.cri().update_container_resources(request).map(drop)
}

fn applied(pod: &Pod<'_>, id: &str) -> LinuxContainerResources {
    pod.status(id).resources.unwrap().linux.unwrap()
}

fn limited(script: &str) -> ContainerConfig {
    let mut config = shell("main", script);
    *limits(&mut config) = LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 96 * MIB,
        ..Default::default()
    };
    config
}

#[test]
#[ignore = "needs root and the test images"]
fn limits_change_before_and_while_a_container_runs_and_survive_the_agent() {
    let node = Node::start();
    let pod = node.pod("updates");
    let id = pod.create(limited("exec sleep 1000"));
    let quota = || cgroup_file(&pod, &id, "cpu.max", "cpu.cfs_quota_us");
    assert_eq!(
        applied(&pod, &id).memory_swap_limit_in_bytes,
        96 * MIB,
        "a limit on memory is one on swap too"
    );

    update(&node, &id, LinuxContainerResources { cpu_quota: 20_000, ..Default::default() }).unwrap();
    assert!(quota().starts_with("20000"), "{}", quota());
    pod.try_start(&id).unwrap();
    node.crictl(&[
        "update",
        "--memory",
        &(64 * MIB).to_string(),
        "--cpu-share",
        "1024",
        "--cpuset-cpus",
        "0",
        &id,
    ]);
    assert_eq!(memory(&pod, &id), (64 * MIB).to_string());
    assert_eq!(
        cgroup_file(&pod, &id, "cpu.weight", "cpu.shares"),
        if quota().contains(' ') { "100" } else { "1024" }
    );
    assert_eq!(cgroup_file(&pod, &id, "cpuset.cpus", "cpuset.cpus"), "0");
    assert!(quota().starts_with("20000"), "what is not given stays");

    let want = LinuxContainerResources {
        cpu_shares: 1024,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 64 * MIB,
        cpuset_cpus: "0".into(),
        ..Default::default()
    };
    assert_eq!(applied(&pod, &id), want);
    node.kill9();
    node.restart();
    assert_eq!(applied(&pod, &id), want);
    update(&node, &id, LinuxContainerResources { cpu_quota: -1, ..Default::default() }).unwrap();
    assert!(["max 100000", "-1"].contains(&&*quota()));
    assert_eq!(applied(&pod, &id), LinuxContainerResources { cpu_quota: -1, ..want });
}

#[test]
#[ignore = "needs root and the test images"]
fn memory_in_use_is_not_taken_away() {
    let node = Node::start();
    let pod = node.pod("shrink");
    // What lies in shared memory is nowhere else. A program that takes as much needs too long where it is emulated.
    let id = pod.start(limited("head -c 50331648 /dev/zero >/dev/shm/held; echo held; exec sleep 1000"));
    pod.await_line("main", "held");
    let usage = || cgroup_file(&pod, &id, "memory.current", "memory.usage_in_bytes").parse::<i64>().unwrap();
    eventually("the use of memory", std::time::Duration::from_secs(20), || {
        (usage() > 48 * MIB).then_some(())
    });
    let before = applied(&pod, &id);
    let change =
        LinuxContainerResources { memory_limit_in_bytes: 16 * MIB, cpu_shares: 77, ..Default::default() };
    let error = update(&node, &id, change).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error.message().contains("set memory limit to 16777216") && error.message().contains("in use"),
        "{error}"
    );
    assert_eq!((applied(&pod, &id), memory(&pod, &id)), (before, (96 * MIB).to_string()));
    assert!(["512", "59"].contains(&&*cgroup_file(&pod, &id, "cpu.weight", "cpu.shares")));
    assert_eq!(pod.status(&id).state(), ContainerState::ContainerRunning);
    assert_eq!(pod.exec(&id, "echo alive"), "alive");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_change_that_cannot_be_is_refused_and_changes_nothing() {
    let node = Node::start();
    let pod = node.pod("refused");
    let id = pod.start(limited("exec sleep 1000"));
    let before = applied(&pod, &id);
    let check = |id: &str, change: LinuxContainerResources, code, words: &str| {
        let error = update(&node, id, change).unwrap_err();
        assert_eq!((error.code(), error.message().contains(words)), (code, true), "{error}");
    };
    let none = LinuxContainerResources::default;
    let cpus = LinuxContainerResources { cpuset_cpus: "4095".into(), cpu_shares: 2, ..none() };
    check(&id, cpus, Code::InvalidArgument, "cpuset cpus");
    let swap = LinuxContainerResources { memory_swap_limit_in_bytes: 32 * MIB, ..none() };
    check(&id, swap, Code::InvalidArgument, "memory swap limit \"33554432\"");
    let shares = LinuxContainerResources { cpu_shares: -1, ..none() };
    check(&id, shares, Code::InvalidArgument, "linux.cpu_shares: -1");
    let key = LinuxContainerResources { unified: [("../memory.max".into(), "1".into())].into(), ..none() };
    check(&id, key, Code::InvalidArgument, "unified");
    check("no-such-container", none(), Code::NotFound, "no-such-container");
    assert_eq!(applied(&pod, &id), before);
    assert!(["512", "59"].contains(&&*cgroup_file(&pod, &id, "cpu.weight", "cpu.shares")));
    update(&node, &id, none()).unwrap();
    pod.stop(&id, 0);
    check(&id, LinuxContainerResources { cpu_shares: 4, ..none() }, Code::FailedPrecondition, "has exited");
}

#[test]
#[ignore = "needs root and the test images"]
fn what_a_pod_needs_is_kept_as_it_was_last_told() {
    let node = Node::start();
    let pod = node.pod("needs");
    let shares = |cpu_shares| Some(LinuxContainerResources { cpu_shares, ..Default::default() });
    let request = UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: shares(11),
        resources: shares(22),
    };
    node.cri().update_pod_sandbox_resources(request.clone()).unwrap();
    let told = || {
        let info: serde_json::Value = serde_json::from_str(&node.crictl(&["inspectp", &pod.id])).unwrap();
        let resources = &info["info"]["resources"];
        (resources["overhead"]["cpu_shares"].as_i64(), resources["containers"]["cpu_shares"].as_i64())
    };
    assert_eq!(told(), (Some(11), Some(22)));
    node.kill9();
    node.restart();
    assert_eq!(told(), (Some(11), Some(22)));
    let unknown = UpdatePodSandboxResourcesRequest { pod_sandbox_id: "nobody".into(), ..request };
    assert_eq!(node.cri().update_pod_sandbox_resources(unknown).unwrap_err().code(), Code::NotFound);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_score_that_the_agent_cannot_give_is_raised_and_told() {
    let node = Node::start();
    let pod = node.pod("score");
    let agents = fs::read_to_string(format!("/proc/{}/oom_score_adj", node.agent_pid())).unwrap();
    let agents: i64 = agents.trim().parse().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", node.agent_pid())).unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may_lower = u64::from_str_radix(capabilities, 16).unwrap() & 1 << 24 != 0;
    let mut config = shell("main", "exec sleep 1000");
    limits(&mut config).oom_score_adj = agents - 100;
    let id = pod.start(config);
    let want = if may_lower { agents - 100 } else { agents };
    assert_eq!(applied(&pod, &id).oom_score_adj, want);
    assert_eq!(
        pod.exec(&id, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj"),
        format!("{want}\n{want}")
    );
    assert_eq!(node.journal().contains("oom_score_adj raised"), !may_lower);
}

#[test]
#[ignore = "needs root and the test images"]
fn pods_stand_in_slices_where_systemd_makes_the_parents() {
    let node = Node::start();
    let driver =
        || node.cri().runtime_config(RuntimeConfigRequest {}).unwrap().linux.unwrap().cgroup_driver();
    assert_eq!(driver(), CgroupDriver::Cgroupfs);
    let config = node.dir().join("config.toml");
    let settings = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("cgroup.driver = 'systemd'\n{settings}")).unwrap();
    node.stop();
    node.restart();
    assert_eq!(driver(), CgroupDriver::Systemd);

    let top = format!("bertheslice{}", std::process::id());
    let mut config = node.sandbox("sliced");
    config.linux.as_mut().unwrap().cgroup_parent = format!("/{top}/pod1");
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let error = node.cri().run_pod_sandbox(request).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("cgroup.driver is systemd"), "{}", error.message());

    config.linux.as_mut().unwrap().cgroup_parent = format!("{top}-besteffort-podx_1.slice");
    let pod = Pod::run(&node, config);
    let id = pod.shell("main", "exec sleep 1000");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", pod.pid(Some(&id)))).unwrap();
    let slices =
        [format!("{top}.slice"), format!("{top}-besteffort.slice"), format!("{top}-besteffort-podx_1.slice")];
    assert!(cgroups.contains(&format!(":/{}/{id}", slices.join("/"))), "{cgroups}");
    pod.take_down();
    // As systemd does: the slices are empty, and no longer needed.
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-depth", "-type", "d", "-name", &format!("{top}*.slice")])
        .output()
        .unwrap();
    let directories: Vec<_> = std::str::from_utf8(&found.stdout).unwrap().lines().collect();
    assert!(directories.len() >= slices.len());
    directories.iter().for_each(|directory| fs::remove_dir(directory).unwrap());
}
