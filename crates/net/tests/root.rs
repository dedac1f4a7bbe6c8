//! The network against the real kernel, each test on a "host" that is a fresh network namespace.
//!
//! Run as root: `cargo test -p berth-net --test root -- --ignored`. Needs `ip`, `nft`, `unshare`, `nsenter`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected ends")]

mod lab;
mod ports;
mod renumber;

use std::net::{IpAddr, TcpListener};
use std::time::{Duration, Instant};

use berth_net::{AddressPool, Error, IfName, Network, NetworkConfig, PodAddresses};
use berth_store::ErrorKind;
use lab::{Space, links, logged, on_fresh_host, outside, reach_from_host, run};

const POD_A: &str = "aaaaaaaaaaaa0001";
const POD_B: &str = "bbbbbbbbbbbb0002";
const SYSCTL: &str = "/proc/sys/net";

fn open() -> Network {
    Network::open(NetworkConfig::default()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> PodAddresses {
    texts.iter().map(|text| ip(text)).collect()
}

/// A pod of its own namespace, attached with addresses that end in `host`.
fn pod(network: &Network, id: &str, host: u8) -> (Space, PodAddresses) {
    let space = Space::new();
    let own = addresses(&[&format!("10.88.0.{host}"), &format!("fd62:6572:7468::{host:x}")]);
    space.attach(network, id, &own).unwrap();
    for address in own.iter() {
        space.await_address(address);
    }
    (space, own)
}

fn sysctl(name: &str) -> String {
    std::fs::read_to_string(format!("{SYSCTL}/{name}")).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn open_prepares_the_host_and_may_be_repeated() {
    on_fresh_host("open_prepares_the_host_and_may_be_repeated", || {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let network = open();
            network.check().unwrap();
            let shown = run("ip", &["-o", "addr", "show", "dev", "berth0"]);
            assert!(shown.contains("10.88.0.1/16") && shown.contains("fd62:6572:7468::1/64"), "{shown}");
            assert!(!shown.contains("tentative"), "{shown}");
            assert!(run("ip", &["-d", "link", "show", "berth0"]).contains("alias berth:berth0:bridge"));
            assert_eq!(
                (sysctl("ipv4/ip_forward"), sysctl("ipv6/conf/all/forwarding")),
                ("1".into(), "1".into())
            );
            seen.push(run("nft", &["list", "ruleset"]));
        }
        assert_eq!(seen[0], seen[1]);
        let rule = "ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 ip daddr != 224.0.0.0/4 masquerade";
        assert!(seen[0].contains(rule), "{}", seen[0]);
        let rule =
            "ip6 saddr fd62:6572:7468::/64 ip6 daddr != fd62:6572:7468::/64 ip6 daddr != ff00::/8 masquerade";
        assert!(seen[0].contains(rule), "{}", seen[0]);
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn changed_settings_replace_the_old_addresses_and_rules() {
    on_fresh_host("changed_settings_replace_the_old_addresses_and_rules", || {
        open();
        let config = NetworkConfig {
            subnets: vec!["10.99.0.0/24".parse().unwrap()],
            mtu: Some(1400),
            masquerade: false,
            ..NetworkConfig::default()
        };
        let network = Network::open(config).unwrap();
        let shown = run("ip", &["-o", "addr", "show", "dev", "berth0", "scope", "global"]);
        assert!(
            shown.contains("10.99.0.1/24") && !shown.contains("10.88") && !shown.contains("fd62"),
            "{shown}"
        );
        assert!(!run("nft", &["list", "ruleset"]).contains("ip daddr != 10.99.0.0/24"));
        let space = Space::new();
        space.attach(&network, POD_A, &addresses(&["10.99.0.2"])).unwrap();
        assert!(space.run("ip", &["link", "show", "eth0"]).contains("mtu 1400"));
        // Not even one of the link's own, where the network has no IPv6.
        let shown = space.run("ip", &["-o", "addr", "show", "dev", "eth0"]);
        assert!(shown.contains("10.99.0.2") && !shown.contains("inet6"), "{shown}");
        assert!(run("ip", &["link"]).matches("mtu 1400").count() == 2);
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_bridge_heeds_no_routers_also_where_pods_have_no_ipv6() {
    on_fresh_host("the_bridge_heeds_no_routers_also_where_pods_have_no_ipv6", || {
        let subnets = vec!["10.99.0.0/24".parse().unwrap()];
        Network::open(NetworkConfig { subnets, ..NetworkConfig::default() }).unwrap();
        assert_eq!(sysctl("ipv6/conf/berth0/accept_ra"), "0");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_subnet_that_the_host_is_in_is_refused_unless_pods_may_be_in_it() {
    on_fresh_host("a_subnet_that_the_host_is_in_is_refused_unless_pods_may_be_in_it", || {
        run("ip", &["address", "add", "10.88.7.7/24", "dev", "lo"]);
        let refused = Network::open(NetworkConfig::default()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "give pods subnet 10.88.0.0/16: the host has address 10.88.7.7 in it, on another link than the bridge"
        );
        assert!(!links().iter().any(|link| link == "berth0"), "{:?}", links());
        run("ip", &["address", "delete", "10.88.7.7/24", "dev", "lo"]);
        open();
        run("ip", &["address", "add", "10.88.7.7/24", "dev", "lo"]);
        open();
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn foreign_interface_of_the_bridges_name_is_refused_and_left() {
    on_fresh_host("foreign_interface_of_the_bridges_name_is_refused_and_left", || {
        for kind in ["bridge", "veth"] {
            run("ip", &["link", "add", "berth0", "type", kind]);
            let before = run("ip", &["-d", "addr", "show", "berth0"]);
            let error = Network::open(NetworkConfig::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exists);
            assert!(error.to_string().contains(kind), "{error}");
            assert_eq!(run("ip", &["-d", "addr", "show", "berth0"]), before);
            run("ip", &["link", "del", "berth0"]);
        }
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn host_goes_on_listening_to_router_advertisements() {
    on_fresh_host("host_goes_on_listening_to_router_advertisements", || {
        run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "deaf"]);
        std::fs::write(format!("{SYSCTL}/ipv6/conf/deaf/accept_ra"), "0").unwrap();
        open();
        assert_eq!(sysctl("ipv6/conf/uplink/accept_ra"), "2");
        assert_eq!(sysctl("ipv6/conf/deaf/accept_ra"), "0");
        assert_eq!(sysctl("ipv6/conf/berth0/accept_ra"), "0");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn host_that_drops_forwarded_packets_is_warned_of() {
    on_fresh_host("host_that_drops_forwarded_packets_is_warned_of", || {
        let warning = "forwarded packets are dropped unless this chain accepts them chain=filter FORWARD";
        assert!(!logged(|| drop(open())).contains(warning));
        let chain = "{ type filter hook forward priority 0; policy drop; }";
        run("nft", &["add", "table", "ip", "filter"]);
        run("nft", &["add", "chain", "ip", "filter", "FORWARD", chain]);
        let text = logged(|| drop(open()));
        assert!(text.contains(warning), "{text}");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn host_without_ipv6_serves_ipv4_alone() {
    on_fresh_host("host_without_ipv6_serves_ipv4_alone", || {
        std::fs::write(format!("{SYSCTL}/ipv6/conf/all/disable_ipv6"), "1").unwrap();
        let network = open();
        assert_eq!(network.subnets(), ["10.88.0.0/16".parse().unwrap()]);
        let space = Space::new();
        space.attach(&network, POD_A, &addresses(&["10.88.0.2"])).unwrap();
        assert_eq!(space.reach(&TcpListener::bind("10.88.0.1:0").unwrap()), ip("10.88.0.2"));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn attached_pod_is_configured_when_attach_returns() {
    on_fresh_host("attached_pod_is_configured_when_attach_returns", || {
        let network = open();
        let space = Space::new();
        let attached =
            space.attach(&network, POD_A, &addresses(&["10.88.3.4", "fd62:6572:7468::34"])).unwrap();
        let shown = space.run("ip", &["-o", "addr"]);
        for wanted in ["127.0.0.1/8", "::1/128", "10.88.3.4/16 brd 10.88.255.255", "fd62:6572:7468::34/64"] {
            assert!(shown.contains(wanted), "{wanted} in {shown}");
        }
        let v6 = shown.lines().find(|line| line.contains("fd62")).unwrap();
        assert!(!v6.contains("tentative"), "{v6}");
        let eth0 = space.run("ip", &["-o", "link", "show", "eth0"]);
        assert!(
            eth0.contains("0a:58:0a:58:03:04") && eth0.starts_with(&format!("{}:", attached.pod_index)),
            "{eth0}"
        );
        assert!(space.run("ip", &["route"]).contains("default via 10.88.0.1 dev eth0"));
        assert!(space.run("ip", &["-6", "route"]).contains("default via fd62:6572:7468::1 dev eth0"));
        let port = run("ip", &["-d", "link", "show", "bthaaaaaaaaaaaa"]);
        assert!(
            port.contains("master berth0") && port.contains(&format!("alias berth:berth0:pod:{POD_A}")),
            "{port}"
        );
        assert!(port.starts_with(&format!("{}:", attached.host_index)), "{port}");
        for end in [port, space.run("ip", &["-d", "link", "show", "eth0"])] {
            assert!(end.contains("numtxqueues 1 numrxqueues 1 "), "{end}");
        }
        assert!(!run("ip", &["addr", "show", "dev", "bthaaaaaaaaaaaa"]).contains("inet"));
        let owned: Vec<_> =
            network.owned_links().unwrap().into_iter().map(|l| (l.name.to_string(), l.pod_id)).collect();
        assert_eq!(owned, [("bthaaaaaaaaaaaa".to_string(), POD_A.to_string())]);
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn pods_and_host_reach_each_other_at_once() {
    on_fresh_host("pods_and_host_reach_each_other_at_once", || {
        let network = open();
        let (a, own_a) = pod(&network, POD_A, 2);
        let (b, own_b) = pod(&network, POD_B, 3);
        for (from, to) in own_a.iter().zip(own_b.iter()) {
            assert_eq!(a.reach(&b.listen(to)), from, "pod to pod");
            assert_eq!(b.reach(&a.listen(from)), to, "pod to pod, back");
        }
        for (gateway, own) in [ip("10.88.0.1"), ip("fd62:6572:7468::1")].into_iter().zip(own_a.iter()) {
            assert_eq!(a.reach(&TcpListener::bind((gateway, 0)).unwrap()), own, "pod to host");
            assert_eq!(reach_from_host(&a.listen(own)), gateway, "host to pod");
        }
        let own_loopback = a.listen(ip("::1"));
        assert_eq!(a.reach(&own_loopback), ip("::1"));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_leaves_the_subnet_has_the_hosts_address() {
    on_fresh_host("what_leaves_the_subnet_has_the_hosts_address", || {
        let network = open();
        let outside = outside();
        let (a, _) = pod(&network, POD_A, 2);
        // Outside has no route to the pods, so that an answer proves the translation too.
        assert_eq!(a.reach(&outside.listen(ip("198.51.100.2"))), ip("198.51.100.1"));
        assert_eq!(a.reach(&outside.listen(ip("2001:db8::2"))), ip("2001:db8::1"));
        assert_eq!(a.reach(&TcpListener::bind("198.51.100.1:0").unwrap()), ip("10.88.0.2"), "host itself");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn detach_is_idempotent_and_leaves_nothing() {
    on_fresh_host("detach_is_idempotent_and_leaves_nothing", || {
        let network = open();
        let (a, own) = pod(&network, POD_A, 2);
        let name = IfName::from_pod_id(POD_A).unwrap();
        for _ in 0..2 {
            network.detach(&name).unwrap();
            assert_eq!(links(), ["berth0"]);
        }
        assert!(!a.run("ip", &["-o", "link"]).contains("eth0"));
        a.attach(&network, POD_A, &own).unwrap();
        assert!(matches!(network.teardown(), Err(Error::InUse { pods: 1, .. })));
        let network = open();
        network.detach(&name).unwrap();
        network.teardown().unwrap();
        assert_eq!(links(), Vec::<String>::new());
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn failed_attach_leaves_no_link_and_a_retry_succeeds() {
    on_fresh_host("failed_attach_leaves_no_link_and_a_retry_succeeds", || {
        let network = open();
        let space = Space::new();
        let fail = |own: &[&str], kind: ErrorKind| {
            let error = space.attach(&network, POD_A, &addresses(own)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(links(), ["berth0"], "{error}");
            error
        };
        // The pod's batch fails at its second address.
        let error = fail(&["10.88.0.2", "10.88.0.2"], ErrorKind::Exists);
        let step = std::error::Error::source(&error).unwrap().to_string();
        assert!(step.starts_with("add address to eth0"), "{step}");
        fail(&["192.0.2.1"], ErrorKind::Invalid);
        // The host's batch fails: an eth0 is there already.
        space.run("ip", &["link", "add", "eth0", "type", "veth"]);
        fail(&["10.88.0.2"], ErrorKind::Exists);
        space.run("ip", &["link", "del", "eth0"]);
        space.attach(&network, POD_A, &addresses(&["10.88.0.2"])).unwrap();
        assert_eq!(reach_from_host(&space.listen(ip("10.88.0.2"))), ip("10.88.0.1"));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn second_attach_of_a_name_leaves_the_first_working() {
    on_fresh_host("second_attach_of_a_name_leaves_the_first_working", || {
        let network = open();
        let (a, _) = pod(&network, POD_A, 2);
        let error = Space::new().attach(&network, POD_A, &addresses(&["10.88.0.3"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert_eq!(reach_from_host(&a.listen(ip("10.88.0.2"))), ip("10.88.0.1"));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn lost_bridge_is_reported_and_comes_back_with_the_next_pod() {
    on_fresh_host("lost_bridge_is_reported_and_comes_back_with_the_next_pod", || {
        let network = open();
        let (a, _) = pod(&network, POD_A, 2);
        run("ip", &["link", "set", "berth0", "down"]);
        assert_eq!(network.check().unwrap_err().to_string(), "bridge berth0 is down");
        run("ip", &["link", "del", "berth0"]);
        assert_eq!(network.check().unwrap_err().to_string(), "bridge berth0 is gone");
        let (b, _) = pod(&network, POD_B, 3);
        for (space, address) in [(&a, "10.88.0.2"), (&b, "10.88.0.3")] {
            assert_eq!(reach_from_host(&space.listen(ip(address))), ip("10.88.0.1"), "{address}");
        }
        network.check().unwrap();
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn somebody_elses_bridge_in_the_place_of_ours_is_not_taken() {
    on_fresh_host("somebody_elses_bridge_in_the_place_of_ours_is_not_taken", || {
        let network = open();
        run("ip", &["link", "del", "berth0"]);
        run("ip", &["link", "add", "berth0", "type", "bridge"]);
        let error = Space::new().attach(&network, POD_A, &addresses(&["10.88.0.2"])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert_eq!(network.restore().unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(links(), ["berth0"]);
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn rules_that_somebody_flushed_come_back_when_they_are_looked_at() {
    on_fresh_host("rules_that_somebody_flushed_come_back_when_they_are_looked_at", || {
        let network = open();
        let before = run("nft", &["list", "ruleset"]);
        // The table stays, and is empty.
        run("nft", &["flush", "table", "inet", "berth"]);
        pod(&network, POD_A, 2);
        network.check_and_restore().unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]), before);
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn pods_attach_in_parallel() {
    on_fresh_host("pods_attach_in_parallel", || {
        let network = open();
        let mut pool = AddressPool::new(&network.subnets());
        let pods: Vec<_> = (0..20)
            .map(|n| {
                let id = format!("{n:012x}");
                let own = pool.lease(&id).unwrap();
                (Space::new(), id, own)
            })
            .collect();
        std::thread::scope(|scope| {
            for (space, id, own) in &pods {
                scope.spawn(|| space.attach(&network, id, own).unwrap());
            }
        });
        assert_eq!(network.owned_links().unwrap().len(), 20);
        for (space, _, own) in &pods {
            for address in own.iter() {
                space.await_address(address);
                reach_from_host(&space.listen(address));
            }
        }
        std::thread::scope(|scope| {
            for (_, id, _) in &pods {
                scope.spawn(|| network.detach(&IfName::from_pod_id(id).unwrap()).unwrap());
            }
        });
        assert_eq!(links(), ["berth0"]);
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn pod_without_a_network_has_its_loopback() {
    on_fresh_host("pod_without_a_network_has_its_loopback", || {
        let space = Space::new();
        for _ in 0..2 {
            space.up_loopback().unwrap();
        }
        for loopback in ["127.0.0.1", "::1"] {
            assert_eq!(space.reach(&space.listen(ip(loopback))), ip(loopback));
        }
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn attach_and_detach_are_measured() {
    on_fresh_host("attach_and_detach_are_measured", || {
        let network = open();
        for at_a_time in [1, 10] {
            let mut pool = AddressPool::new(&network.subnets());
            let mut times = Vec::new();
            for _ in 0..200 / at_a_time {
                let pods: Vec<_> = (0..at_a_time).map(|n| (Space::new(), format!("{n:012x}"))).collect();
                let leases: Vec<_> = pods.iter().map(|(_, id)| pool.lease(id).unwrap()).collect();
                let measured = |((space, id), own): (&(Space, String), &PodAddresses)| {
                    let start = Instant::now();
                    space.attach(&network, id, own).unwrap();
                    let attached = start.elapsed();
                    network.detach(&IfName::from_pod_id(id).unwrap()).unwrap();
                    (attached, start.elapsed() - attached)
                };
                std::thread::scope(|scope| {
                    let running: Vec<_> =
                        pods.iter().zip(&leases).map(|pod| scope.spawn(move || measured(pod))).collect();
                    times.extend(running.into_iter().map(|thread| thread.join().unwrap()));
                });
            }
            let (attach, detach): (Vec<Duration>, Vec<Duration>) = times.into_iter().unzip();
            for (what, mut times) in [("attach", attach), ("detach", detach)] {
                times.sort();
                let at = |share: usize| times[times.len() * share / 100];
                println!(
                    "{at_a_time} at a time: {what} p50 {:?}, p90 {:?}, p99 {:?}",
                    at(50),
                    at(90),
                    at(99)
                );
            }
        }
    });
}
