//! The two books of the network, addresses and ports of the host, held against models so simple that they can be
//! believed: every answer to steps drawn by lot. `MODEL_SEED` and `MODEL_STEPS` choose others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic, and so may what it is made of"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_dice::{Dice, seed, steps_or};
use berth_net::{AddressPool, PodAddresses, PortClaims, PortMapping, Protocol};
use berth_store::ErrorKind;
use ipnet::IpNet;

/// Of each test; a second or two in a build that is not optimised.
const STEPS: usize = 100_000;
/// After so many steps everything is looked at, and not only the answer.
const LOOK: usize = 50;

/// What the steps are drawn with.
fn dice() -> (Dice, usize) {
    let (seed, steps) = (seed(), steps_or(STEPS));
    println!("MODEL_SEED={seed} MODEL_STEPS={steps}");
    (Dice::new(seed), steps)
}

#[test]
fn no_address_is_lost_or_anybodys_twice() {
    let subnets = ["10.0.0.0/28", "10.1.0.0/29", "fd00::/64"].map(|text| text.parse::<IpNet>().unwrap());
    let sizes = subnets.map(|subnet| match subnet {
        IpNet::V4(subnet) => (1 << (32 - subnet.prefix_len())) - 3,
        IpNet::V6(_) => usize::MAX,
    });
    let (mut dice, steps) = dice();
    let mut current = vec![0, 2];
    let mut pool = AddressPool::new(&[subnets[0], subnets[2]]);
    let mut model = BTreeMap::<String, PodAddresses>::new();
    for step in 0..steps {
        let owner = format!("pod-{}", dice.below(20));
        match dice.below(10) {
            0..5 => {
                let taken = || model.values().flat_map(PodAddresses::iter);
                let used = |at: usize| taken().filter(|ip| subnets[at].contains(ip)).count();
                let has_room = || current.iter().all(|at| used(*at) < sizes[*at]);
                let kind = |error: berth_net::Error| error.kind();
                match (pool.lease(&owner).map_err(kind), model.get(&owner)) {
                    (Ok(found), Some(known)) => assert_eq!(found, *known),
                    (Ok(found), None) => {
                        let all: Vec<IpAddr> = found.iter().collect();
                        assert!(taken().all(|ip| !all.contains(&ip)), "{found}");
                        assert_eq!(all.len(), current.len());
                        assert!(
                            all.iter().zip(&current).all(|(ip, at)| subnets[*at].contains(ip)),
                            "{found}"
                        );
                        model.insert(owner, found);
                    }
                    (Err(ErrorKind::Exhausted), None) => assert!(!has_room()),
                    (Err(ErrorKind::Unavailable), None) => assert!(current.is_empty()),
                    (other, known) => panic!("{owner} has {known:?} and gets {other:?}"),
                }
            }
            5..8 => {
                pool.release(&owner);
                model.remove(&owner);
            }
            8 => {
                // As a start does with what is on record, whose it is now or was.
                let Some(wanted) = model.values().nth(dice.below(20)).cloned() else { continue };
                let is_others = model.iter().any(|(other, has)| *other != owner && *has == wanted);
                let reserved = pool.reserve(&owner, &wanted).map_err(|error| error.kind());
                assert_eq!(reserved, if is_others { Err(ErrorKind::Exists) } else { Ok(()) });
            }
            _ => {
                current = dice.one_of(&[vec![0, 2], vec![1], vec![1, 2], vec![]]);
                pool.renumber(&current.iter().map(|at| subnets[*at]).collect::<Vec<_>>());
            }
        }
        if step % LOOK == 0 {
            let leases: BTreeMap<_, _> = pool.leases().collect();
            assert_eq!(leases, model.iter().map(|(owner, has)| (owner.as_str(), has)).collect());
        }
    }
}

/// What a packet can be sent to: a port of an address of the host's.
type Packet = (Protocol, u16, IpAddr);

#[test]
fn no_port_of_the_host_leads_to_two_pods() {
    let hosts = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let any = ["0.0.0.0", "::"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let packets = |mapping: &PortMapping| -> BTreeSet<Packet> {
        let is_meant = |ip: &IpAddr| match mapping.host_ip {
            None => true,
            Some(all) if all.is_unspecified() => all.is_ipv4() == ip.is_ipv4(),
            Some(one) => one == *ip,
        };
        hosts.into_iter().filter(is_meant).map(|ip| (mapping.protocol, mapping.host_port, ip)).collect()
    };
    let (mut dice, steps) = dice();
    let mut claims = PortClaims::default();
    let mut model = BTreeMap::<String, BTreeSet<Packet>>::new();
    for _ in 0..steps {
        let owner = format!("pod-{}", dice.below(5));
        if dice.once_in(3) {
            claims.release(&owner);
            model.remove(&owner);
        } else {
            let mut draw = |_| PortMapping {
                protocol: dice.one_of(&[Protocol::Tcp, Protocol::Udp]),
                container_port: 80,
                host_port: dice.one_of(&[1, 2, 3]),
                host_ip: dice.one_of(&[
                    None,
                    Some(any[0]),
                    Some(any[1]),
                    Some(hosts[0]),
                    Some(hosts[1]),
                    Some(hosts[2]),
                ]),
            };
            let mappings = (0..2).map(&mut draw).collect::<Vec<_>>();
            let wanted: BTreeSet<Packet> = mappings.iter().flat_map(packets).collect();
            let is_taken = model.iter().any(|(other, has)| *other != owner && !has.is_disjoint(&wanted));
            let claimed = claims.claim(&owner, &mappings).map_err(|error| error.kind());
            assert_eq!(
                claimed,
                if is_taken { Err(ErrorKind::Exists) } else { Ok(()) },
                "{owner}: {mappings:?}"
            );
            if claimed.is_ok() {
                model.insert(owner.clone(), wanted);
            }
        }
        assert_eq!(claims.has(&owner), model.contains_key(&owner));
    }
}
