//! Several agents live on one machine, each with its own.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_cri_proto::v1::PortMapping;
use berth_e2e::{Node, Pod, Running, eventually, spawn};

#[test]
#[ignore = "needs root and the test images"]
fn two_agents_live_side_by_side() {
    let one = Node::start();
    let other = one.start_beside();
    let (mine, theirs) = (one.pod("pod"), other.pod("pod"));
    let here = mine.shell("main", "exec httpd -f -p 8080 -h /etc");
    let there = theirs.shell("main", "exec httpd -f -p 8080 -h /etc");

    let ids = |node: &Node| node.cri().sandboxes().into_iter().map(|pod| pod.id).collect::<BTreeSet<_>>();
    assert_eq!((ids(&one), ids(&other)), ([mine.id.clone()].into(), [theirs.id.clone()].into()));
    assert_ne!(mine.addresses(), theirs.addresses());
    let fetch =
        "for i in 1 2 3 4 5; do wget -q -O - http://127.0.0.1:8080/motd && break; usleep 200000; done";
    assert_eq!(mine.exec(&here, fetch), theirs.exec(&there, fetch));
    let rules = one.site().run("nft", &["list", "tables"]);
    assert_eq!(rules.matches("be2e_").count(), 2, "{rules}");

    // A restart of one, with its look for what nobody owns, is nothing to the other.
    one.kill9();
    one.restart();
    assert_eq!(theirs.exec(&there, "echo fine"), "fine");
    mine.take_down();
    one.stop();
    assert_eq!(theirs.exec(&there, "echo fine"), "fine");
    assert_eq!(theirs.addresses().len(), 2);
    one.restart();
}

#[test]
#[ignore = "needs root and the test images"]
fn a_second_agent_on_the_same_directories_is_refused() {
    let node = Node::start();
    let pod = node.pod("stays");
    let id = pod.shell("main", "exec sleep 1000");
    let output = node.berth(&["serve"]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(node.socket().to_str().unwrap()), "{said}");
    assert_eq!(pod.exec(&id, "echo fine"), "fine");
}

#[test]
#[ignore = "needs root and the test images"]
fn an_agent_with_a_name_of_another_one_is_refused_before_it_has_changed_anything() {
    let node = Node::start();
    let port = PortMapping { container_port: 80, host_port: 7070, ..PortMapping::default() };
    let mut config = node.sandbox("stays");
    config.port_mappings = vec![port];
    let pod = Pod::run(&node, config);
    let id = pod.shell("main", "exec sleep 1000");
    let at = |name: &str| node.dir().join(name).to_str().unwrap().to_owned();
    let (root, state) = (at("other-root"), at("other-state"));
    let network = || {
        let links = node.site().run("ip", &["-oneline", "address"]);
        links + &node.site().run("nft", &["list", "ruleset"])
    };
    let before = network();
    assert!(before.contains("7070"), "{before}");
    let path = node.dir().join("config.toml");
    let settings = fs::read_to_string(&path).unwrap();
    for (name, what) in
        [("bridge", "bridge"), ("nft_table", "nftables table"), ("cgroup.root", "cgroup root")]
    {
        // All but this are its own.
        let others = settings.lines().map(|line| match line.split_once(" = ") {
            Some((key, _)) if key == name => line.to_owned(),
            Some(("bridge", _)) => "bridge = 'be2eother'".to_owned(),
            Some(("nft_table", _)) => "nft_table = 'be2e_other'".to_owned(),
            Some(("cgroup.root", _)) => format!("cgroup.root = '{}-other'", node.cgroup()),
            Some(("subnets", _)) => "subnets = ['10.201.0.0/24']".to_owned(),
            _ => line.to_owned(),
        });
        fs::write(&path, others.collect::<Vec<_>>().join("\n")).unwrap();
        let socket = at("other.sock");
        let mut second = node.berth(&["--root", &root, "--state", &state, "--socket", &socket, "serve"]);
        let output = second.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(what) && said.contains("is used by another agent"), "{name}: {said}");
        assert_eq!(network(), before, "{name}");
    }
    fs::write(&path, settings).unwrap();
    assert_eq!(pod.exec(&id, "echo fine"), "fine");
    // As far as it came.
    for directory in [root, state] {
        let _ = fs::remove_dir_all(directory);
    }
}

/// Whoever can open a cgroup's directory can lock it: any user, and any container that is shown the host's cgroups.
#[test]
#[ignore = "needs root and the test images"]
fn a_lock_that_anybody_can_take_keeps_no_agent_from_starting() {
    let node = Node::start();
    let cgroup = node.cgroup().trim_start_matches('/');
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let directories = hierarchies.chain(["/sys/fs/cgroup".into()]).map(|path| path.join(cgroup));
    let locks: Vec<Running> = directories
        .filter(|path| path.is_dir())
        .map(|path| {
            let mut lock = Command::new("setpriv");
            lock.args(["--reuid=65534", "--regid=65534", "--clear-groups", "flock", "--exclusive"]);
            let lock = spawn(lock.arg(&path).args(["sleep", "1000"]), &node.dir().join("locks.log"));
            let mut other = Command::new("flock");
            other.arg("--nonblock").arg(path).arg("true");
            let is_locked = || other.status().is_ok_and(|status| !status.success()).then_some(());
            eventually("the lock", Duration::from_secs(10), is_locked);
            lock
        })
        .collect();
    assert!(!locks.is_empty());
    node.stop();
    node.restart();
}
