//! Subnets and addresses: which address of a subnet is whose, and what is derived from an address.
//!
//! Pure arithmetic. In each subnet the first address after the network's own is the gateway, which the
//! bridge carries; the pods have the rest, without the broadcast address.

use std::fmt;
use std::net::IpAddr;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The addresses of one pod, at most one of each family; the first is the pod's primary address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodAddresses(Vec<IpAddr>);

impl PodAddresses {
    /// The address that a client is shown as the pod's IP; the others are additional.
    pub fn primary(&self) -> Option<IpAddr> {
        self.0.first().copied()
    }

    /// All addresses, the primary one first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<IpAddr> for PodAddresses {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        Self(addresses.into_iter().collect())
    }
}

impl fmt::Display for PodAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.iter().map(|ip| ip.to_string()).collect();
        f.write_str(&texts.join(","))
    }
}

/// The gateway of a subnet: the first address after the network's own.
pub(crate) fn gateway(subnet: &IpNet) -> IpAddr {
    offset(subnet.network(), 1)
}

/// The lowest and the highest address that a pod may have; the lowest is above the highest where there is none.
pub(crate) fn pod_range(subnet: &IpNet) -> (IpAddr, IpAddr) {
    let last = match subnet {
        // The highest IPv4 address is the broadcast address.
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from_bits(net.broadcast().to_bits().saturating_sub(1))),
        IpNet::V6(net) => IpAddr::V6(net.broadcast()),
    };
    (offset(subnet.network(), 2), last)
}

/// Whether two subnets have an address in common.
pub(crate) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// The address `by` places after `ip`, staying at the end of the family's space rather than wrapping.
pub(crate) fn offset(ip: IpAddr, by: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits().saturating_add(by))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits().saturating_add(by.into()))),
    }
}

/// A locally administered MAC address made of the last four bytes of `ip`.
///
/// An address that moves to another pod so keeps its MAC, and the neighbours' caches stay right. The bridge
/// needs a fixed one too: left alone it takes the lowest MAC among its ports, which changes as pods come and
/// go, and the pods' neighbour entry of their gateway would be wrong each time.
/// Source: `0a:58` is the prefix that the CNI bridge plugin uses for the same purpose.
pub(crate) fn mac_of(ip: IpAddr) -> Vec<u8> {
    let tail = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets()[12..].to_vec(),
    };
    [vec![0x0a, 0x58], tail].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnet_is_divided_into_gateway_and_pods() {
        let check = |subnet: &str, expected: [&str; 3]| {
            let subnet: IpNet = subnet.parse().unwrap();
            let (first, last) = pod_range(&subnet);
            let found = [gateway(&subnet), first, last].map(|ip| ip.to_string());
            assert_eq!(found, expected, "{subnet}");
        };
        check("10.88.0.0/16", ["10.88.0.1", "10.88.0.2", "10.88.255.254"]);
        check("192.168.7.8/30", ["192.168.7.9", "192.168.7.10", "192.168.7.10"]);
        check("fd62::/64", ["fd62::1", "fd62::2", "fd62::ffff:ffff:ffff:ffff"]);
        check("fd62::/126", ["fd62::1", "fd62::2", "fd62::3"]);
        // Too small for a pod: the range is empty.
        check("10.0.0.0/31", ["10.0.0.1", "10.0.0.2", "10.0.0.0"]);
        check("255.255.255.255/32", ["255.255.255.255", "255.255.255.255", "255.255.255.254"]);
    }

    #[test]
    fn mac_is_derived_from_the_address() {
        assert_eq!(mac_of("10.88.1.2".parse().unwrap()), [0x0a, 0x58, 10, 88, 1, 2]);
        assert_eq!(mac_of("fd62::1:2".parse().unwrap()), [0x0a, 0x58, 0, 1, 0, 2]);
    }
}
