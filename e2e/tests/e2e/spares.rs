//! Sandboxes that wait for pods: what is made of them is a pod like any, whatever has happened to them, and they leave
//! nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::requests::{sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod, Spare, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);

/// The step of a pod that is made of a spare.
const OCCUPY: &str = "occupy the spare sandbox";

fn start() -> Node {
    Node::start_with("[sandboxes]\nspare = 3")
}

/// A node with a pod, and three spares like it.
fn with_spares(node: &Node) -> Vec<Spare> {
    node.pod("first");
    node.await_spares(3)
}

fn monitors(spares: &[Spare]) -> BTreeSet<u32> {
    spares.iter().map(|spare| spare.monitor).collect()
}

fn is_made_of_one(node: &Node, pod: &Pod<'_>) -> bool {
    let timeline = node.crictl(&["inspectp", &pod.id]);
    timeline.contains(OCCUPY) && !timeline.contains("start monitor and pause")
}

/// All that a pod is for: it runs something, under its own name, with its own network.
#[track_caller]
fn check_pod(pod: &Pod<'_>) {
    let name = &pod.config.hostname;
    let id = pod.shell("check", "exec sleep 1000");
    assert_eq!(&pod.exec(&id, "hostname"), name);
    let addresses = pod.addresses();
    assert_ne!(addresses, [""; 0]);
    let hosts = pod.exec(&id, "cat /etc/hosts");
    assert!(hosts.lines().any(|line| line.starts_with(&addresses[0]) && line.contains(name)), "{hosts}");
    let ping = "for gateway in $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); do \
                ping -c 1 -W 5 $gateway >/dev/null && echo reached; done";
    assert_eq!(pod.exec(&id, ping), "reached");
}

