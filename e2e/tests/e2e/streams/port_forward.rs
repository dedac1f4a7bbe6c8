//! Port-forward: connections to what listens in a pod.

use super::*;

/// `crictl port-forward` with its local ports, in the order of the remote ones.
fn port_forward(node: &Node, transport: &str, pod: &str, ports: &[&str]) -> (Running, Vec<u16>) {
    let mut command = node.crictl_command();
    command.args(["port-forward", "--transport", transport, pod]);
    command.args(ports.iter().map(|port| format!(":{port}")));
    let forwarder = spawn(&mut command, &node.dir().join(format!("forward-{transport}-{}", ports[0])));
    let local = eventually("the local ports", PATIENCE, || {
        let said = forwarder.output();
        let port = |remote: &&str| {
            let line = said.lines().find(|line| {
                line.starts_with("Forwarding from 127.0.0.1:") && line.ends_with(&format!("-> {remote}"))
            })?;
            line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
        };
        ports.iter().map(port).collect::<Option<Vec<u16>>>()
    });
    (forwarder, local)
}

fn fetch(node: &Node, port: u16, path: &str) -> Output {
    let mut command = node.site().command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        &format!("http://127.0.0.1:{port}/{path}"),
    ]);
    output(&mut command)
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn ports_of_a_pod_can_be_reached() {
    const LARGE: usize = 20_000_000;
    let node = Node::start();
    let pod = node.pod("ports");
    let web = pod.start(container("web", WEB));
    let other = pod.shell("six", "mkdir /files; exec httpd -f -p '[::1]:8081' -h /files");
    pod.exec(&other, &format!("head -c {LARGE} /dev/urandom >/files/large"));
    let sum = pod.exec(&other, "sha256sum </files/large");
    let own = pod.exec(&web, "wget -q -O - http://127.0.0.1:8080/");
    for transport in TRANSPORTS {
        let (forwarder, ports) = port_forward(&node, transport, &pod.id, &["8080", "8081"]);
        let [good, six] = ports[..] else { panic!("{ports:?}") };
        let page = fetch(&node, good, "");
        assert!(text(&page.stdout).trim_end() == own, "{transport}: {page:?} {}", forwarder.output());
        let received = node.dir().join("received");
        fs::write(&received, fetch(&node, six, "large").stdout).unwrap();
        assert_eq!(
            node.site().run("sha256sum", &[received.to_str().unwrap()])[..64],
            sum[..64],
            "{transport}"
        );
        // Many at once, in one session.
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| assert_eq!(text(&fetch(&node, good, "").stdout).trim_end(), own));
            }
        });
        // crictl itself gives up the session after a connection that failed; the reason must arrive.
        let (refused, ports) = port_forward(&node, transport, &pod.id, &["9"]);
        assert!(!fetch(&node, ports[0], "").status.success());
        eventually("the reason", PATIENCE, || refused.output().contains("refused").then_some(()));
        assert!(refused.output().contains("localhost:9"), "{}", refused.output());
        assert!(fetch(&node, good, "").status.success(), "{transport}: {}", forwarder.output());
    }
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn ports_of_a_pod_on_the_hosts_network_can_be_reached() {
    let node = Node::start();
    let mut config = node.sandbox("host");
    config.hostname = String::new();
    sandbox_namespaces(&mut config).network = NamespaceMode::Node.into();
    let pod = Pod::run(&node, config);
    let mut config = shell("main", "exec httpd -f -p 127.0.0.1:8088 -h /etc");
    security(&mut config).namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
    pod.start(config);
    let (_forwarder, ports) = port_forward(&node, "spdy", &pod.id, &["8088"]);
    eventually("an answer", PATIENCE, || {
        text(&fetch(&node, ports[0], "motd").stdout).contains("base image").then_some(())
    });
}
