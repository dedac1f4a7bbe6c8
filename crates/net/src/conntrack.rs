//! Known UDP flows that a change of a port mapping has made wrong, forgotten so that their next packet is looked at
//! anew.
//!
//! A rule that translates sees only the first packet of a flow; the others go the same way. TCP and SCTP end their
//! connections. A UDP flow lives on as long as its client goes on sending: to a pod that is gone, or past a mapping
//! that came after its first packet. Both kinds are listed with a filter that the kernel applies (since Linux 5.8;
//! before it sends all), looked at again here, and deleted one by one. A listing walks the whole table of flows, some
//! 20 ms, so there is one for all ports of a pod.
//!
//! Source: `linux/netfilter/nfnetlink_conntrack.h`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use crate::attributes::{Attributes, header};
use crate::error::NetlinkError;
use crate::netlink::{self, Batch, Mode, attribute};
use crate::nftables::Family;
use crate::ports::{Forward, Protocol, octets};

type Result<T> = std::result::Result<T, NetlinkError>;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const HEADER_BYTES: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const FILTER_ORIG: u16 = 1;
const FILTER_REPLY: u16 = 2;
const FILTER_IP_SOURCE: u32 = 1 << 0;
const FILTER_PROTO: u32 = 1 << 3;

/// Forgets the flows that these forwards have led to their targets, which are gone.
pub(crate) fn forget_translated(forwards: &[Forward]) -> Result<()> {
    let targets: BTreeSet<IpAddr> = udp(forwards).map(|forward| forward.target.ip()).collect();
    for ip in targets {
        let (family, target) = (Family::of(ip), octets(ip));
        let source = Attributes::new().bytes(ip_kinds(family).0, &target);
        let filter = Attributes::new()
            .nested(CTA_TUPLE_REPLY, Attributes::new().nested(CTA_TUPLE_IP, source))
            .nested(CTA_FILTER, Attributes::new().bytes(FILTER_REPLY, &FILTER_IP_SOURCE.to_ne_bytes()));
        forget(family, &filter, |flow| flow.reply.source == target && flow.original.destination != target)?;
    }
    Ok(())
}

/// Forgets the flows to ports of the host that began before these forwards and so pass them by.
pub(crate) fn forget_untranslated(forwards: &[Forward]) -> Result<()> {
    let protocol = Attributes::new().bytes(CTA_PROTO_NUM, &[Protocol::Udp as u8]);
    let filter = Attributes::new()
        .nested(CTA_TUPLE_ORIG, Attributes::new().nested(CTA_TUPLE_PROTO, protocol))
        .nested(CTA_FILTER, Attributes::new().bytes(FILTER_ORIG, &FILTER_PROTO.to_ne_bytes()));
    for family in [Family::V4, Family::V6] {
        let mapped = Mapped::by(forwards, family);
        if mapped.0.is_empty() {
            continue;
        }
        forget(family, &filter, |Flow { original, reply, .. }| {
            let untranslated = original.destination == reply.source && original.source == reply.destination;
            untranslated && mapped.contains(original)
        })?;
    }
    Ok(())
}

/// UDP ports of the host that are mapped, on one of its addresses or on all of them. The same port of two addresses may
/// lead to different places.
struct Mapped(BTreeSet<([u8; 2], Option<Vec<u8>>)>);

impl Mapped {
    fn by(forwards: &[Forward], family: Family) -> Self {
        let ours = udp(forwards).filter(|forward| forward.family() == family);
        Self(ours.map(|forward| (forward.host_port.to_be_bytes(), forward.host_ip.map(octets))).collect())
    }

    /// Whether a packet with these ends would be translated.
    fn contains(&self, tuple: &Tuple) -> bool {
        let hosts = [None, Some(tuple.destination.clone())];
        hosts.into_iter().any(|host| self.0.contains(&(tuple.destination_port, host)))
    }
}

fn udp(forwards: &[Forward]) -> impl Iterator<Item = &Forward> {
    forwards.iter().filter(|forward| forward.protocol == Protocol::Udp)
}

