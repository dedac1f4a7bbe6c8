//! Route-netlink messages: what we ask for, as plain values, and the few facts that we read of a link.
//!
//! Pure. The bodies of requests come from `netlink-packet-route`. Answers about links are read here,
//! attribute by attribute: a host's links may be of kinds and from kernels that a full parser refuses, and
//! a foreign link must never hide ours.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use crate::address::{gateway, mac_of};
use crate::name::IfName;
use crate::netlink::{attribute, number_of, text_of};

/// The loopback's index, in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;
/// What the pod's end of the veth pair is called.
pub const POD_IFNAME: &str = "eth0";

pub(crate) const LINK_HEADER_BYTES: usize = 16;
pub(crate) const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;

/// What we want to know of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) alias: Option<String>,
    /// `bridge`, `veth` and so on; a physical device has none.
    pub(crate) kind: Option<String>,
    /// Of a veth: the other end's index, in its own namespace.
    pub(crate) peer_index: Option<u32>,
    /// The bridge that it is a port of.
    pub(crate) controller: Option<u32>,
}

impl Link {
    /// Reads the body of an `RTM_NEWLINK`: a header of 16 bytes (index at 4, flags at 8), then attributes.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let number_at = |at: usize| number_of(body.get(at..at + 4)?);
        let attributes = body.get(LINK_HEADER_BYTES..)?;
        let text = |kind| attribute(attributes, kind).map(text_of);
        let info = attribute(attributes, IFLA_LINKINFO);
        Some(Self {
            index: number_at(4)?,
            name: text(IFLA_IFNAME)?,
            up: LinkFlags::from_bits_retain(number_at(8)?).contains(LinkFlags::Up),
            alias: text(IFLA_IFALIAS),
            kind: info.and_then(|info| attribute(info, IFLA_INFO_KIND)).map(text_of),
            peer_index: attribute(attributes, IFLA_LINK).and_then(number_of),
            controller: attribute(attributes, IFLA_MASTER).and_then(number_of),
        })
    }
}

/// A veth pair to be made.
pub struct VethPair<'a> {
    /// What the host's end is called.
    pub host_ifname: &'a IfName,
    /// The bridge that the host's end is to be a port of.
    pub bridge_index: u32,
    /// The pod's network namespace.
    pub netns: BorrowedFd<'a>,
    /// The pod's primary address, of which the MAC is made.
    pub address: Option<IpAddr>,
    /// Of both ends, in bytes; `None` for the kernel's default.
    pub mtu: Option<u32>,
}

/// Makes a pair whose one end is a port of the bridge and up, and whose other is `eth0` in the pod's namespace.
///
/// The pod's end is down: the kernel cannot bring it up before its peer, and both up would be a carrier at
/// once, by which the host's end gives itself an IPv6 address before [`claim_port`] can tell it not to.
pub fn create_veth(pair: &VethPair<'_>) -> RouteNetlinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes =
        vec![LinkAttribute::IfName(POD_IFNAME.into()), LinkAttribute::NetNsFd(pair.netns.as_raw_fd())];
    peer.attributes.extend(pair.address.map(|address| LinkAttribute::Address(mac_of(address))));
    peer.attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
    peer.attributes.extend(one_queue());
    let mut link = named(pair.host_ifname);
    mark_up(&mut link);
    link.attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
    link.attributes.extend(one_queue());
    link.attributes.push(LinkAttribute::Controller(pair.bridge_index));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    RouteNetlinkMessage::NewLink(link)
}

/// Makes a bridge with a MAC address of its own; down.
pub fn create_bridge(name: &IfName, address: IpAddr) -> RouteNetlinkMessage {
    let mut link = named(name);
    link.attributes.push(LinkAttribute::Address(mac_of(address)));
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    RouteNetlinkMessage::NewLink(link)
}

/// Marks a link as ours. The kernel takes no alias while it makes a link, so this is a request of its own.
pub(crate) fn set_alias(name: &IfName, alias: &str) -> RouteNetlinkMessage {
    let mut link = named(name);
    link.attributes.push(LinkAttribute::IfAlias(alias.into()));
    RouteNetlinkMessage::SetLink(link)
}

/// Marks a link as ours, and has it make no IPv6 address for itself: the bridge will speak for all its ports.
///
/// To be done before the link has a carrier; the kernel heeds neither while it makes a link.
/// A host that has no IPv6 at all (`has_ipv6`) refuses the second.
pub(crate) fn claim_port(name: &IfName, alias: &str, has_ipv6: bool) -> RouteNetlinkMessage {
    let mut link = named(name);
    link.attributes.push(LinkAttribute::IfAlias(alias.into()));
    link.attributes.extend(has_ipv6.then(no_own_ipv6_address));
    RouteNetlinkMessage::SetLink(link)
}

