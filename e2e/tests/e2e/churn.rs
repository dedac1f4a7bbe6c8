//! Many pods come and go, and the machine is as before.

use std::thread;

use berth_e2e::Node;

const AT_ONCE: usize = 10;
const EACH: usize = 5;

#[test]
#[ignore = "needs root and the test images"]
fn fifty_pods_come_and_go_and_nothing_is_left() {
    let node = Node::start();
    // What is made once and stays, is made by the first.
    come_and_go(&node, "first");
    let before = node.baseline();

    thread::scope(|scope| {
        for lane in 0..AT_ONCE {
            let node = &node;
            scope.spawn(move || {
                let pods: Vec<_> =
                    (0..EACH).map(|number| node.pod(&format!("pod-{lane}-{number}"))).collect();
                for pod in &pods {
                    let id = pod.shell("main", "echo I live; exec sleep 1000");
                    pod.await_line("main", "I live");
                    assert_eq!(pod.exec(&id, "hostname"), pod.config.hostname);
                }
            });
        }
    });
    let cri = node.cri();
    let full = node.snapshot();
    assert_eq!((cri.sandboxes().len(), cri.containers().len()), (AT_ONCE * EACH, AT_ONCE * EACH));
    assert_eq!(full.count("link ") - before.count("link "), AT_ONCE * EACH, "one link for each pod");
    // Monitor, pause and the container's own process.
    assert_eq!(full.count("process ") - before.count("process "), 3 * AT_ONCE * EACH);
    assert_eq!(full.count("mount "), before.count("mount "), "the machine's mount table stays as it was");
    let addresses: std::collections::BTreeSet<_> =
        cri.sandboxes().iter().map(|pod| cri.sandbox(&pod.id).unwrap().network.unwrap().ip).collect();
    assert_eq!(addresses.len(), AT_ONCE * EACH, "each pod has an address of its own");

    let ids: Vec<_> = cri.sandboxes().into_iter().map(|pod| pod.id).collect();
    thread::scope(|scope| {
        for ids in ids.chunks(EACH) {
            let node = &node;
            scope.spawn(move || {
                let cri = node.cri();
                for id in ids {
                    cri.take_down(id).unwrap();
                }
            });
        }
    });
    assert_eq!((cri.sandboxes().len(), cri.containers().len()), (0, 0));
    node.assert_as_before(&before);
}

fn come_and_go(node: &Node, name: &str) {
    let pod = node.pod(name);
    let id = pod.shell("main", "exec sleep 1000");
    pod.exec(&id, "true");
    pod.take_down();
}
