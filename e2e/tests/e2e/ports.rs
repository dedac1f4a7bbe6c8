//! Ports of the host that lead to pods, the node's pod CIDR, and what the node says of itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::{Node, Pod, Running, eventually, spawn};

const SERVE: &str = "exec httpd -f -p 8080 -h /etc";
const SERVED: &str = "The base image's, removed by web.";

fn mapping(host_port: i32) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp.into(), container_port: 8080, host_port, host_ip: String::new() }
}

fn config(node: &Node, name: &str, host_port: i32) -> PodSandboxConfig {
    PodSandboxConfig { port_mappings: vec![mapping(host_port)], ..node.sandbox(name) }
}

/// The host's addresses on the pod's network.
fn gateways(pod: &Pod<'_>) -> Vec<String> {
    let gateway = |ip: &String| {
        let separator = if ip.contains(':') { ':' } else { '.' };
        ip.rsplit_once(separator).map(|(network, _)| format!("{network}{separator}1")).unwrap()
    };
    pod.addresses().iter().map(gateway).collect()
}

/// What the host gets from a port of its own; nothing where the connection is refused.
fn fetch(node: &Node, address: &str) -> String {
    let url = format!("http://{address}/motd");
    let mut curl = node.site().command("curl");
    curl.args([
        "--silent",
        "--max-time",
        "5",
        "--retry",
        "5",
        "--retry-connrefused",
        "--retry-delay",
        "0",
        &url,
    ]);
    String::from_utf8(curl.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs root and the test images"]
fn a_host_port_lives_as_long_as_its_pod() {
    let node = Node::start();
    node.pod("first").take_down();
    let before = node.baseline();
    let pod = Pod::run(&node, config(&node, "web", 8081));
    pod.shell("web", SERVE);
    let gateways = gateways(&pod);
    let places =
        ["127.0.0.1:8081".to_owned(), format!("{}:8081", gateways[0]), format!("[{}]:8081", gateways[1])];
    let serves = || places.iter().all(|place| fetch(&node, place) == SERVED);
    assert!(serves());

    // Another pod cannot have it, and nothing of that pod is made.
    let with_pod = node.baseline();
    let request = RunPodSandboxRequest { config: Some(config(&node, "late", 8081)), ..Default::default() };
    let refused = node.cri().run_pod_sandbox(request).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused}");
    assert!(refused.message().contains(&format!("8081/tcp: pod {} has it", pod.id)), "{refused}");
    node.assert_as_before(&with_pod);

    node.kill9();
    assert!(serves(), "while no agent runs");
    node.restart();
    assert!(serves(), "after a restart");

    // Once the pod is stopped, the port is free for the next at once, though the pod is still known.
    node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }).unwrap();
    let next = Pod::run(&node, config(&node, "next", 8081));
    next.shell("web", SERVE);
    assert!(serves());
    node.kill9();
    node.restart();
    assert!(serves());
    next.take_down();
    pod.take_down();
    assert_eq!(node.site().run("nft", &["list", "ruleset"]).matches("8081").count(), 0);
    node.pod("last").take_down();
    node.assert_as_before(&before.with_agent_of(&node.snapshot()));
}

