//! Ports of the host that lead to pods: from everywhere, for every protocol, and gone when they are taken away.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use berth_net::{Forward, IfName, Inherited, Network, NetworkConfig, PortMapping, Protocol};

use crate::lab::{Space, connect, on_fresh_host, outside, run, seen_by};
use crate::{POD_A, POD_B, addresses, ip, open, pod};

const SECOND: Duration = Duration::from_secs(1);

fn mapping(protocol: Protocol, host_ip: &str, host_port: u16, container_port: u16) -> PortMapping {
    let host_ip = (!host_ip.is_empty()).then(|| ip(host_ip));
    PortMapping { protocol, container_port, host_port, host_ip }
}

fn forwards(mappings: &[PortMapping], host: u8) -> Vec<Forward> {
    let own = addresses(&[&format!("10.88.0.{host}"), &format!("fd62:6572:7468::{host:x}")]);
    Forward::all(mappings, &own).unwrap()
}

fn listen(space: &Space, address: &str) -> TcpListener {
    space.inside(|| TcpListener::bind(address.parse::<SocketAddr>().unwrap()).unwrap())
}

fn port_of(id: &str) -> IfName {
    IfName::from_pod_id(id).unwrap()
}

fn refused(address: &str) -> bool {
    TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(300)).is_err()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn host_port_leads_to_the_pod_from_everywhere() {
    on_fresh_host("ports::host_port_leads_to_the_pod_from_everywhere", || {
        if std::path::Path::new(FILTERED_BRIDGES[0]).exists() {
            filter_bridges("0");
        }
        lead_from_everywhere();
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn host_port_leads_to_the_pod_where_bridged_packets_are_filtered() {
    on_fresh_host("ports::host_port_leads_to_the_pod_where_bridged_packets_are_filtered", || {
        if !std::path::Path::new(FILTERED_BRIDGES[0]).exists() {
            run("modprobe", &["br_netfilter"]);
        }
        filter_bridges("1");
        lead_from_everywhere();
    });
}

const FILTERED_BRIDGES: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];

/// Whether a bridge's packets pass the rules for routed ones; it changes their way.
fn filter_bridges(value: &str) {
    for path in FILTERED_BRIDGES {
        std::fs::write(path, value).unwrap();
    }
}

fn lead_from_everywhere() {
    let network = open();
    let outside = outside();
    let ((a, _), (b, _)) = (pod(&network, POD_A, 2), pod(&network, POD_B, 3));
    network.forward(&port_of(POD_A), &forwards(&[mapping(Protocol::Tcp, "", 8080, 80)], 2)).unwrap();
    let (four, six) = (listen(&a, "0.0.0.0:80"), listen(&a, "[::]:81"));
    drop(six);
    let six = listen(&a, "[fd62:6572:7468::2]:80");
    let check = |from: &str, to: &str, stream: TcpStream, seen: &str| {
        let listener = if to.starts_with('[') { &six } else { &four };
        assert_eq!(seen_by(listener, stream), ip(seen), "{from} to {to}");
    };
    // Each is seen by the pod as the address that it can answer.
    for (to, seen) in [
        ("127.0.0.1:8080", "10.88.0.1"),
        ("127.8.9.10:8080", "10.88.0.1"),
        ("198.51.100.1:8080", "198.51.100.1"),
        ("10.88.0.1:8080", "10.88.0.1"),
        ("[2001:db8::1]:8080", "2001:db8::1"),
    ] {
        check("host", to, connect(to.parse().unwrap()), seen);
    }
    for to in ["198.51.100.1:8080", "10.88.0.1:8080", "[2001:db8::1]:8080"] {
        let seen = if to.starts_with('[') { "fd62:6572:7468::1" } else { "10.88.0.1" };
        check("other pod", to, b.inside(|| connect(to.parse().unwrap())), seen);
        check("the pod itself", to, a.inside(|| connect(to.parse().unwrap())), seen);
    }
    for (to, seen) in [("198.51.100.1:8080", "198.51.100.2"), ("[2001:db8::1]:8080", "2001:db8::2")] {
        check("outside", to, outside.inside(|| connect(to.parse().unwrap())), seen);
    }
    // What is not addressed to the host is left alone.
    let elsewhere = listen(&outside, "198.51.100.2:8080");
    assert_eq!(b.reach(&elsewhere), ip("198.51.100.1"));

    for _ in 0..2 {
        network.unforward(&forwards(&[mapping(Protocol::Tcp, "", 8080, 80)], 2)).unwrap();
    }
    for to in ["127.0.0.1:8080", "198.51.100.1:8080", "[2001:db8::1]:8080"] {
        assert!(refused(to), "{to}");
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn host_port_of_one_address_is_of_that_address_alone() {
    on_fresh_host("ports::host_port_of_one_address_is_of_that_address_alone", || {
        let network = open();
        let _outside = outside();
        let ((a, _), (b, _)) = (pod(&network, POD_A, 2), pod(&network, POD_B, 3));
        network
            .forward(&port_of(POD_A), &forwards(&[mapping(Protocol::Tcp, "198.51.100.1", 8080, 80)], 2))
            .unwrap();
        network
            .forward(&port_of(POD_B), &forwards(&[mapping(Protocol::Tcp, "127.0.0.1", 8080, 80)], 3))
            .unwrap();
        network
            .forward(&port_of(POD_B), &forwards(&[mapping(Protocol::Tcp, "2001:db8::1", 8080, 80)], 3))
            .unwrap();
        let (at_a, at_b) = (listen(&a, "0.0.0.0:80"), listen(&b, "0.0.0.0:80"));
        seen_by(&at_a, connect("198.51.100.1:8080".parse().unwrap()));
        seen_by(&at_b, connect("127.0.0.1:8080".parse().unwrap()));
        assert!(refused("10.88.0.1:8080"));
        let six = listen(&b, "[fd62:6572:7468::3]:80");
        seen_by(&six, connect("[2001:db8::1]:8080".parse().unwrap()));
        assert!(refused("[fd62:6572:7468::1]:8080"));
        // Within one pod, a mapping for one address comes before one for all.
        let both = [mapping(Protocol::Tcp, "", 9090, 91), mapping(Protocol::Tcp, "198.51.100.1", 9090, 90)];
        network.forward(&port_of(POD_A), &forwards(&both, 2)).unwrap();
        seen_by(&listen(&a, "0.0.0.0:90"), connect("198.51.100.1:9090".parse().unwrap()));
        seen_by(&listen(&a, "0.0.0.0:91"), connect("127.0.0.1:9090".parse().unwrap()));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn pods_do_not_reach_the_hosts_loopback() {
    on_fresh_host("ports::pods_do_not_reach_the_hosts_loopback", || {
        let network = open();
        let (a, _) = pod(&network, POD_A, 2);
        let secret = TcpListener::bind("127.0.0.1:7070").unwrap();
        network
            .forward(&port_of(POD_A), &forwards(&[mapping(Protocol::Tcp, "127.0.0.1", 8080, 80)], 2))
            .unwrap();
        assert_eq!(crate::sysctl("ipv4/conf/berth0/route_localnet"), "1");
        a.run("ip", &["route", "add", "127.0.0.0/8", "via", "10.88.0.1", "dev", "eth0", "table", "7"]);
        a.run("ip", &["rule", "add", "pref", "0", "to", "127.0.0.0/8", "lookup", "7"]);
        a.run("ip", &["rule", "del", "pref", "0", "lookup", "local"]);
        a.run("ip", &["rule", "add", "pref", "1", "lookup", "local"]);
        a.run("sysctl", &["-q", "-w", "net.ipv4.conf.all.route_localnet=1"]);
        let reaches =
            || a.inside(|| TcpStream::connect_timeout(&"127.0.0.1:7070".parse().unwrap(), SECOND)).is_ok();
        assert!(!reaches(), "a pod reaches the host's loopback");
        // And it is the rule that keeps it from there.
        run("nft", &["flush", "chain", "inet", "berth", "guard"]);
        assert!(reaches());
        drop(secret);
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn udp_flows_follow_the_mapping() {
    on_fresh_host("ports::udp_flows_follow_the_mapping", || {
        let network = open();
        let outside = outside();
        let ((a, _), (b, _)) = (pod(&network, POD_A, 2), pod(&network, POD_B, 3));
        let bind = |space: &Space, address: &str| {
            let socket = space.inside(|| UdpSocket::bind(address).unwrap());
            socket.set_read_timeout(Some(SECOND)).unwrap();
            socket
        };
        let (at_a, at_b) = (bind(&a, "0.0.0.0:53"), bind(&b, "0.0.0.0:53"));
        let client = bind(&outside, "198.51.100.2:4000");
        client.connect("198.51.100.1:5353").unwrap();
        let send = |word: &[u8]| {
            // A port that nobody listens on has told the socket so.
            let _ = client.take_error();
            client.send(word).unwrap();
        };
        let heard = |socket: &UdpSocket| {
            let mut buffer = [0; 16];
            socket.recv_from(&mut buffer).ok().map(|(length, _)| buffer[..length].to_vec())
        };
        // The flow is known before there is a mapping.
        let before = UdpSocket::bind("198.51.100.1:5353").unwrap();
        before.set_read_timeout(Some(SECOND)).unwrap();
        send(b"early");
        assert_eq!(heard(&before).as_deref(), Some(&b"early"[..]));
        drop(before);
        let (to_a, to_b) = (
            forwards(&[mapping(Protocol::Udp, "", 5353, 53)], 2),
            forwards(&[mapping(Protocol::Udp, "", 5353, 53)], 3),
        );
        network.forward(&port_of(POD_A), &to_a).unwrap();
        send(b"one");
        assert_eq!(heard(&at_a).as_deref(), Some(&b"one"[..]));
        network.unforward(&to_a).unwrap();
        network.forward(&port_of(POD_B), &to_b).unwrap();
        send(b"two");
        assert_eq!(heard(&at_b).as_deref(), Some(&b"two"[..]));
        at_b.send_to(b"answer", "198.51.100.2:4000").unwrap();
        assert_eq!(heard(&client).as_deref(), Some(&b"answer"[..]));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn every_protocol_and_many_ports_are_listed_by_nft() {
    on_fresh_host("ports::every_protocol_and_many_ports_are_listed_by_nft", || {
        let network = open();
        let all = |port| {
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| mapping(protocol, "", port, 80))
        };
        network.forward(&port_of(POD_A), &forwards(&all(8080), 2)).unwrap();
        network
            .forward(&port_of(POD_A), &forwards(&[mapping(Protocol::Tcp, "192.0.2.7", 8080, 80)], 2))
            .unwrap();
        let text = run("nft", &["list", "table", "inet", "berth"]);
        for wanted in [
            "tcp . 8080 : 10.88.0.2 . 80",
            "udp . 8080 : 10.88.0.2 . 80",
            "sctp . 8080 : fd62:6572:7468::2 . 80",
            "192.0.2.7 . tcp . 8080 : 10.88.0.2 . 80",
            "fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports4_at",
            "fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
        let many: Vec<_> = (1000..3000).flat_map(all).collect();
        let many = forwards(&many, 2);
        let begun = Instant::now();
        network.forward(&port_of(POD_A), &many).unwrap();
        let added = begun.elapsed();
        network.unforward(&many).unwrap();
        println!("{} elements added in {added:?}, removed in {:?}", many.len(), begun.elapsed() - added);
        let text = run("nft", &["list", "table", "inet", "berth"]);
        assert!(text.contains("tcp . 8080") && !text.contains("tcp . 2000"), "{text}");
        // A restart with as many, and one with none.
        let inherited = Inherited { forwards: [(POD_A.into(), many)].into(), ..Inherited::default() };
        Network::open_again(NetworkConfig::default(), inherited).unwrap();
        let text = run("nft", &["list", "table", "inet", "berth"]);
        assert!(text.contains("sctp . 2999") && !text.contains("tcp . 8080"), "{text}");
        open();
        assert!(!run("nft", &["list", "table", "inet", "berth"]).contains("sctp . 2999"));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_connection_outlives_the_agents_restart() {
    on_fresh_host("ports::a_connection_outlives_the_agents_restart", || {
        let network = open();
        let (a, _) = pod(&network, POD_A, 2);
        let to_a = forwards(&[mapping(Protocol::Tcp, "", 8080, 80)], 2);
        network.forward(&port_of(POD_A), &to_a).unwrap();
        let listener = listen(&a, "0.0.0.0:80");
        let stream = connect("127.0.0.1:8080".parse().unwrap());
        drop(network);
        let inherited = Inherited { forwards: [(POD_A.into(), to_a)].into(), ..Inherited::default() };
        Network::open_again(NetworkConfig::default(), inherited).unwrap();
        assert_eq!(seen_by(&listener, stream), ip("10.88.0.1"));
        seen_by(&listener, connect("127.0.0.1:8080".parse().unwrap()));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_table_that_was_taken_away_comes_back_with_the_next_look_port_or_subnet() {
    on_fresh_host("ports::a_table_that_was_taken_away_comes_back_with_the_next_look_port_or_subnet", || {
        let network = open();
        let outside = outside();
        run("nft", &["add", "table", "inet", "others"]);
        run("nft", &["add", "chain", "inet", "others", "kept"]);
        let others = || run("nft", &["list", "table", "inet", "others"]);
        let (before, others_before) = (run("nft", &["list", "table", "inet", "berth"]), others());
        let take_away = || run("nft", &["delete", "table", "inet", "berth"]);

        // Masquerading comes back when somebody looks.
        take_away();
        let (a, _) = pod(&network, POD_A, 2);
        network.check_and_restore().unwrap();
        assert_eq!(run("nft", &["list", "table", "inet", "berth"]), before);
        assert_eq!(a.reach(&listen(&outside, "198.51.100.2:0")), ip("198.51.100.1"));

        // A port that is opened does not wait for somebody to ask, and the ones there are come back with it.
        network.forward(&port_of(POD_A), &forwards(&[mapping(Protocol::Tcp, "", 8080, 80)], 2)).unwrap();
        take_away();
        network.forward(&port_of(POD_A), &forwards(&[mapping(Protocol::Tcp, "", 8081, 80)], 2)).unwrap();
        let listener = listen(&a, "0.0.0.0:80");
        for to in ["127.0.0.1:8080", "127.0.0.1:8081"] {
            assert_eq!(seen_by(&listener, connect(to.parse().unwrap())), ip("10.88.0.1"), "{to}");
        }

        // Nor does a subnet.
        take_away();
        network.renumber(&["10.99.7.0/24".parse().unwrap()], &[ip("10.88.0.2")]).unwrap();
        network.check().unwrap();
        seen_by(&listener, connect("127.0.0.1:8080".parse().unwrap()));

        // A port that is closed needs no table.
        take_away();
        network.unforward(&forwards(&[mapping(Protocol::Tcp, "", 8081, 80)], 2)).unwrap();
        assert_eq!(others(), others_before);
    });
}