fn forget(family: Family, filter: &Attributes, wrong: impl Fn(&Flow) -> bool) -> Result<()> {
    let socket = netlink::open(NETLINK_NETFILTER)?;
    let mut list = Batch::default();
    list.encoded("list flows", GET, Mode::Dump, &[header(family as u8, 0), filter.0.clone()].concat());
    let told = list.send(socket.as_fd())?;
    for flow in told.iter().filter_map(|body| Flow::read(body, family)).filter(wrong) {
        let mut deletion = Batch::default();
        let tuple = Attributes::new().nested(CTA_TUPLE_ORIG, Attributes(flow.original_tuple));
        deletion.encoded("delete flow", DELETE, Mode::Plain, &[header(family as u8, 0), tuple.0].concat());
        match deletion.send(socket.as_fd()) {
            // It has ended by itself.
            Err(error) if error.refusal() == Some(Errno::NOENT) => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}

/// A UDP flow, in both directions.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    original: Tuple,
    reply: Tuple,
    /// As the kernel told it, which identifies the flow.
    original_tuple: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Tuple {
    source: Vec<u8>,
    destination: Vec<u8>,
    destination_port: [u8; 2],
}

impl Flow {
    /// `None` for what is not UDP of this family.
    fn read(body: &[u8], family: Family) -> Option<Self> {
        let attributes = body.get(HEADER_BYTES..)?;
        let original = attribute(attributes, CTA_TUPLE_ORIG)?;
        Some(Self {
            original: Tuple::read(original, family)?,
            reply: Tuple::read(attribute(attributes, CTA_TUPLE_REPLY)?, family)?,
            original_tuple: original.to_vec(),
        })
    }
}

impl Tuple {
    fn read(tuple: &[u8], family: Family) -> Option<Self> {
        let (ip, proto) = (attribute(tuple, CTA_TUPLE_IP)?, attribute(tuple, CTA_TUPLE_PROTO)?);
        if attribute(proto, CTA_PROTO_NUM)? != [Protocol::Udp as u8] {
            return None;
        }
        let (source, destination) = ip_kinds(family);
        Some(Self {
            source: attribute(ip, source)?.to_vec(),
            destination: attribute(ip, destination)?.to_vec(),
            destination_port: attribute(proto, CTA_PROTO_DST_PORT)?.try_into().ok()?,
        })
    }
}

/// The attributes of source and destination.
fn ip_kinds(family: Family) -> (u16, u16) {
    match family {
        Family::V4 => (1, 2),
        Family::V6 => (3, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_mapped_on_each_of_its_addresses() {
        let forward = |host_ip: Option<&str>, host_port, protocol| Forward {
            protocol,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            target: "10.88.0.2:53".parse().unwrap(),
        };
        let mapped = Mapped::by(
            &[
                forward(Some("192.0.2.1"), 53, Protocol::Udp),
                forward(Some("192.0.2.2"), 53, Protocol::Udp),
                forward(None, 54, Protocol::Udp),
                forward(None, 55, Protocol::Tcp),
            ],
            Family::V4,
        );
        for (host, port, expected) in [
            ([192, 0, 2, 1], 53, true),
            ([192, 0, 2, 2], 53, true),
            ([192, 0, 2, 3], 53, false),
            ([192, 0, 2, 3], 54, true),
            ([192, 0, 2, 3], 55, false),
        ] {
            let tuple =
                Tuple { source: vec![10, 0, 0, 1], destination: host.to_vec(), destination_port: [0, port] };
            assert_eq!(mapped.contains(&tuple), expected, "{host:?} {port}");
        }
    }

    #[test]
    fn a_flow_is_read_in_both_directions_and_others_are_not() {
        let tuple = |protocol: u8, from: [u8; 4], to: [u8; 4]| {
            let ip = Attributes::new().bytes(1, &from).bytes(2, &to);
            let proto = Attributes::new().bytes(1, &[protocol]).bytes(2, &[1, 2]).bytes(3, &[0, 53]);
            Attributes::new().nested(1, ip).nested(2, proto)
        };
        let body = |protocol| {
            let flow = Attributes::new()
                .nested(1, tuple(protocol, [10, 0, 0, 1], [192, 0, 2, 1]))
                .nested(2, tuple(protocol, [10, 88, 0, 2], [10, 0, 0, 1]));
            [header(2, 0), flow.0].concat()
        };
        let flow = Flow::read(&body(17), Family::V4).unwrap();
        assert_eq!(flow.original.destination, [192, 0, 2, 1]);
        assert_eq!((flow.reply.source, flow.original.destination_port), (vec![10, 88, 0, 2], [0, 53]));
        assert_eq!(flow.original_tuple, tuple(17, [10, 0, 0, 1], [192, 0, 2, 1]).0);
        assert_eq!(Flow::read(&body(6), Family::V4), None);
        assert_eq!(Flow::read(&body(17), Family::V6), None);
        for length in 0..body(17).len() {
            let _ = Flow::read(&body(17)[..length], Family::V4);
        }
    }
}
