//! Ports of the host that lead to pods: what was asked for, who holds which, and the elements of the maps.
//!
//! Pure, like the address pool: the caller keeps a pod's mappings in the pod's own record, claims them before it makes
//! anything of the pod, and hands recorded ones back at start. Two pods cannot have a port of one protocol on addresses
//! that overlap; `0.0.0.0` and `::` overlap with every address of their family, and no address at all with everything.
//!
//! ```text
//! ip . protocol . port -> ip . port     mappings with one address of the host's
//!      protocol . port -> ip . port     mappings for all of them
//! ```
//! Both exist for each family; a lookup costs the same however many ports are mapped. The protocol is part of the key,
//! so TCP, UDP and SCTP share a map. A mapping for one address comes before one of the same pod's for all.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::PodAddresses;
use crate::error::{Error, Result};
use crate::nftables::{Element, Family, Field, Map};

/// The maps, for each family the one by address and the one for all addresses.
pub(crate) const MAPS: [Map; 4] = [
    Map { name: "ports4_at", key: &[Field::Address4, Field::Protocol, Field::Port], value: TARGET4 },
    Map { name: "ports4", key: &[Field::Protocol, Field::Port], value: TARGET4 },
    Map { name: "ports6_at", key: &[Field::Address6, Field::Protocol, Field::Port], value: TARGET6 },
    Map { name: "ports6", key: &[Field::Protocol, Field::Port], value: TARGET6 },
];
const TARGET4: &[Field] = &[Field::Address4, Field::Port];
const TARGET6: &[Field] = &[Field::Address6, Field::Port];

/// What a port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293
    Tcp = 6,
    /// RFC 768
    Udp = 17,
    /// RFC 9260
    Sctp = 132,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host's that leads to a port of a pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Of both ports.
    pub protocol: Protocol,
    /// Where it leads; not zero.
    pub container_port: u16,
    /// Where it begins; not zero.
    pub host_port: u16,
    /// The host's address on which it does; an unspecified one stands for all of its family, `None` for all.
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Whether some packet would be meant by both.
    fn overlaps(&self, other: &Self) -> bool {
        if (self.protocol, self.host_port) != (other.protocol, other.host_port) {
            return false;
        }
        match (self.host_ip, other.host_ip) {
            (None, _) | (_, None) => true,
            (Some(one), Some(other)) => {
                let same_family = one.is_ipv4() == other.is_ipv4();
                same_family && (one == other || one.is_unspecified() || other.is_unspecified())
            }
        }
    }

    /// The one address of the host's that it is for; `None` for all, whether of one family or of both.
    fn host_address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether both would be the same element of a map, with different values.
    fn contradicts(&self, other: &Self) -> bool {
        self.overlaps(other)
            && self.host_address() == other.host_address()
            && self.container_port != other.container_port
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{}/{}", SocketAddr::new(ip, self.host_port), self.protocol),
            None => write!(f, "{}/{}", self.host_port, self.protocol),
        }
    }
}

/// Which pod holds which ports of the host.
#[derive(Debug, Default)]
pub struct PortClaims {
    by_owner: HashMap<String, Vec<PortMapping>>,
    holders: HashMap<(Protocol, u16), Vec<String>>,
}

impl PortClaims {
    /// Gives the owner these ports, in place of those that it has.
    ///
    /// Errors: exists, when another owner holds one on an overlapping address; invalid, when two of the mappings mean
    /// the same port of the same address and lead to different places. Nothing is changed then.
    pub fn claim(&mut self, owner: &str, mappings: &[PortMapping]) -> Result<()> {
        for (index, mapping) in mappings.iter().enumerate() {
            if mappings[..index].iter().any(|other| other.contradicts(mapping)) {
                return Err(Error::PortTwice { mapping: *mapping });
            }
            if let Some(holder) = self.holder_beside(owner, mapping) {
                return Err(Error::PortTaken { mapping: *mapping, holder: holder.to_owned() });
            }
        }
        self.release(owner);
        if !mappings.is_empty() {
            for mapping in mappings {
                let holders = self.holders.entry((mapping.protocol, mapping.host_port)).or_default();
                holders.push(owner.to_owned());
            }
            self.by_owner.insert(owner.to_owned(), mappings.to_vec());
        }
        Ok(())
    }

    /// Takes the owner's ports back; an owner that has none is fine.
    pub fn release(&mut self, owner: &str) {
        for mapping in self.by_owner.remove(owner).unwrap_or_default() {
            let port = (mapping.protocol, mapping.host_port);
            if let Some(holders) = self.holders.get_mut(&port) {
                holders.retain(|holder| holder != owner);
                if holders.is_empty() {
                    self.holders.remove(&port);
                }
            }
        }
    }

    /// Whether the owner holds any port.
    pub fn has(&self, owner: &str) -> bool {
        self.by_owner.contains_key(owner)
    }