#[test]
#[ignore = "needs root and the test images"]
fn host_ports_come_back_after_somebody_flushed_the_rules_and_the_agent_was_away() {
    let node = Node::start();
    let pod = Pod::run(&node, config(&node, "web", 8082));
    pod.shell("web", SERVE);
    let before = node.site().run("nft", &["list", "ruleset"]);
    assert_eq!(fetch(&node, "127.0.0.1:8082"), SERVED);
    node.kill9();
    node.site().run("nft", &["flush", "ruleset"]);
    assert_eq!(fetch(&node, "127.0.0.1:8082"), "");
    node.restart();
    assert_eq!(node.site().run("nft", &["list", "ruleset"]), before);
    assert_eq!(fetch(&node, "127.0.0.1:8082"), SERVED);
    pod.take_down();
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_with_a_host_port_puts_back_rules_that_somebody_flushed() {
    let node = Node::start();
    let first = Pod::run(&node, config(&node, "first", 8084));
    first.shell("web", SERVE);
    node.site().run("nft", &["flush", "ruleset"]);
    let second = Pod::run(&node, config(&node, "second", 8085));
    second.shell("web", SERVE);
    for place in ["127.0.0.1:8084", "127.0.0.1:8085"] {
        assert_eq!(fetch(&node, place), SERVED, "{place}");
    }
    second.take_down();
    first.take_down();
}

#[test]
#[ignore = "needs root and the test images"]
fn a_stop_that_cannot_close_a_port_says_so_and_can_be_repeated() {
    let node = Node::start();
    let pod = Pod::run(&node, config(&node, "web", 8083));
    pod.shell("web", SERVE);
    // A table that belongs to a process: the kernel lets nobody else change it, and it goes with that process.
    let tables = node.site().run("nft", &["list", "tables"]);
    let table = tables.trim().to_owned();
    assert_eq!(table.lines().count(), 1, "{table}");
    let mut owner = node.site().command("nft");
    let mut owner = owner.arg("--interactive").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut commands = owner.stdin.take().unwrap();
    writeln!(commands, "delete {table}\nadd {table} {{ flags owner; }}").unwrap();
    eventually("the table to be another's", Duration::from_secs(10), || {
        node.site().run("nft", &["list", "ruleset"]).contains("flags owner").then_some(())
    });

    let stop = || node.cri().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() });
    let refused = stop().unwrap_err();
    assert!(refused.message().contains("Operation not permitted"), "{refused}");
    // The pod is down all the same, and its port its own until it has been closed.
    assert_eq!(node.cri().sandbox(&pod.id).unwrap().state(), PodSandboxState::SandboxNotready);
    let request = RunPodSandboxRequest { config: Some(config(&node, "late", 8083)), ..Default::default() };
    assert_eq!(node.cri().run_pod_sandbox(request).unwrap_err().code(), tonic::Code::AlreadyExists);

    drop(commands);
    owner.wait().unwrap();
    stop().unwrap();
    // Whoever asks how the network is finds it put back.
    node.cri().status(StatusRequest::default()).unwrap();
    let next = Pod::run(&node, config(&node, "next", 8083));
    next.shell("web", SERVE);
    assert_eq!(fetch(&node, "127.0.0.1:8083"), SERVED);
    next.take_down();
    pod.take_down();
}

