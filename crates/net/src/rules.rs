//! What our nftables table holds: ports of the host that lead to pods, and masquerade for what leaves a pod subnet.
//!
//! Pure: settings in, wanted table out. In nftables' own words, for IPv4:
//!
//! ```text
//! chain guard       (prerouting, raw)     iifname "berth0" ip daddr 127.0.0.0/8 drop
//! chain prerouting  (dstnat), output (the same)
//!     fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports4_at
//!     fib daddr type local dnat ip to meta l4proto . th dport map @ports4
//! chain postrouting (srcnat)
//!     oifname "berth0" ip saddr 127.0.0.0/8 masquerade
//!     ip saddr 10.88.0.0/16 ip daddr 10.88.0.0/16 ct status dnat masquerade
//!     ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 ip daddr != 224.0.0.0/4 masquerade
//! ```
//!
//! - `output` is for connections of the host's own processes. One to 127.0.0.1 goes on to the bridge with that source,
//!   which the kernel lets pass once `route_localnet` is set there; the first rule of `postrouting` gives it a source
//!   that a pod can answer. In return `guard` keeps pods from the host's loopback, which that sysctl would open to
//!   them (CVE-2020-8558). IPv6 has no such sysctl, so `::1` leads nowhere and is left to the host.
//! - A pod that reaches another by the host's port must seem to be the host: the other would answer it directly, past
//!   the translation. That is the second rule of `postrouting`. (The kernel would like to redirect the sender to the
//!   shorter way, but drops such a redirect of a translated connection.)
//! - Multicast keeps its source: answers to it are addressed by what its sender writes into it.
//! - There is no chain that accepts forwarded packets, as it would have no effect (see the crate's documentation).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::name::IfName;
use crate::nftables::{
    Chain, ChainKind, Comparison, Expression, Family, HeaderMatch, Hook, Redirect, Rule, Table,
};
use crate::ports::{MAPS, octets};

/// Before connections are known, where a packet still has the destination that its sender gave it.
const PRIORITY_RAW: i32 = -300;
/// Where destinations are translated (`dstnat`).
const PRIORITY_DSTNAT: i32 = -100;
/// Where sources are translated (`srcnat`).
const PRIORITY_SRCNAT: i32 = 100;

const LOOPBACK_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
const LOOPBACK_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));
const MULTICAST_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4));
const MULTICAST_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8));

/// Source and destination address.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// The wanted table.
pub(crate) fn table<'a>(name: &'a str, bridge: &IfName, subnets: &[IpNet], masquerade: bool) -> Table<'a> {
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    let mut output = redirects();
    for rule in output.iter_mut().filter(|rule| rule[0] == Expression::Family(Family::V6)) {
        rule.insert(1, address(End::Destination, Comparison::Different, &LOOPBACK_V6));
    }
    let leaving = if masquerade { subnets.iter().map(leaving).collect() } else { Vec::new() };
    let returning = subnets.iter().map(returning).collect();
    let postrouting = [vec![from_loopback(bridge)], returning, leaving].concat();
    let chains = vec![
        chain("guard", ChainKind::Filter, Hook::Prerouting, PRIORITY_RAW, vec![to_loopback(bridge)]),
        chain("prerouting", ChainKind::Nat, Hook::Prerouting, PRIORITY_DSTNAT, redirects()),
        chain("output", ChainKind::Nat, Hook::Output, PRIORITY_DSTNAT, output),
        chain("postrouting", ChainKind::Nat, Hook::Postrouting, PRIORITY_SRCNAT, postrouting),
    ];
    Table { name, maps: MAPS.to_vec(), chains }
}

/// Leads ports of the host to pods. A map by address comes before the one for all of its family.
fn redirects() -> Vec<Rule> {
    let rule = |family, map, by_address| {
        vec![
            Expression::Family(family),
            Expression::ToThisHost,
            Expression::Redirect(Redirect { family, map, by_address }),
        ]
    };
    vec![
        rule(Family::V4, "ports4_at", true),
        rule(Family::V4, "ports4", false),
        rule(Family::V6, "ports6_at", true),
        rule(Family::V6, "ports6", false),
    ]
}

/// No pod may speak to the host's loopback.
fn to_loopback(bridge: &IfName) -> Rule {
    vec![
        Expression::CameBy(bridge.to_string()),
        Expression::Family(Family::V4),
        address(End::Destination, Comparison::Equal, &LOOPBACK_V4),
        Expression::Drop,
    ]
}

/// The host, speaking to its own loopback, is led to a pod.
fn from_loopback(bridge: &IfName) -> Rule {
    vec![
        Expression::LeavesBy(bridge.to_string()),
        Expression::Family(Family::V4),
        address(End::Source, Comparison::Equal, &LOOPBACK_V4),
        Expression::Masquerade,
    ]
}

/// A pod, speaking to the host, is led to one of its own subnet.
fn returning(subnet: &IpNet) -> Rule {
    vec![
        Expression::Family(Family::of(subnet.addr())),
        address(End::Source, Comparison::Equal, subnet),
        address(End::Destination, Comparison::Equal, subnet),
        Expression::Redirected,
        Expression::Masquerade,
    ]
}

/// A pod speaks to somebody beyond its subnet.
fn leaving(subnet: &IpNet) -> Rule {
    let multicast = match subnet {
        IpNet::V4(_) => MULTICAST_V4,
        IpNet::V6(_) => MULTICAST_V6,
    };
    vec![
        Expression::Family(Family::of(subnet.addr())),
        address(End::Source, Comparison::Equal, subnet),
        address(End::Destination, Comparison::Different, subnet),
        address(End::Destination, Comparison::Different, &multicast),
        Expression::Masquerade,
    ]
}

fn address(end: End, comparison: Comparison, net: &IpNet) -> Expression {
    let offset = match (net, end) {
        (IpNet::V4(_), End::Source) => 12,
        (IpNet::V4(_), End::Destination) => 16,
        (IpNet::V6(_), End::Source) => 8,
        (IpNet::V6(_), End::Destination) => 24,
    };
    let (mask, value) = (octets(net.netmask()), octets(net.network()));
    Expression::Header(HeaderMatch { offset, mask, comparison, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postrouting(masquerade: bool) -> Vec<Rule> {
        let subnets: Vec<IpNet> =
            ["10.88.0.0/16", "fd62::/64"].iter().map(|net| net.parse().unwrap()).collect();
        let bridge = IfName::new("berth0").unwrap();
        table("berth", &bridge, &subnets, masquerade).chains.pop().unwrap().rules
    }

    #[test]
    fn each_subnet_has_rules_of_its_family() {
        let rules = postrouting(true);
        let families: Vec<&Expression> = rules[1..].iter().map(|rule| &rule[0]).collect();
        let (v4, v6) = (Expression::Family(Family::V4), Expression::Family(Family::V6));
        assert_eq!(families, [&v4, &v6, &v4, &v6]);
        assert_eq!(
            rules[3][1],
            Expression::Header(HeaderMatch {
                offset: 12,
                mask: vec![255, 255, 0, 0],
                comparison: Comparison::Equal,
                value: vec![10, 88, 0, 0],
            })
        );
        assert_eq!(rules[4].last(), Some(&Expression::Masquerade));
    }

    #[test]
    fn without_masquerade_ports_of_the_host_still_lead_to_pods() {
        assert_eq!(postrouting(false), postrouting(true)[..3]);
    }
}
