//! Several agents live on one machine, each with its own.

use berth_e2e::Node;
use std::collections::BTreeSet;

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
    let output = node.berth(&["serve"]).stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(node.socket().to_str().unwrap()), "{said}");
    assert_eq!(pod.exec(&id, "echo fine"), "fine");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_second_agent_with_the_same_bridge_and_cgroups_is_refused_and_harms_no_pod() {
    let node = Node::start();
    let pod = node.pod("stays");
    let id = pod.shell("main", "exec sleep 1000");
    let at = |name: &str| node.dir().join(name).to_str().unwrap().to_owned();
    let (root, state) = (at("other-root"), at("other-state"));
    let mut second =
        node.berth(&["--root", &root, "--state", &state, "--socket", &at("other.sock"), "serve"]);
    let output = second.stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("is used by another agent"), "{said}");
    assert_eq!(pod.exec(&id, "echo fine"), "fine");
    // As far as it came.
    for directory in [root, state] {
        let _ = std::fs::remove_dir_all(directory);
    }
}