#[test]
#[ignore = "needs root and the test images"]
fn new_pods_get_addresses_of_the_pod_cidr() {
    let node = Node::start();
    let old = node.pod("old");
    let set = |cidr: &str| {
        let network_config = Some(NetworkConfig { pod_cidr: cidr.into() });
        let runtime_config = Some(RuntimeConfig { network_config });
        node.cri().update_runtime_config(UpdateRuntimeConfigRequest { runtime_config })
    };
    let addresses = old.addresses();
    let network = addresses[0].rsplit_once('.').unwrap().0;
    let narrower = format!("{network}.0/25");
    for (cidr, words) in [
        ("10.201.0.0", "is no subnet"),
        ("10.201.0.1/24", "bits set beyond its prefix"),
        ("10.201.0.0/24,10.202.0.0/24", "second of its address family"),
        (&narrower, "pods still have addresses of 10.200."),
    ] {
        let refused = set(cidr).unwrap_err();
        assert!(refused.message().contains(words), "{cidr}: {refused}");
    }
    set("").unwrap();
    for _ in 0..2 {
        set("10.201.7.0/24,fd62:e2e:7::/64").unwrap();
    }
    let check = |name: &str| {
        let pod = node.pod(name);
        let own = pod.addresses();
        assert!(own[0].starts_with("10.201.7.") && own[1].starts_with("fd62:e2e:7::"), "{own:?}");
        let id = pod.shell("main", "exec sleep 1000");
        pod.exec(&id, "ping -c 1 -W 2 10.201.7.1");
        assert_eq!(old.addresses(), addresses);
        node.site().run("ping", &["-c", "1", "-W", "2", &addresses[0]]);
        pod.take_down();
    };
    check("new");
    node.kill9();
    node.restart();
    check("after-a-restart");
    let status = node.cri().status(StatusRequest::default()).unwrap().status.unwrap();
    assert!(status.conditions.iter().all(|condition| condition.status), "{status:?}");
    // Without pods, what has been in force goes at once.
    old.take_down();
    let other_family = addresses[1].rsplit_once(':').unwrap().0;
    set(&format!("{network}.0/24,{other_family}:/64")).unwrap();
    assert!(!node.site().run("ip", &["addr"]).contains("10.201.7."));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_node_that_cannot_write_is_not_ready_and_says_why() {
    let (node, root) = with_a_small_disk();
    let ready = || {
        let status = node.cri().status(StatusRequest::default()).unwrap().status.unwrap();
        let condition = status.conditions.into_iter().find(|condition| condition.r#type == "RuntimeReady");
        condition.map(|condition| (condition.status, condition.message)).unwrap()
    };
    assert_eq!(ready(), (true, String::new()));
    fill(&root.join("ballast"));
    assert_eq!(ready(), (false, format!("write to {}: its file system is full", root.display())));
    std::fs::remove_file(root.join("ballast")).unwrap();
    eventually("the node to be ready again", Duration::from_secs(10), || ready().0.then_some(()));
    node.stop();
    assert!(Command::new("umount").arg(&root).status().unwrap().success());
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_cidr_that_could_not_be_recorded_is_recorded_by_the_next_call() {
    let node = Node::start();
    let set = || {
        let network_config = Some(NetworkConfig { pod_cidr: "10.202.7.0/24".into() });
        let runtime_config = Some(RuntimeConfig { network_config });
        node.cri().update_runtime_config(UpdateRuntimeConfigRequest { runtime_config })
    };
    let holder = hold_database(&node);
    let refused = set().unwrap_err();
    assert!(refused.message().contains("commit change of 1 rows"), "{refused}");
    drop(holder);
    set().unwrap();
    node.kill9();
    node.restart();
    let pod = node.pod("new");
    assert!(pod.addresses()[0].starts_with("10.202.7."), "{:?}", pod.addresses());
    pod.take_down();
    // Its rules are not those that it began with.
    node.stop();
}

/// Keeps the agent from writing to its database, by another program's transaction. A full disk does not.
fn hold_database(node: &Node) -> Running {
    let script = "import sqlite3, sys, time\n\
                  database = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                  database.execute('begin immediate')\n\
                  print('held', flush=True)\n\
                  time.sleep(60)\n";
    let (path, output) = (node.dir().join("root/berth.db"), node.dir().join("holder.log"));
    let holder = spawn(Command::new("python3").args(["-c", script]).arg(path), &output);
    let held = || holder.output().contains("held").then_some(());
    eventually("the database to be held", Duration::from_secs(10), held);
    holder
}

/// A node with a disk of its own for its state, and where that is.
fn with_a_small_disk() -> (Node, PathBuf) {
    let node = Node::without_agent();
    let root = node.dir().join("root");
    std::fs::create_dir(&root).unwrap();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "berth-e2e"]).arg(&root).status();
    assert!(mount.unwrap().success());
    node.restart();
    (node, root)
}

fn fill(file: &Path) {
    let mut file = std::fs::File::create(file).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[test]
#[ignore = "needs root and the test images"]
fn a_network_that_somebody_flushes_comes_back() {
    let node = Node::start();
    let ready = || {
        let status = node.cri().status(StatusRequest { verbose: true }).unwrap();
        let config: serde_json::Value = serde_json::from_str(&status.info["config"]).unwrap();
        assert_eq!(config["maxContainerLogLineSize"], 16384);
        let mut conditions = status.status.unwrap().conditions.into_iter();
        let condition = conditions.find(|condition| condition.r#type == "NetworkReady").unwrap();
        (condition.status, condition.message)
    };
    assert_eq!(ready(), (true, String::new()));
    let before = node.site().run("nft", &["list", "ruleset"]);
    node.site().run("nft", &["flush", "ruleset"]);
    assert_eq!(ready(), (true, String::new()));
    assert_eq!(node.site().run("nft", &["list", "ruleset"]), before);
    node.kill9();
    node.restart();
    assert_eq!(ready(), (true, String::new()));
}