    /// Who else holds the port of the mapping.
    fn holder_beside(&self, owner: &str, mapping: &PortMapping) -> Option<&str> {
        let holders = self.holders.get(&(mapping.protocol, mapping.host_port))?;
        let holds = |holder: &&String| {
            *holder != owner
                && self
                    .by_owner
                    .get(*holder)
                    .is_some_and(|held| held.iter().any(|held| held.overlaps(mapping)))
        };
        holders.iter().find(holds).map(String::as_str)
    }
}

/// One way from the host to a pod, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Forward {
    pub(crate) protocol: Protocol,
    /// `None` for all of the host's addresses of the target's family.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) host_port: u16,
    pub(crate) target: SocketAddr,
}

impl Forward {
    /// All that a pod's mappings come to with its addresses.
    ///
    /// Errors: invalid, for a mapping on an address of a family that the pod has none of.
    pub fn all(mappings: &[PortMapping], addresses: &PodAddresses) -> Result<Vec<Self>> {
        let mut forwards = Vec::new();
        for mapping in mappings {
            let meant = |ip: &IpAddr| mapping.host_ip.is_none_or(|host| host.is_ipv4() == ip.is_ipv4());
            let before = forwards.len();
            forwards.extend(addresses.iter().filter(meant).map(|ip| Self {
                protocol: mapping.protocol,
                host_ip: mapping.host_address(),
                host_port: mapping.host_port,
                target: SocketAddr::new(ip, mapping.container_port),
            }));
            if forwards.len() == before {
                return Err(Error::PortUnreachable { mapping: *mapping, addresses: addresses.to_string() });
            }
        }
        Ok(forwards)
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.target.ip())
    }

    /// The element that makes it work.
    pub(crate) fn element(&self) -> Element {
        let map = match (self.family(), self.host_ip) {
            (Family::V4, Some(_)) => "ports4_at",
            (Family::V4, None) => "ports4",
            (Family::V6, Some(_)) => "ports6_at",
            (Family::V6, None) => "ports6",
        };
        let mut key = self.host_ip.map(octets).unwrap_or_default();
        key.extend([self.protocol as u8, 0, 0, 0]);
        key.extend(padded(self.host_port));
        let mut value = octets(self.target.ip());
        value.extend(padded(self.target.port()));
        Element { map, key, value }
    }
}

impl Forward {
    /// What an element of one of the maps does; `None` for bytes that make no sense there.
    pub(crate) fn from_element(element: &Element) -> Option<Self> {
        let Element { map, key, value } = element;
        let map = MAPS.iter().find(|known| known.name == *map)?;
        let (key, host_ip) = match map.key.len() {
            2 => (&key[..], None),
            _ => {
                let (ip, rest) = split_address(key, map.value == TARGET4)?;
                (rest, Some(ip))
            }
        };
        let (ip, port) = split_address(value, map.value == TARGET4)?;
        let protocol = match key.first()? {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            _ => return None,
        };
        let host_port = port_in(key.get(4..)?)?;
        Some(Self { protocol, host_ip, host_port, target: SocketAddr::new(ip, port_in(port)?) })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, host_ip, host_port, target } = self;
        match host_ip {
            Some(ip) => write!(f, "{}/{protocol} to {target}", SocketAddr::new(*ip, *host_port)),
            None => write!(f, "{host_port}/{protocol} to {target}"),
        }
    }
}

fn split_address(bytes: &[u8], is_ipv4: bool) -> Option<(IpAddr, &[u8])> {
    if is_ipv4 {
        let (ip, rest) = bytes.split_first_chunk::<4>()?;
        Some((IpAddr::from(*ip), rest))
    } else {
        let (ip, rest) = bytes.split_first_chunk::<16>()?;
        Some((IpAddr::from(*ip), rest))
    }
}

