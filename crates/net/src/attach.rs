//! One pod joins the network: a batch in the host's namespace, a batch in the pod's.
//!
//! ```text
//! host's socket:  make veth pair, one end in the pod, the other in the bridge · mark it as ours · look up
//! pod's socket:   loopback up · eth0 up, with IPv6 where the pod has such an address · addresses · default routes
//! host's socket:  settle port · settle bridge
//! ```
//!
//! `eth0` is born in the pod's namespace; a link that is moved there costs more and is in the wrong place
//! for a moment. It comes up last, which gives both ends their carrier; settling makes sure that the port,
//! and with the first pod the bridge, pass packets by the time that the attach returns.
//!
//! If a step fails, removing the host's end removes all: the addresses and routes go with `eth0`. The pod's
//! loopback stays up, which harms nothing.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use berth_fault::point;
use berth_store::with_causes;
use ipnet::IpNet;

use crate::address::PodAddresses;
use crate::error::{Error, NetlinkError, Result};
use crate::host::HostLinks;
use crate::link::{self, LOOPBACK_INDEX, Link, VethPair};
use crate::name::IfName;
use crate::netlink::{Batch, Mode};
use crate::sysctl;

/// A pod to be attached.
#[derive(Debug, Clone, Copy)]
pub struct Attachment<'a> {
    /// The pod's id, which the link's alias tells.
    pub pod_id: &'a str,
    /// The pod's network namespace, as opened from `/proc/PID/ns/net`.
    pub netns: BorrowedFd<'a>,
    /// A `NETLINK_ROUTE` socket that was opened in that namespace, used by no other call meanwhile.
    pub pod_socket: BorrowedFd<'a>,
    /// The name of the host's end; see [`IfName::from_pod_id`].
    pub host_ifname: &'a IfName,
    /// The pod's addresses, leased from an [`AddressPool`](crate::AddressPool) of the network's subnets.
    pub addresses: &'a PodAddresses,
}

/// What became of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// The host's end of the veth pair, as an index in the host's namespace.
    pub host_index: u32,
    /// `eth0`, as an index in the pod's namespace.
    pub pod_index: u32,
}

/// Brings up the loopback of the namespace in which the netlink socket was opened, with `127.0.0.1` and `::1`.
///
/// Part of [`Network::attach`](crate::Network::attach); on its own it is for pods without a network.
pub fn up_loopback(pod_socket: BorrowedFd<'_>) -> Result<()> {
    with_loopback(Batch::default()).send(pod_socket).map_err(Error::Loopback)?;
    Ok(())
}

/// An attachment with all that the network adds: nothing is left to decide.
pub(crate) struct Wiring<'a> {
    pub(crate) attachment: &'a Attachment<'a>,
    pub(crate) alias: String,
    pub(crate) addresses: Vec<(IpAddr, IpNet)>,
    pub(crate) mtu: Option<u32>,
    /// Whether the kernel knows IPv6.
    pub(crate) has_ipv6: bool,
}

impl<'a> Wiring<'a> {
    /// Finds each address's subnet.
    ///
    /// Errors: invalid, for an address that is in none.
    pub(crate) fn new(
        attachment: &'a Attachment<'a>,
        bridge: &IfName,
        subnets: &[IpNet],
        mtu: Option<u32>,
    ) -> Result<Self> {
        let with_subnet = |address: IpAddr| match subnets.iter().find(|net| net.contains(&address)) {
            Some(subnet) => Ok((address, *subnet)),
            None => Err(Error::AddressOutside { pod_id: attachment.pod_id.into(), address }),
        };
        let addresses = attachment.addresses.iter().map(with_subnet).collect::<Result<_>>()?;
        let (alias, has_ipv6) = (bridge.pod_alias(attachment.pod_id), sysctl::has_ipv6());
        Ok(Self { attachment, alias, addresses, mtu, has_ipv6 })
    }