#[test]
#[ignore = "needs root and the test images"]
fn pods_after_the_first_are_made_of_sandboxes_that_wait() {
    let node = start();
    assert_eq!(node.spares(), []);
    let first = node.pod("first");
    assert!(!is_made_of_one(&node, &first));
    let spares = node.await_spares(3);
    assert_eq!(node.check("--leaks"), [""; 0]);

    let second = node.pod("second");
    assert!(spares.contains(&Spare { id: second.id.clone(), monitor: second.monitor_pid() }), "{spares:?}");
    assert!(is_made_of_one(&node, &second));
    check_pod(&first);
    check_pod(&second);
    let id = second.shell("shm", "echo kept >/dev/shm/note; exec sleep 1000");
    let other = second.shell("other", "exec sleep 1000");
    eventually("the note", PATIENCE, || {
        (second.exec(&other, "cat /dev/shm/note 2>/dev/null || true") == "kept").then_some(())
    });
    assert!(second.exec(&id, "df -m /dev/shm").contains(" 64 "));
    assert!(first.addresses().iter().all(|address| !second.addresses().contains(address)));

    let stats = node.cri().pod_sandbox_stats(PodSandboxStatsRequest { pod_sandbox_id: second.id.clone() });
    let linux = stats.unwrap().stats.unwrap().linux.unwrap();
    assert!(linux.process.unwrap().process_count.unwrap().value >= 4);
    assert!(linux.memory.unwrap().usage_bytes.unwrap().value > 0);
    assert!(linux.network.unwrap().default_interface.unwrap().rx_bytes.unwrap().value > 0);

    // The one that has gone is replaced.
    node.await_spares(3);
    assert_eq!(node.check("--leaks"), [""; 0]);
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_are_as_the_last_pod_was() {
    let node = start();
    with_spares(&node);
    for (number, mode) in [NamespaceMode::Pod, NamespaceMode::Container].into_iter().enumerate() {
        let config = |name: String| {
            let mut config = node.sandbox(&name);
            sandbox_namespaces(&mut config).pid = mode.into();
            config
        };
        let before = monitors(&node.spares());
        let other_kind = Pod::run(&node, config(format!("from-nothing-{number}")));
        assert!(!is_made_of_one(&node, &other_kind));
        eventually("other spares", PATIENCE, || {
            Some(node.spares()).filter(|now| now.len() == 3 && monitors(now).is_disjoint(&before))
        });
        let pod = Pod::run(&node, config(format!("of-a-spare-{number}")));
        assert!(is_made_of_one(&node, &pod));
        let start = |name: &str| {
            let mut config = shell(name, "exec sleep 1000");
            security(&mut config).namespace_options.as_mut().unwrap().pid = mode.into();
            pod.start(config)
        };
        let (one, _other) = (start("one"), start("other"));
        let is_shared = pod.exec(&one, "cat /proc/1/cmdline").contains("pause");
        let seen = pod.exec(&one, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
        let seen = seen.matches("sleep 1000").count();
        assert_eq!((is_shared, seen), if mode == NamespaceMode::Pod { (true, 2) } else { (false, 1) });
        node.await_spares(3);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn what_has_to_be_there_from_the_beginning_is_made_from_nothing() {
    let node = start();
    let spares = with_spares(&node);

    let mut config = node.sandbox("tuned");
    let sysctl = ("net.ipv4.ip_local_port_range".to_owned(), "40000 40100".to_owned());
    config.linux.as_mut().unwrap().sysctls = [sysctl].into();
    let tuned = Pod::run(&node, config);
    let id = tuned.shell("main", "exec sleep 1000");
    let range = tuned.exec(&id, "cat /proc/sys/net/ipv4/ip_local_port_range");
    assert_eq!(range.split_whitespace().collect::<Vec<_>>(), ["40000", "40100"]);

    let mut config = node.sandbox("host");
    config.hostname = String::new();
    sandbox_namespaces(&mut config).network = NamespaceMode::Node.into();
    let host = Pod::run(&node, config);
    assert_eq!(host.addresses(), [""; 0]);

    let mut config = node.sandbox("users");
    let ids = vec![IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids };
    sandbox_namespaces(&mut config).userns_options = Some(users);
    let users = Pod::run(&node, config);

    for pod in [&tuned, &host, &users] {
        assert!(!is_made_of_one(&node, pod), "{}", pod.id);
    }
    // And those that wait go on waiting.
    assert_eq!(monitors(&node.spares()), monitors(&spares));
    assert!(is_made_of_one(&node, &node.pod("plain")));
}

/// A cgroup that a kubelet has made for a pod.
struct Parent<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> Parent<'a> {
    fn make(node: &'a Node) -> Self {
        for directory in node.cgroup_directories("kubepods/pod-1") {
            fs::create_dir_all(directory).unwrap();
        }
        Self { node, path: format!("{}/kubepods/pod-1", node.cgroup()) }
    }

    fn pod(&self, name: &str) -> Pod<'a> {
        let mut config = self.node.sandbox(name);
        config.linux.as_mut().unwrap().cgroup_parent = self.path.clone();
        Pod::run(self.node, config)
    }

    /// Waits until monitor and pause are where they belong, in all hierarchies, and where they have waited is gone.
    #[track_caller]
    fn await_pod(&self, pod: &Pod<'_>) {
        let place = format!(":{}/{}", self.path, pod.id);
        let hierarchies = self.node.cgroup_directories("").len();
        eventually("monitor and pause to be moved", PATIENCE, || {
            let is_there = |pid: u32| {
                let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
                cgroups.lines().filter(|line| line.contains(&place)).count() == hierarchies
            };
            let waited_in = self.node.cgroup_directories(&pod.id);
            ([pod.monitor_pid(), pod.pid(None)].into_iter().all(is_there)
                && waited_in.iter().all(|directory| !directory.exists()))
            .then_some(())
        });
    }

    /// As a kubelet does. Nothing of its pods may be left inside.
    fn remove(self) {
        for directory in self.node.cgroup_directories("kubepods/pod-1") {
            fs::remove_dir(&directory).unwrap();
            fs::remove_dir(directory.parent().unwrap()).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_of_a_spare_comes_into_the_cgroup_that_it_names() {
    let node = start();
    with_spares(&node);
    let parent = Parent::make(&node);
    let pod = parent.pod("guest");
    assert!(is_made_of_one(&node, &pod));
    check_pod(&pod);
    parent.await_pod(&pod);
    // What is counted there is the pod's.
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let linux = node.cri().pod_sandbox_stats(request).unwrap().stats.unwrap().linux.unwrap();
    assert!(linux.process.unwrap().process_count.unwrap().value >= 3);
    assert_eq!(node.check("--leaks"), [""; 0]);
    // Removed while it is moved, too.
    let hasty = parent.pod("hasty");
    hasty.take_down();
    pod.take_down();
    parent.remove();
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_below_the_agents_own_cgroup_is_where_it_was_made() {
    let node = start();
    with_spares(&node);
    let mut config = node.sandbox("guest");
    config.linux.as_mut().unwrap().cgroup_parent = node.cgroup().to_owned();
    let pod = Pod::run(&node, config);
    let id = pod.shell("main", "exec sleep 1000");
    node.kill9();
    node.restart();
    assert!(is_ready(&node, &pod));
    pod.exec(&id, "true");
    pod.take_down();
}

#[test]
#[ignore = "needs root and the test images"]
fn an_agent_that_finds_a_pod_half_moved_moves_it() {
    let node = start();
    let parent = Parent::make(&node);
    for round in 0..3 {
        node.pod(&format!("before-{round}"));
        node.await_spares(3);
        let pod = parent.pod(&format!("guest-{round}"));
        node.kill9();
        node.restart();
        assert!(is_ready(&node, &pod));
        parent.await_pod(&pod);
        check_pod(&pod);
        pod.take_down();
    }
    parent.remove();
}

fn is_ready(node: &Node, pod: &Pod<'_>) -> bool {
    node.cri().sandbox(&pod.id).unwrap().state() == PodSandboxState::SandboxReady
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_of_a_spare_has_its_ports_of_the_host() {
    let node = start();
    with_spares(&node);
    let mut config = node.sandbox("web");
    config.port_mappings = vec![PortMapping { container_port: 8080, host_port: 8086, ..Default::default() }];
    let pod = Pod::run(&node, config);
    assert!(is_made_of_one(&node, &pod));
    pod.shell("web", "exec httpd -f -p 8080 -h /etc");
    let arguments =
        ["--silent", "--max-time", "5", "--retry", "9", "--retry-connrefused", "--retry-delay", "1"];
    let page = node.site().run("curl", &[&arguments[..], &["http://127.0.0.1:8086/motd"]].concat());
    assert_eq!(page.trim(), "The base image's, removed by web.");
}

/// Does something bad to all that wait. The next pods are well all the same, and nothing is left.
#[track_caller]
fn check_harm(harm: impl Fn(&Node, &[Spare])) {
    let node = start();
    let first = node.pod("first");
    let spares = node.await_spares(3);
    let before = node.baseline();
    harm(&node, &spares);
    let parent = Parent::make(&node);
    let pods = [node.pod("next"), parent.pod("guest"), node.pod("third")];
    pods.iter().for_each(check_pod);
    parent.await_pod(&pods[1]);
    check_pod(&first);
    assert!(is_made_of_one(&node, &{
        node.await_spares(3);
        node.pod("last")
    }));
    for pod in node.cri().sandboxes().iter().filter(|pod| pod.id != first.id) {
        node.cri().take_down(&pod.id).unwrap();
    }
    parent.remove();
    let container = node.cri().containers().remove(0).id;
    node.cri().remove_container(RemoveContainerRequest { container_id: container }).unwrap();
    node.assert_as_before(&before.with_agent_of(&node.snapshot()));
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn pause_of(node: &Node, spare: &Spare) -> u32 {
    node.process(&format!("pause: {}", spare.id)).expect("it has a pause").cast_unsigned()
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_whose_monitors_are_killed_harm_no_pod() {
    check_harm(|_, spares| spares.iter().for_each(|spare| signal(spare.monitor, Signal::KILL)));
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_whose_pauses_are_killed_harm_no_pod() {
    check_harm(|node, spares| spares.iter().for_each(|spare| signal(pause_of(node, spare), Signal::KILL)));
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_that_are_stopped_by_a_signal_harm_no_pod() {
    check_harm(|_, spares| spares.iter().for_each(|spare| signal(spare.monitor, Signal::STOP)));
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_without_links_harm_no_pod() {
    check_harm(|node, spares| {
        for spare in spares {
            let link = format!("bth{}", &spare.id[..12]);
            eventually("the link", PATIENCE, || {
                node.site()
                    .command("ip")
                    .args(["link", "delete", &link])
                    .output()
                    .unwrap()
                    .status
                    .success()
                    .then_some(())
            });
        }
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_on_a_network_that_somebody_takes_away_harm_no_pod() {
    check_harm(|node, _| {
        node.site().run("ip", &["link", "delete", node.bridge()]);
        node.site().run("nft", &["flush", "ruleset"]);
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_go_with_an_agent_that_is_killed() {
    let node = start();
    let pod = node.pod("first");
    check_pod(&pod);
    node.await_spares(3);
    let before = node.baseline();
    for _ in 0..3 {
        node.kill9();
        eventually("the end of all that wait", PATIENCE, || node.spares().is_empty().then_some(()));
        node.restart();
        assert!(is_ready(&node, &pod));
        assert_eq!(node.spares(), []);
        assert_eq!(node.check("--leaks"), [""; 0]);
        node.assert_as_before(&before.with_agent_of(&node.snapshot()));
        node.pod("next").take_down();
        node.await_spares(3);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn an_agent_that_stops_takes_down_what_waits_and_what_is_on_the_way() {
    let node = start();
    let pods: Vec<_> = (0..4)
        .map(|round| {
            let pod = node.pod(&format!("pod-{round}"));
            // Once when all wait, and else when they are about to be made.
            if round == 1 {
                node.await_spares(3);
            }
            node.stop();
            // The kernel may have to let go of a veth of a pod, but none is here.
            let left = node.snapshot();
            assert_eq!(left.count("link bth"), round + 1);
            assert_eq!(fs::read_dir(node.dir().join("state/pods")).unwrap().count(), round + 1);
            assert_eq!(node.spares(), []);
            node.restart();
            assert!(is_ready(&node, &pod));
            pod
        })
        .collect();
    pods.iter().for_each(check_pod);
}

fn renumber(node: &Node, cidr: &str) -> Result<(), tonic::Status> {
    let network_config = Some(NetworkConfig { pod_cidr: cidr.into() });
    let runtime_config = Some(RuntimeConfig { network_config });
    node.cri().update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).map(drop)
}

#[test]
#[ignore = "needs root and the test images"]
fn spares_keep_no_address_of_before_and_none_from_a_pod() {
    let node = start();
    let first = node.pod("first");
    node.await_spares(3);
    // Five addresses.
    renumber(&node, "10.201.7.0/29").unwrap();
    let one_more = || RunPodSandboxRequest { config: Some(node.sandbox("one-more")), ..Default::default() };
    let mut pods: Vec<_> = (0..5).map(|number| node.pod(&format!("pod-{number}"))).collect();
    let addresses: BTreeSet<_> = pods.iter().flat_map(|pod| pod.addresses()).collect();
    assert_eq!(addresses.len(), 5);
    assert!(addresses.iter().all(|address| address.starts_with("10.201.7.")), "{addresses:?}");
    pods.iter().for_each(check_pod);
    let refused = node.cri().run_pod_sandbox(one_more()).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // One that goes makes place for one that comes, at once.
    pods.remove(2).take_down();
    let made = node.cri().run_pod_sandbox(one_more()).unwrap().pod_sandbox_id;
    node.cri().take_down(&made).unwrap();
    pods.iter().for_each(Pod::take_down);
    first.take_down();
    // Its rules are not those that it began with.
    node.stop();
    node.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_cidr_is_not_refused_for_what_only_waits() {
    let node = start();
    let first = node.pod("first");
    let narrower = first.addresses()[0].rsplit_once('.').unwrap().0.to_owned() + ".0/25";
    node.await_spares(3);
    let refused = renumber(&node, &narrower).unwrap_err();
    assert!(refused.message().contains("pods still have addresses"), "{refused}");
    first.take_down();
    eventually("the pod's addresses to be free", PATIENCE, || renumber(&node, &narrower).ok());
    check_pod(&node.pod("next"));
    node.stop();
    node.restart();
    let next = node.cri().sandboxes().remove(0).id;
    node.cri().take_down(&next).unwrap();
    node.stop();
    node.assert_nothing_is_left();
}