fn port_in(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk::<2>()?))
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::ErrorKind;

    #[test]
    fn an_element_is_read_back_as_the_forward_that_made_it() {
        let check = |host_ip: Option<&str>, target: &str, shown: &str| {
            let forward = Forward {
                protocol: Protocol::Udp,
                host_ip: host_ip.map(|ip| ip.parse().unwrap()),
                host_port: 8053,
                target: target.parse().unwrap(),
            };
            assert_eq!(Forward::from_element(&forward.element()), Some(forward));
            assert_eq!(forward.to_string(), shown);
            let Element { map, key, value } = forward.element();
            for length in 0..key.len() {
                Forward::from_element(&Element { map, key: key[..length].to_vec(), value: value.clone() });
            }
        };
        check(None, "10.88.0.2:53", "8053/udp to 10.88.0.2:53");
        check(Some("192.0.2.1"), "10.88.0.2:53", "192.0.2.1:8053/udp to 10.88.0.2:53");
        check(None, "[fd62::2]:53", "8053/udp to [fd62::2]:53");
        check(Some("2001:db8::1"), "[fd62::2]:53", "[2001:db8::1]:8053/udp to [fd62::2]:53");
    }

    fn mapping(host_ip: &str, host_port: u16) -> PortMapping {
        let host_ip = (!host_ip.is_empty()).then(|| host_ip.parse().unwrap());
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
    }

    fn addresses(texts: &[&str]) -> PodAddresses {
        texts.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect()
    }

    #[test]
    fn what_an_owner_has_does_not_hide_what_others_have() {
        let mut claims = PortClaims::default();
        claims.claim("a", &[mapping("10.0.0.1", 80)]).unwrap();
        claims.claim("b", &[mapping("10.0.0.2", 80)]).unwrap();
        assert!(matches!(claims.claim("a", &[mapping("", 80)]), Err(Error::PortTaken { .. })));
        claims.release("b");
        claims.claim("a", &[mapping("", 80)]).unwrap();
    }

    #[test]
    fn a_port_has_one_holder_on_each_address() {
        let check = |held: &str, wanted: &str, free: bool| {
            let mut claims = PortClaims::default();
            claims.claim("a", &[mapping(held, 80)]).unwrap();
            assert_eq!(claims.claim("b", &[mapping(wanted, 80)]).is_ok(), free, "{held} and {wanted}");
            claims.claim("b", &[mapping(wanted, 81)]).unwrap();
            let udp = PortMapping { protocol: Protocol::Udp, ..mapping(wanted, 80) };
            claims.claim("c", &[udp]).unwrap();
            claims.release("a");
            claims.release("a");
            claims.claim("b", &[mapping(wanted, 80)]).unwrap();
        };
        for (held, wanted, free) in [
            ("", "", false),
            ("", "::", false),
            ("0.0.0.0", "10.0.0.1", false),
            ("10.0.0.1", "0.0.0.0", false),
            ("10.0.0.1", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.2", true),
            ("0.0.0.0", "::", true),
            ("::1", "127.0.0.1", true),
        ] {
            check(held, wanted, free);
        }
    }

    #[test]
    fn a_refused_claim_names_the_port_and_its_holder_and_changes_nothing() {
        let mut claims = PortClaims::default();
        claims.claim("a", &[mapping("", 80)]).unwrap();
        claims.claim("b", &[mapping("", 90)]).unwrap();
        let error = claims.claim("b", &[mapping("", 91), mapping("10.0.0.1", 80)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert_eq!(error.to_string(), "claim host port 10.0.0.1:80/tcp: pod a has it");
        assert!(claims.claim("c", &[mapping("", 90)]).is_err());
        claims.claim("c", &[mapping("", 91)]).unwrap();
        assert!(claims.has("c") && !claims.has("d"));
    }

    #[test]
    fn one_pod_may_say_the_same_twice_but_not_two_things() {
        let check = |first: &str, second: &str, fits: bool| {
            let mut claims = PortClaims::default();
            claims.claim("a", &[mapping(first, 80), mapping(second, 80)]).unwrap();
            let other = PortMapping { container_port: 81, ..mapping(second, 80) };
            let claimed = claims.claim("a", &[mapping(first, 80), other]);
            assert_eq!(claimed.is_ok(), fits, "{first} and {second}");
            if let Err(error) = claimed {
                let text = format!("claim host port {other}: the same pod leads it to two places");
                assert_eq!((error.kind(), error.to_string()), (ErrorKind::Invalid, text));
            }
        };
        for (first, second, fits) in [
            ("", "", false),
            ("", "0.0.0.0", false),
            ("::", "", false),
            ("0.0.0.0", "0.0.0.0", false),
            ("10.0.0.1", "10.0.0.1", false),
            ("0.0.0.0", "::", true),
            ("", "10.0.0.1", true),
            ("10.0.0.1", "0.0.0.0", true),
        ] {
            check(first, second, fits);
        }
    }

    #[test]
    fn forwards_are_of_the_families_that_host_and_pod_share() {
        let check = |host_ip: &str, pod: &[&str], expected: &[&str]| {
            let forwards = Forward::all(&[mapping(host_ip, 8080)], &addresses(pod)).unwrap();
            let found: Vec<_> =
                forwards.iter().map(|f| format!("{} {}", f.element().map, f.target)).collect();
            assert_eq!(found, expected, "{host_ip}");
        };
        let both = &["10.88.0.2", "fd62::2"];
        check("", both, &["ports4 10.88.0.2:80", "ports6 [fd62::2]:80"]);
        check("0.0.0.0", both, &["ports4 10.88.0.2:80"]);
        check("::", both, &["ports6 [fd62::2]:80"]);
        check("192.0.2.1", both, &["ports4_at 10.88.0.2:80"]);
        check("2001:db8::1", both, &["ports6_at [fd62::2]:80"]);
        check("", &["10.88.0.2"], &["ports4 10.88.0.2:80"]);
        let error = Forward::all(&[mapping("::", 80)], &addresses(&["10.88.0.2"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "lead host port [::]:80/tcp to pod: it has no address of that family, only 10.88.0.2"
        );
    }

    #[test]
    fn an_element_has_its_fields_in_the_order_of_its_map() {
        let forwards = Forward::all(&[mapping("192.0.2.1", 8080)], &addresses(&["10.88.0.2"])).unwrap();
        let element = forwards[0].element();
        assert_eq!(element.key, [192, 0, 2, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(element.value, [10, 88, 0, 2, 0, 80, 0, 0]);
    }
}
