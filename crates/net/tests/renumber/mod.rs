//! A pod CIDR that comes while pods run, and what is noticed when somebody takes parts of the network away.

use berth_net::{AddressPool, Error, Inherited, Network, NetworkConfig};
use berth_store::ErrorKind;
use ipnet::IpNet;

use crate::lab::{Space, on_fresh_host, reach_from_host, run};
use crate::{POD_A, POD_B, addresses, ip, open, pod};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|net| net.parse().unwrap()).collect()
}

fn gateways() -> String {
    run("ip", &["-o", "addr", "show", "dev", "berth0", "scope", "global"])
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn new_subnets_serve_new_pods_and_old_ones_go_with_their_pods() {
    on_fresh_host("renumber::new_subnets_serve_new_pods_and_old_ones_go_with_their_pods", || {
        let network = open();
        let mut pool = AddressPool::new(&network.subnets());
        let (a, own) = pod(&network, POD_A, 2);
        pool.reserve(POD_A, &own).unwrap();
        let wanted = network.check_pod_cidr(&nets(&["10.99.7.0/24"])).unwrap();
        network.renumber(&wanted, &pool.taken()).unwrap();
        pool.renumber(&network.subnets());
        let served = network.prune(&pool.taken()).unwrap();
        assert_eq!((served.current, served.retired.len()), (wanted, 2));
        assert!(gateways().contains("10.99.7.1/24") && gateways().contains("10.88.0.1/16"));
        network.check().unwrap();

        let b = Space::new();
        let lease = pool.lease(POD_B).unwrap();
        assert_eq!(lease.to_string(), "10.99.7.2");
        b.attach(&network, POD_B, &lease).unwrap();
        assert_eq!(reach_from_host(&a.listen(ip("10.88.0.2"))), ip("10.88.0.1"), "the old pod");
        assert_eq!(reach_from_host(&b.listen(ip("10.99.7.2"))), ip("10.99.7.1"), "the new pod");
        assert_eq!(a.reach(&b.listen(ip("10.99.7.2"))), ip("10.99.7.1"), "old pod to new");

        let inherited = Inherited {
            pod_cidr: network.served().current,
            retired: network.served().retired,
            ..Inherited::default()
        };
        drop(network);
        let network = Network::open_again(NetworkConfig::default(), inherited).unwrap();
        assert_eq!(network.subnets(), nets(&["10.99.7.0/24"]));
        assert_eq!(reach_from_host(&a.listen(ip("10.88.0.2"))), ip("10.88.0.1"), "after a restart");
        pool.release(POD_A);
        network.prune(&pool.taken()).unwrap();
        assert!(!gateways().contains("10.88") && !gateways().contains("fd62"), "{}", gateways());
        assert!(!run("nft", &["list", "ruleset"]).contains("10.88.0.0/16"));
        network.check().unwrap();
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_pod_cidr_that_cannot_be_is_refused() {
    on_fresh_host("renumber::a_pod_cidr_that_cannot_be_is_refused", || {
        let network = open();
        run("ip", &["addr", "add", "203.0.113.9/24", "dev", "lo"]);
        let before = gateways();
        let refuse = |cidr: &[&str], kind: ErrorKind, text: &str| {
            let error = network
                .check_pod_cidr(&nets(cidr))
                .and_then(|wanted| network.renumber(&wanted, &[ip("10.88.0.9")]))
                .unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
            assert_eq!(gateways(), before);
        };
        let setting = "check network setting pod_cidr =";
        refuse(
            &["10.1.0.1/24"],
            ErrorKind::Invalid,
            &format!("{setting} 10.1.0.1/24: has bits set beyond its prefix"),
        );
        refuse(
            &["10.1.0.0/24", "10.2.0.0/24"],
            ErrorKind::Invalid,
            &format!("{setting} 10.2.0.0/24: is the second of its address family"),
        );
        refuse(
            &["10.88.4.0/24"],
            ErrorKind::WrongState,
            "give pods subnet 10.88.4.0/24: pods still have addresses of 10.88.0.0/16",
        );
        refuse(
            &["203.0.113.0/24"],
            ErrorKind::WrongState,
            "give pods subnet 203.0.113.0/24: the host has address 203.0.113.9 in it, on another link than the bridge",
        );
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_network_that_waits_for_its_pod_cidr_is_not_ready() {
    on_fresh_host("renumber::a_network_that_waits_for_its_pod_cidr_is_not_ready", || {
        let config = NetworkConfig { wait_for_pod_cidr: true, ..NetworkConfig::default() };
        let network = Network::open(config).unwrap();
        assert!(matches!(network.check(), Err(Error::AwaitingPodCidr)));
        assert!(AddressPool::new(&network.subnets()).lease(POD_A).is_err());
        assert_eq!(gateways(), "");
        network.renumber(&nets(&["10.99.7.0/24"]), &[]).unwrap();
        network.check().unwrap();
        let space = Space::new();
        space.attach(&network, POD_A, &addresses(&["10.99.7.2"])).unwrap();
        assert_eq!(reach_from_host(&space.listen(ip("10.99.7.2"))), ip("10.99.7.1"));
    });
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_taken_away_is_noticed_and_comes_back() {
    on_fresh_host("renumber::what_is_taken_away_is_noticed_and_comes_back", || {
        let network = open();
        let (a, _) = pod(&network, POD_A, 2);
        let lost = |take: &[&str], text: &str| {
            run(take[0], &take[1..]);
            let lost = network.check().unwrap_err();
            assert_eq!(lost.to_string(), text);
            network.restore().unwrap();
            network.check().unwrap();
        };
        lost(&["nft", "flush", "ruleset"], "use nftables table berth: it has 0 rules instead of 14");
        lost(
            &["nft", "flush", "table", "inet", "berth"],
            "use nftables table berth: it has 0 rules instead of 14",
        );
        lost(
            &["ip", "addr", "del", "10.88.0.1/16", "dev", "berth0"],
            "bridge berth0 is without a gateway address",
        );
        lost(&["ip", "link", "del", "berth0"], "bridge berth0 is gone");
        assert_eq!(reach_from_host(&a.listen(ip("10.88.0.2"))), ip("10.88.0.1"), "its port is back");
    });
}
