//! What our nftables table holds: masquerade for what leaves a pod subnet.
//!
//! Pure: settings in, wanted table out. For each subnet one rule, in nftables' own words:
//!
//! ```text
//! ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 ip daddr != 224.0.0.0/4 masquerade
//! ```
//!
//! Multicast keeps its source: answers to it are addressed by what its sender writes into it. There is no
//! chain that accepts forwarded packets, as it would have no effect (see the crate's documentation).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::nftables::{Comparison, Expression, HeaderMatch, Rule, Table};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Source and destination address.
#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// The wanted table; without masquerade it is there and empty.
pub(crate) fn table<'a>(name: &'a str, subnets: &[IpNet], masquerade: bool) -> Table<'a> {
    let postrouting = if masquerade { subnets.iter().map(masquerade_rule).collect() } else { Vec::new() };
    Table { name, postrouting }
}

fn masquerade_rule(subnet: &IpNet) -> Rule {
    let (family, multicast) = match subnet {
        IpNet::V4(_) => (NFPROTO_IPV4, IpNet::V4(Ipv4Net::new_assert([224, 0, 0, 0].into(), 4))),
        IpNet::V6(_) => {
            (NFPROTO_IPV6, IpNet::V6(Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8)))
        }
    };
    vec![
        Expression::Family(family),
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
    let (mask, value) = (bytes(net.netmask()), bytes(net.network()));
    Expression::Header(HeaderMatch { offset, mask, comparison, value })
}

fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn each_subnet_has_a_rule_of_its_family() {
        let wanted = table("berth", &nets(&["10.88.0.0/16", "fd62::/64"]), true);
        let families: Vec<&Expression> = wanted.postrouting.iter().map(|rule| &rule[0]).collect();
        assert_eq!(families, [&Expression::Family(2), &Expression::Family(10)]);
        assert_eq!(
            wanted.postrouting[0][1],
            Expression::Header(HeaderMatch {
                offset: 12,
                mask: vec![255, 255, 0, 0],
                comparison: Comparison::Equal,
                value: vec![10, 88, 0, 0],
            })
        );
        assert_eq!(wanted.postrouting[1].last(), Some(&Expression::Masquerade));
    }

    #[test]
    fn without_masquerade_the_table_is_empty() {
        assert_eq!(table("berth", &nets(&["10.88.0.0/16"]), false).postrouting, Vec::<Rule>::new());
    }
}
