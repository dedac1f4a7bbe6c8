//! Ports of the host that lead to a pod: CRI `PortMapping` to [`berth_net::PortMapping`].
//!
//! A mapping without a host port is none: it only says what the container listens on. A pod on the host's network has
//! the host's ports anyway, so that its mappings are looked at and left out.

use std::net::{IpAddr, Ipv6Addr};

use berth_cri_proto::v1::{self, Protocol};
use berth_monitor::plan::Sharing;
use berth_net::PortMapping;

use super::{Refusal, Result, check};

/// Reads all mappings of a request.
pub(crate) fn ports_from(mappings: &[v1::PortMapping], net: Sharing) -> Result<Vec<PortMapping>> {
    let mut ports = Vec::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let port =
            port_from(mapping).map_err(|refusal| refusal.within(&format!("port_mappings[{index}]")))?;
        ports.extend(port.filter(|_| net == Sharing::Own));
    }
    Ok(ports)
}

fn port_from(mapping: &v1::PortMapping) -> Result<Option<PortMapping>> {
    let protocol = match check::enumeration("protocol", mapping.protocol)? {
        Protocol::Tcp => berth_net::Protocol::Tcp,
        Protocol::Udp => berth_net::Protocol::Udp,
        Protocol::Sctp => berth_net::Protocol::Sctp,
    };
    let port = |field: &str, value: i32| {
        u16::try_from(value).map_err(|_| Refusal::invalid(field, value, "is no port: those are 1 to 65535"))
    };
    let host_port = port("host_port", mapping.host_port)?;
    let container_port = port("container_port", mapping.container_port)?;
    let host_ip = host_ip_from(&mapping.host_ip)?;
    if host_port == 0 {
        return Ok(None);
    }
    if container_port == 0 {
        return Err(Refusal::invalid("container_port", 0, "is no port: those are 1 to 65535"));
    }
    Ok(Some(PortMapping { protocol, container_port, host_port, host_ip }))
}

/// An empty text stands for all addresses of both families.
fn host_ip_from(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let ip: IpAddr = text.parse().map_err(|_| Refusal::invalid("host_ip", text, "is no IP address"))?;
    let ip = ip.to_canonical();
    if ip.is_multicast() {
        return Err(Refusal::invalid("host_ip", text, "is no address that a host can have"));
    }
    // The kernel does not let it leave the loopback, whatever the rules say.
    if ip == Ipv6Addr::LOCALHOST {
        return Err(Refusal::invalid(
            "host_ip",
            text,
            "cannot lead to a pod: IPv6 keeps its loopback to itself",
        ));
    }
    Ok(Some(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_port: i32, container_port: i32) -> v1::PortMapping {
        v1::PortMapping { protocol: 1, container_port, host_port, host_ip: host_ip.into() }
    }

    #[test]
    fn mappings_are_read_with_their_addresses() {
        let check = |host_ip: &str, want: &str| {
            let ports = ports_from(&[mapping(host_ip, 5353, 53)], Sharing::Own).unwrap();
            assert_eq!((ports[0].to_string().as_str(), ports[0].container_port), (want, 53));
        };
        check("", "5353/udp");
        check("0.0.0.0", "0.0.0.0:5353/udp");
        check("::", "[::]:5353/udp");
        check("127.0.0.1", "127.0.0.1:5353/udp");
        check("::ffff:192.0.2.1", "192.0.2.1:5353/udp");
    }

    #[test]
    fn what_needs_no_mapping_has_none() {
        assert_eq!(ports_from(&[mapping("", 0, 80), mapping("", 0, 0)], Sharing::Own), Ok(vec![]));
        assert_eq!(ports_from(&[mapping("", 80, 80)], Sharing::Host), Ok(vec![]));
    }

    #[test]
    fn nonsense_is_named() {
        let check = |mapping: v1::PortMapping, want: &str| {
            for net in [Sharing::Own, Sharing::Host] {
                let text = ports_from(std::slice::from_ref(&mapping), net).unwrap_err().to_string();
                assert_eq!(text, format!("port_mappings[0].{want}"));
            }
        };
        check(mapping("", 70000, 80), "host_port: 70000 is no port: those are 1 to 65535");
        check(mapping("", 80, -1), "container_port: -1 is no port: those are 1 to 65535");
        check(mapping("", 80, 0), "container_port: 0 is no port: those are 1 to 65535");
        check(mapping("localhost", 80, 80), "host_ip: \"localhost\" is no IP address");
        check(mapping("224.0.0.1", 80, 80), "host_ip: \"224.0.0.1\" is no address that a host can have");
        check(
            mapping("::1", 80, 80),
            "host_ip: \"::1\" cannot lead to a pod: IPv6 keeps its loopback to itself",
        );
        check(
            v1::PortMapping { protocol: 7, ..mapping("", 80, 80) },
            "protocol: 7 is no value of this enumeration",
        );
    }
}
