//! Who reaches whom, over both families, and what a pod is told about names.

use std::net::IpAddr;
use std::time::Duration;

use berth_cri_proto::v1::{DnsConfig, NamespaceMode};
use berth_e2e::requests::{sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod, eventually, spawn};

const SERVE: &str = "exec httpd -f -p 8080 -h /etc";
const SERVED: &str = "The base image's, removed by web.";

#[test]
#[ignore = "needs root and the test images"]
fn pods_and_host_reach_each_other_over_both_families() {
    let node = Node::start();
    let (one, other) = (node.pod("one"), node.pod("other"));
    one.shell("web", SERVE);
    let client = other.shell("client", "exec sleep 1000");
    let addresses = one.addresses();
    let families: Vec<_> = addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap().is_ipv4()).collect();
    assert_eq!(families, [true, false], "{addresses:?}");

    for ip in &addresses {
        let url = if ip.contains(':') {
            format!("http://[{ip}]:8080/motd")
        } else {
            format!("http://{ip}:8080/motd")
        };
        let fetch = format!("for i in 1 2 3 4 5; do wget -q -O - '{url}' && break; usleep 200000; done");
        assert_eq!(other.exec(&client, &fetch), SERVED, "pod to pod, {url}");
        let host =
            node.site().run("curl", &["--silent", "--show-error", "--max-time", "5", "--retry", "5", &url]);
        assert_eq!(host.trim(), SERVED, "host to pod, {url}");
    }

    std::fs::write(node.dir().join("page"), "from the host").unwrap();
    let mut server = node.site().command("python3");
    server.args(["-m", "http.server", "--bind", "::", "--directory", node.dir().to_str().unwrap(), "9090"]);
    let _server = spawn(&mut server, &node.dir().join("server.log"));
    let routes = other.exec(&client, "ip -4 route; ip -6 route");
    let gateways: Vec<_> =
        routes.lines().filter_map(|line| line.strip_prefix("default via ")?.split(' ').next()).collect();
    assert_eq!(gateways.len(), 2, "{routes}");
    for ip in gateways {
        let url = if ip.contains(':') {
            format!("http://[{ip}]:9090/page")
        } else {
            format!("http://{ip}:9090/page")
        };
        let page = eventually(&format!("{url} from a pod"), Duration::from_secs(10), || {
            other
                .try_exec(&client, &["wget", "-q", "-O", "-", &url], 10)
                .ok()
                .filter(|reply| reply.exit_code == 0)
        });
        assert_eq!(page.stdout, b"from the host");
    }
    assert_eq!(
        other
            .exec(&client, "cat /sys/class/net/lo/operstate; ping -c 1 -W 2 127.0.0.1 >/dev/null && echo up"),
        "unknown\nup"
    );
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_on_the_hosts_network_sees_the_hosts_links() {
    let node = Node::start();
    node.pod("neighbour");
    let mut config = node.sandbox("host");
    config.hostname = String::new();
    sandbox_namespaces(&mut config).network = NamespaceMode::Node.into();
    let pod = Pod::run(&node, config);
    assert_eq!(pod.addresses(), [""; 0]);
    let mut config = shell("main", "exec sleep 1000");
    security(&mut config).namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
    let id = pod.start(config);
    let inside = pod.exec(&id, "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort");
    let outside = node.site().run("sh", &["-c", "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort"]);
    assert_eq!(inside.trim(), outside.trim());
    assert_eq!(pod.exec(&id, "hostname"), node.site().run("hostname", &[]).trim());
}

#[test]
#[ignore = "needs root and the test images"]
fn names_are_as_the_request_says() {
    let node = Node::start();
    let mut config = node.sandbox("names");
    config.hostname = "called-so".into();
    config.dns_config = Some(DnsConfig {
        servers: vec!["10.96.0.10".into(), "fd00::10".into()],
        searches: vec!["e2e.svc.cluster.local".into(), "cluster.local".into()],
        options: vec!["ndots:5".into(), "edns0".into()],
    });
    let pod = Pod::run(&node, config);
    let id = pod.shell("main", "exec sleep 1000");
    let resolv = pod.exec(&id, "cat /etc/resolv.conf");
    for line in [
        "nameserver 10.96.0.10",
        "nameserver fd00::10",
        "search e2e.svc.cluster.local cluster.local",
        "options ndots:5 edns0",
    ] {
        assert!(resolv.lines().any(|found| found == line), "{resolv}");
    }
    assert_eq!(pod.exec(&id, "hostname; cat /etc/hostname"), "called-so\ncalled-so");
    let hosts = pod.exec(&id, "cat /etc/hosts");
    assert!(hosts.lines().any(|line| line.contains("127.0.0.1") && line.contains("localhost")), "{hosts}");
    let ip = &pod.addresses()[0];
    assert!(hosts.lines().any(|line| line.starts_with(ip) && line.contains("called-so")), "{hosts}");

    let plain = node.pod("plain");
    let id = plain.shell("main", "exec sleep 1000");
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(plain.exec(&id, "cat /etc/resolv.conf"), host.trim_end());
}

#[test]
#[ignore = "needs root and the test images"]
fn sysctls_are_the_pods_own() {
    let node = Node::start();
    let mut config = node.sandbox("tuned");
    let sysctls = &mut config.linux.as_mut().unwrap().sysctls;
    sysctls.insert("net.ipv4.ip_local_port_range".into(), "40000 40100".into());
    sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    let pod = Pod::run(&node, config);
    let id = pod.shell("main", "exec sleep 1000");
    let read = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(pod.exec(&id, read).split_whitespace().collect::<Vec<_>>(), ["40000", "40100", "1"]);
    let other = node.pod("plain");
    let id = other.shell("main", "exec sleep 1000");
    assert!(!other.exec(&id, read).starts_with("40000"));
}
