//! Requests that make no sense or come at the wrong time: each is refused with the right code and words, and nothing is
//! made for it.

use berth_cri_proto::v1::security_profile::ProfileType;
use berth_cri_proto::v1::*;
use berth_e2e::requests::{limits, privileged, sandbox_namespaces, sandbox_security, security, shell};
use berth_e2e::{Node, Pod};
use tonic::{Code, Status};

const UNKNOWN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What is done to a good request, and what is to be said of it.
type Case<Request> = (&'static str, fn(&mut Request), Code, &'static [&'static str]);

#[test]
#[ignore = "needs root and the test images"]
fn nonsense_in_a_sandbox_request_is_refused() {
    use Code::{InvalidArgument, Unimplemented};
    let cases: &[Case<RunPodSandboxRequest>] = &[
        ("no config", |r| r.config = None, InvalidArgument, &["config"]),
        ("no metadata", |r| sandbox(r).metadata = None, InvalidArgument, &["metadata"]),
        ("no name", |r| metadata(r).name.clear(), InvalidArgument, &["metadata.name"]),
        ("no namespace", |r| metadata(r).namespace.clear(), InvalidArgument, &["metadata.namespace"]),
        ("no uid", |r| metadata(r).uid.clear(), InvalidArgument, &["metadata.uid"]),
        ("handler", |r| r.runtime_handler = "kata".into(), InvalidArgument, &["runtime_handler", "kata"]),
        ("hostname", |r| sandbox(r).hostname = "a".repeat(65), InvalidArgument, &["hostname"]),
        ("hostname text", |r| sandbox(r).hostname = "a b/".into(), InvalidArgument, &["hostname", "a b/"]),
        (
            "log directory",
            |r| sandbox(r).log_directory = "logs".into(),
            InvalidArgument,
            &["log_directory", "logs"],
        ),
        (
            "host's sysctl",
            |r| sysctl(r, "kernel.core_pattern", "|/x"),
            InvalidArgument,
            &["sysctls", "kernel.core_pattern"],
        ),
        ("sysctl dots", |r| sysctl(r, "net/../kernel/core_pattern", "x"), InvalidArgument, &["sysctls"]),
        ("vm sysctl", |r| sysctl(r, "vm.overcommit_memory", "1"), InvalidArgument, &["vm.overcommit_memory"]),
        (
            "sysctl of the host's net",
            |r| {
                sandbox_namespaces(sandbox(r)).network = NamespaceMode::Node.into();
                sysctl(r, "net.ipv4.ip_forward", "1");
            },
            InvalidArgument,
            &["net.ipv4.ip_forward"],
        ),
        (
            "group alone",
            |r| sandbox_security(sandbox(r)).run_as_group = number(7),
            InvalidArgument,
            &["run_as_group"],
        ),
        (
            "user below zero",
            |r| sandbox_security(sandbox(r)).run_as_user = number(-1),
            InvalidArgument,
            &["run_as_user", "-1"],
        ),
        (
            "user too large",
            |r| sandbox_security(sandbox(r)).run_as_user = number(1 << 32),
            InvalidArgument,
            &["run_as_user", "4294967296"],
        ),
        ("unknown mode", |r| sandbox_namespaces(sandbox(r)).network = 9, InvalidArgument, &["network", "9"]),
        (
            "net CONTAINER",
            |r| sandbox_namespaces(sandbox(r)).network = NamespaceMode::Container.into(),
            InvalidArgument,
            &["network"],
        ),
        (
            "host port",
            |r| {
                sandbox(r).port_mappings =
                    vec![PortMapping { container_port: 80, host_port: 70000, ..Default::default() }];
            },
            InvalidArgument,
            &["port"],
        ),
        (
            "cgroup parent",
            |r| sandbox(r).linux.as_mut().unwrap().cgroup_parent = "/a/../../b".into(),
            InvalidArgument,
            &["cgroup_parent"],
        ),
        (
            "dns",
            |r| {
                sandbox(r).dns_config = Some(DnsConfig {
                    servers: vec!["not an address\nnameserver 1.1.1.1".into()],
                    ..Default::default()
                });
            },
            InvalidArgument,
            &["dns_config"],
        ),
        (
            "user namespace",
            |r| {
                sandbox_namespaces(sandbox(r)).userns_options =
                    Some(UserNamespace { mode: NamespaceMode::Pod.into(), ..Default::default() });
            },
            Unimplemented,
            &["userns_options"],
        ),
    ];
    let node = Node::start();
    let before = node.snapshot();
    for (name, change, code, words) in cases {
        let mut request = RunPodSandboxRequest { config: Some(node.sandbox("bad")), ..Default::default() };
        change(&mut request);
        let answer = node.cri().run_pod_sandbox(request).map(|made| format!("{made:?}"));
        check(name, answer, &[*code, InvalidArgument], words);
        node.assert_as_before(&before);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn nonsense_in_a_container_request_is_refused() {
    use Code::{InvalidArgument, NotFound};
    let cases: &[Case<ContainerConfig>] = &[
        ("no metadata", |c| c.metadata = None, InvalidArgument, &["metadata"]),
        ("no name", |c| c.metadata.as_mut().unwrap().name.clear(), InvalidArgument, &["metadata.name"]),
        ("no image", |c| c.image = None, InvalidArgument, &["image"]),
        (
            "image reference",
            |c| image(c, "Not//A:Reference:"),
            InvalidArgument,
            &["image", "Not//A:Reference:"],
        ),
        (
            "absent image",
            |c| image(c, "localhost/berth/absent:latest"),
            NotFound,
            &["localhost/berth/absent:latest"],
        ),
        (
            "user twice",
            |c| {
                security(c).run_as_user = number(1);
                security(c).run_as_username = "web".into();
            },
            InvalidArgument,
            &["run_as_user", "run_as_username"],
        ),
        ("group alone", |c| security(c).run_as_group = number(5), InvalidArgument, &["run_as_group"]),
        (
            "user below zero",
            |c| security(c).run_as_user = number(-5),
            InvalidArgument,
            &["run_as_user", "-5"],
        ),
        (
            "user too large",
            |c| security(c).run_as_user = number(1 << 33),
            InvalidArgument,
            &["run_as_user", "8589934592"],
        ),
        (
            "group too large",
            |c| security(c).supplemental_groups = vec![1 << 40],
            InvalidArgument,
            &["supplemental_groups", "1099511627776"],
        ),
        (
            "unknown user",
            |c| security(c).run_as_username = "nobody-here".into(),
            InvalidArgument,
            &["nobody-here"],
        ),
        ("privileged", |c| security(c).privileged = true, InvalidArgument, &["privileged"]),
        (
            "capability",
            |c| {
                security(c).capabilities.get_or_insert_default().add_capabilities = vec!["CAP_FLY".into()];
            },
            InvalidArgument,
            &["CAP_FLY"],
        ),
        ("target", |c| namespaces(c).pid = NamespaceMode::Target.into(), InvalidArgument, &["target_id"]),
        (
            "unknown target",
            |c| {
                namespaces(c).pid = NamespaceMode::Target.into();
                namespaces(c).target_id = UNKNOWN.into();
            },
            InvalidArgument,
            &["target"],
        ),
        ("relative host path", |c| mount(c, "data", "/data"), InvalidArgument, &["host_path", "data"]),
        (
            "relative container path",
            |c| mount(c, "/tmp", "data"),
            InvalidArgument,
            &["container_path", "data"],
        ),
        ("mount on the root", |c| mount(c, "/tmp", "/"), InvalidArgument, &["container_path"]),
        (
            "recursive",
            |c| {
                mount(c, "/tmp", "/data");
                c.mounts[0].recursive_read_only = true;
            },
            InvalidArgument,
            &["recursive_read_only"],
        ),
        (
            "memory below zero",
            |c| limits(c).memory_limit_in_bytes = -4,
            InvalidArgument,
            &["memory_limit_in_bytes", "-4"],
        ),
        ("quota", |c| limits(c).cpu_quota = -77, InvalidArgument, &["cpu_quota", "-77"]),
        ("period", |c| limits(c).cpu_period = -1, InvalidArgument, &["cpu_period", "-1"]),
        ("shares", |c| limits(c).cpu_shares = -1, InvalidArgument, &["cpu_shares", "-1"]),
        ("oom score", |c| limits(c).oom_score_adj = 1001, InvalidArgument, &["oom_score_adj", "1001"]),
        ("cpuset", |c| limits(c).cpuset_cpus = "two".into(), InvalidArgument, &["cpuset_cpus", "two"]),
        (
            "unified",
            |c| {
                limits(c).unified.insert("../cgroup.procs".into(), "1".into());
            },
            InvalidArgument,
            &["unified"],
        ),
        (
            "hugepages",
            |c| {
                limits(c).hugepage_limits = vec![HugepageLimit { page_size: "lots".into(), limit: 1 }];
            },
            InvalidArgument,
            &["hugepage", "lots"],
        ),
        (
            "log path dots",
            |c| c.log_path = "../../x.log".into(),
            InvalidArgument,
            &["log_path", "../../x.log"],
        ),
        ("working directory", |c| c.working_dir = "there".into(), InvalidArgument, &["working_dir", "there"]),
        (
            "environment",
            |c| c.envs = vec![KeyValue { key: "A=B".into(), value: "c".into() }],
            InvalidArgument,
            &["envs", "A=B"],
        ),
        ("NUL in an argument", |c| c.args = vec!["a\0b".into()], InvalidArgument, &["args"]),
        (
            "seccomp file",
            |c| {
                let profile = SecurityProfile {
                    profile_type: ProfileType::Localhost.into(),
                    localhost_ref: "/no/such/profile.json".into(),
                };
                security(c).seccomp = Some(profile);
            },
            InvalidArgument,
            &["seccomp", "/no/such/profile.json"],
        ),
        (
            "AppArmor profile",
            |c| {
                let profile = SecurityProfile {
                    profile_type: ProfileType::Localhost.into(),
                    localhost_ref: "mine".into(),
                };
                security(c).apparmor = Some(profile);
            },
            InvalidArgument,
            &["apparmor"],
        ),
        (
            "CDI device",
            |c| c.cdi_devices = vec![CdiDevice { name: "vendor.com/x=1".into() }],
            InvalidArgument,
            &["vendor.com/x=1", "/etc/cdi"],
        ),
    ];
    let node = Node::start();
    let pod = node.pod("good");
    let before = node.snapshot();
    for (name, change, code, words) in cases {
        let mut config = shell("bad", "exec sleep 1000");
        change(&mut config);
        // What only the image can tell is found out by the launch, which is at create or at start.
        let answer = pod.try_create(config).and_then(|id| {
            let started = pod.try_start(&id).map(|_| format!("started {id}"));
            node.cri().remove_container(RemoveContainerRequest { container_id: id }).unwrap();
            started
        });
        check(name, answer, &[*code, InvalidArgument], words);
        node.assert_as_before(&before);
    }
    assert_eq!(node.cri().containers().len(), 0);
}

#[test]
#[ignore = "needs root and the test images"]
fn what_is_unknown_is_not_found_and_what_comes_too_late_is_refused() {
    let node = Node::start();
    let cri = node.cri();
    let container_id = UNKNOWN.to_owned();
    check_code("ContainerStatus", cri.container(UNKNOWN), Code::NotFound);
    check_code("PodSandboxStatus", cri.sandbox(UNKNOWN), Code::NotFound);
    check_code(
        "StartContainer",
        cri.start_container(StartContainerRequest { container_id: container_id.clone() }),
        Code::NotFound,
    );
    check_code(
        "ReopenContainerLog",
        cri.reopen_container_log(ReopenContainerLogRequest { container_id: container_id.clone() }),
        Code::NotFound,
    );
    check_code("ContainerStatus", cri.container(""), Code::NotFound);

    let pod = node.pod("late");
    let ended = pod.shell("ended", "true");
    pod.end_of(&ended);
    check_code("StartContainer", pod.try_start(&ended), Code::FailedPrecondition);
    let created = pod.create(shell("created", "true"));
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }).unwrap();
    check_code("StartContainer", pod.try_start(&created), Code::FailedPrecondition);
    check_code("CreateContainer", pod.try_create(shell("more", "true")), Code::FailedPrecondition);
    pod.take_down();
    check_code("CreateContainer", pod.try_create(shell("more", "true")), Code::NotFound);
}

#[test]
#[ignore = "needs root and the test images"]
fn an_image_that_cannot_be_had_leaves_nothing() {
    let node = Node::start();
    let before = node.snapshot();
    let pull = |image: &str| {
        let image = Some(ImageSpec { image: image.into(), ..Default::default() });
        node.cri().pull_image(PullImageRequest { image, ..Default::default() })
    };
    // Nothing listens on this port of the node's own loopback.
    check_code("PullImage", pull("127.0.0.1:5999/no/where:latest"), Code::Unavailable);
    check_code("PullImage", pull("Bad//Reference"), Code::InvalidArgument);
    check_code("PullImage", node.cri().pull_image(PullImageRequest::default()), Code::InvalidArgument);
    let absent = Some(ImageSpec { image: "localhost/absent:latest".into(), ..Default::default() });
    let status =
        node.cri().image_status(ImageStatusRequest { image: absent.clone(), verbose: true }).unwrap();
    assert_eq!(status.image, None);
    node.cri().remove_image(RemoveImageRequest { image: absent }).unwrap();
    node.assert_as_before(&before);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_privileged_container_needs_a_privileged_sandbox() {
    let node = Node::start();
    let pod = Pod::privileged(&node, "privileged");
    let id = pod.start(privileged(shell("main", "exec sleep 1000")));
    let seen = pod.exec(&id, "grep CapEff /proc/self/status");
    let host = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = host.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(seen, own, "all that the agent has");
}

fn check(name: &str, answer: Result<String, Status>, codes: &[Code], words: &[&str]) {
    let refused = answer.expect_err(name);
    assert!(codes.contains(&refused.code()), "{name}: {refused}");
    for word in words {
        assert!(refused.message().contains(word), "{name}: {word} is not in {:?}", refused.message());
    }
}

fn check_code<T: std::fmt::Debug>(call: &str, answer: Result<T, Status>, code: Code) {
    let refused = answer.expect_err(call);
    assert_eq!(refused.code(), code, "{call}: {refused}");
}

/// Also of the tests: one whose agent does not come up fails at once and alone, and not with all that run beside it.
#[test]
#[ignore = "needs root and the test images"]
#[should_panic(expected = "unknown field `nonsense`")]
fn an_agent_does_not_come_up_with_an_unknown_setting_and_names_it() {
    Node::start_empty("nonsense = 1");
}

fn sandbox(request: &mut RunPodSandboxRequest) -> &mut PodSandboxConfig {
    request.config.as_mut().unwrap()
}

fn metadata(request: &mut RunPodSandboxRequest) -> &mut PodSandboxMetadata {
    sandbox(request).metadata.as_mut().unwrap()
}

fn sysctl(request: &mut RunPodSandboxRequest, name: &str, value: &str) {
    sandbox(request).linux.as_mut().unwrap().sysctls.insert(name.into(), value.into());
}

fn namespaces(config: &mut ContainerConfig) -> &mut NamespaceOption {
    security(config).namespace_options.as_mut().unwrap()
}

fn image(config: &mut ContainerConfig, reference: &str) {
    config.image = Some(ImageSpec { image: reference.into(), ..Default::default() });
}

fn mount(config: &mut ContainerConfig, host_path: &str, container_path: &str) {
    let mount =
        Mount { host_path: host_path.into(), container_path: container_path.into(), ..Default::default() };
    config.mounts.push(mount);
}

fn number(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}