/// Has a link make no IPv6 address for itself, where the network has none to give. The kernel would tell all other pods
/// of each such address, several times: many pods made each start slower.
pub fn keep_off_ipv6(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(no_own_ipv6_address());
    RouteNetlinkMessage::SetLink(link)
}

/// Brings a link up, and gives it an MTU where one is wanted.
pub fn set_up(index: u32, mtu: Option<u32>) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.extend(mtu.map(LinkAttribute::Mtu));
    mark_up(&mut link);
    RouteNetlinkMessage::SetLink(link)
}

/// Makes a link a port of a bridge.
pub(crate) fn set_controller(index: u32, bridge_index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::Controller(bridge_index));
    RouteNetlinkMessage::SetLink(link)
}

/// Lets a bridge's port send a packet back out by which it came in.
///
/// Where the machine has the bridge's packets filtered as routed ones (`bridge-nf-call-iptables`), a packet that
/// is led to another address of the same bridge is not routed but bridged. One that a pod sends to a port of
/// the host which leads to the pod itself goes back by its own port.
pub(crate) fn allow_hairpin(name: &IfName) -> RouteNetlinkMessage {
    let mut link = named(name);
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
    ]));
    RouteNetlinkMessage::NewLink(link)
}

/// Asks for one link.
pub(crate) fn get_link(name: &IfName) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(named(name))
}

/// Has the kernel finish what a change of carrier started.
///
/// A link that gains a carrier passes packets only after a worker of the kernel has noticed; until then they
/// are dropped, and a lost ARP request costs a second. Being asked for the link, the kernel does that
/// worker's part first (`linkwatch_sync_dev` in `rtnl_getlink`, since Linux 6.8; before, this does nothing).
pub(crate) fn settle_carrier(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    RouteNetlinkMessage::GetLink(link)
}

/// Asks for all links, with [`Mode::Dump`](crate::netlink::Mode::Dump).
pub(crate) fn list_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Removes a link; with one end of a veth pair goes the other.
pub fn delete_link(name: &IfName) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(named(name))
}

/// Gives a link an address, usable at once: duplicate address detection would take a second.
pub fn add_address(index: u32, address: IpAddr, subnet: &IpNet) -> RouteNetlinkMessage {
    let mut message = address_message(index, address, subnet.prefix_len());
    message.header.flags = AddressHeaderFlags::Nodad;
    if let IpNet::V4(net) = subnet {
        message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// Takes an address from a link.
pub(crate) fn delete_address(index: u32, address: IpNet) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address_message(index, address.addr(), address.prefix_len()))
}

/// Asks for all addresses of all links, with [`Mode::Dump`](crate::netlink::Mode::Dump).
pub(crate) fn list_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// The route of everything outside the subnet, by its gateway.
pub fn default_route(index: u32, subnet: &IpNet) -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    let gateway = gateway(subnet);
    route.header.address_family = family(gateway);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
    RouteNetlinkMessage::NewRoute(route)
}

/// What a veth ends up with. Not asked for, the kernel makes a queue for each processor that could ever be there and then
/// puts all but one out of use, for which it waits until no processor sends (`veth_init_queues`).
fn one_queue() -> [LinkAttribute; 2] {
    [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)]
}

fn no_own_ipv6_address() -> LinkAttribute {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])
}

fn named(name: &IfName) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.as_str().into()));
    link
}

fn mark_up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

fn address_message(index: u32, address: IpAddr, prefix_bits: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_bits;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkSerializable;

    fn body_of(message: &RouteNetlinkMessage) -> Vec<u8> {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        body
    }

    #[test]
    fn link_is_read_from_what_the_kernel_would_send() {
        let mut link = named(&IfName::new("bth0").unwrap());
        link.header.index = 7;
        mark_up(&mut link);
        link.attributes.push(LinkAttribute::IfAlias("berth:berth0:pod:x".into()));
        link.attributes.push(LinkAttribute::Link(2));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]));
        let expected = Link {
            index: 7,
            name: "bth0".into(),
            up: true,
            alias: Some("berth:berth0:pod:x".into()),
            kind: Some("veth".into()),
            peer_index: Some(2),
            controller: None,
        };
        assert_eq!(Link::read(&body_of(&RouteNetlinkMessage::NewLink(link))), Some(expected));
    }

    #[test]
    fn cut_off_link_is_no_link() {
        let body = body_of(&get_link(&IfName::new("bth0").unwrap()));
        assert!(Link::read(&body).is_some());
        for length in 0..20 {
            assert_eq!(Link::read(&body[..length]), None, "{length}");
        }
    }
}