    /// Makes the pair and configures the pod's end.
    ///
    /// Errors: whatever step fails, the pair is gone when this returns; a pair of the same name that was
    /// there before is left.
    pub(crate) fn connect(
        &self,
        host: &HostLinks,
        bridge_index: u32,
    ) -> std::result::Result<Attached, NetlinkError> {
        let attached = self.make_pair(host, bridge_index)?;
        let settle = Batch::default()
            .route("settle bridge port", Mode::Plain, &link::settle_carrier(attached.host_index))
            .route("settle bridge", Mode::Plain, &link::settle_carrier(bridge_index));
        let configured = point!("configure the pod's link")
            .pass()
            .map_err(NetlinkError::from)
            .and_then(|()| self.pod_batch(attached.pod_index).send(self.attachment.pod_socket));
        match configured.and_then(|_| host.send(settle)) {
            Ok(_) => Ok(attached),
            Err(error) => {
                self.unmake_pair(host);
                Err(error)
            }
        }
    }

    fn make_pair(&self, host: &HostLinks, bridge_index: u32) -> std::result::Result<Attached, NetlinkError> {
        let told = host.send(self.host_batch(bridge_index)).inspect_err(|error| {
            // What has the name then was there before, and is not this call's to remove.
            let made_nothing =
                matches!(error, NetlinkError::Send { .. } | NetlinkError::Refused { step: CREATE_STEP, .. });
            if !made_nothing {
                self.unmake_pair(host);
            }
        })?;
        let link = told.first().and_then(|body| Link::read(body));
        let ends =
            link.and_then(|link| Some(Attached { host_index: link.index, pod_index: link.peer_index? }));
        ends.ok_or_else(|| {
            self.unmake_pair(host);
            let source = std::io::Error::from(std::io::ErrorKind::InvalidData);
            NetlinkError::Receive { step: "look up veth pair", source }
        })
    }

    fn unmake_pair(&self, host: &HostLinks) {
        if let Err(error) = host.delete(self.attachment.host_ifname) {
            tracing::warn!(link = %self.attachment.host_ifname, error = %with_causes(&error), "failed attach left a link");
        }
    }

    fn host_batch(&self, bridge_index: u32) -> Batch {
        let name = self.attachment.host_ifname;
        let pair = VethPair {
            host_ifname: name,
            bridge_index,
            netns: self.attachment.netns,
            address: self.addresses.first().map(|(address, _)| *address),
            mtu: self.mtu,
        };
        Batch::default()
            .route(CREATE_STEP, Mode::Create, &link::create_veth(&pair))
            .route("mark veth as ours", Mode::Plain, &link::claim_port(name, &self.alias, self.has_ipv6))
            .route("look up veth pair", Mode::Plain, &link::get_link(name))
    }

    fn pod_batch(&self, index: u32) -> Batch {
        let mut batch = with_loopback(Batch::default());
        if self.has_ipv6 && !self.addresses.iter().any(|(address, _)| address.is_ipv6()) {
            batch = batch.route("keep eth0 off IPv6", Mode::Plain, &link::keep_off_ipv6(index));
        }
        batch = batch.route("bring up eth0", Mode::Plain, &link::set_up(index, None));
        for (address, subnet) in &self.addresses {
            let message = link::add_address(index, *address, subnet);
            batch = batch.route("add address to eth0", Mode::Create, &message);
        }
        // A route's gateway has to be reachable by the time that it is added, so these come last.
        for (_, subnet) in &self.addresses {
            batch = batch.route("add default route", Mode::Create, &link::default_route(index, subnet));
        }
        batch
    }
}

/// The step that makes the pair; refused, it made nothing.
const CREATE_STEP: &str = "create veth pair on bridge";

fn with_loopback(batch: Batch) -> Batch {
    batch.route("bring up loopback", Mode::Plain, &link::set_up(LOOPBACK_INDEX, None))
}
