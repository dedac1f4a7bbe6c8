//! A bridge, and pods wired to it: one batch in each namespace.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use berth_net::IfName;
use berth_net::link::{self, LOOPBACK_INDEX, POD_IFNAME, VethPair};
use berth_net::netlink::{Batch, Mode};
use ipnet::IpNet;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// In a network namespace of the floor's own, so that any subnet is free.
const SUBNET: &str = "10.88.0.0/16";
const GATEWAY: &str = "10.88.0.1";
const POD_ADDRESS: &str = "10.88.0.2";

/// The bridge of the namespace that this process is in.
#[derive(Debug)]
pub(super) struct Bridge {
    socket: OwnedFd,
    index: u32,
    port: IfName,
    subnet: IpNet,
    pod_address: IpAddr,
}

impl Bridge {
    /// Makes the bridge, with the gateway's address and up.
    pub(super) fn make() -> Result<Self> {
        let (socket, name) = (route_socket()?, IfName::new("floor0")?);
        let (subnet, gateway): (IpNet, IpAddr) = (SUBNET.parse()?, GATEWAY.parse()?);
        let create = link::create_bridge(&name, gateway);
        Batch::default().route("create bridge", Mode::Create, &create).send(socket.as_fd())?;
        let index = name_to_index(&socket, name.as_str())?;
        Batch::default()
            .route("add gateway address", Mode::Create, &link::add_address(index, gateway, &subnet))
            .route("bring up bridge", Mode::Plain, &link::set_up(index, None))
            .send(socket.as_fd())?;
        Ok(Self { socket, index, port: IfName::new("floor-pod")?, subnet, pod_address: POD_ADDRESS.parse()? })
    }

    /// Makes a veth pair with `eth0` in the pod's namespace; the other end is a port, and up.
    pub(super) fn make_veth(&self, netns: BorrowedFd<'_>) -> Result<()> {
        let pair = VethPair {
            host_ifname: &self.port,
            bridge_index: self.index,
            netns,
            address: Some(self.pod_address),
            mtu: None,
        };
        let batch = Batch::default().route("create veth pair", Mode::Create, &link::create_veth(&pair));
        batch.send(self.socket.as_fd())?;
        Ok(())
    }

    /// Brings up what is in the pod's namespace, where `socket` was opened, with an address and a default route.
    pub(super) fn wire_pod(&self, socket: BorrowedFd<'_>) -> Result<()> {
        let index = name_to_index(socket, POD_IFNAME).context("find eth0")?;
        let address = link::add_address(index, self.pod_address, &self.subnet);
        Batch::default()
            .route("bring up loopback", Mode::Plain, &link::set_up(LOOPBACK_INDEX, None))
            .route("keep eth0 off IPv6", Mode::Plain, &link::keep_off_ipv6(index))
            .route("bring up eth0", Mode::Plain, &link::set_up(index, None))
            .route("add address", Mode::Create, &address)
            .route("add default route", Mode::Create, &link::default_route(index, &self.subnet))
            .send(socket)?;
        Ok(())
    }

    /// Removes the pair.
    pub(super) fn remove_veth(&self) -> Result<()> {
        let remove = link::delete_link(&self.port);
        Batch::default().route("remove veth pair", Mode::Plain, &remove).send(self.socket.as_fd())?;
        Ok(())
    }
}

/// A `NETLINK_ROUTE` socket in this process's network namespace.
pub(super) fn route_socket() -> std::result::Result<OwnedFd, Errno> {
    // Protocol 0 of netlink is NETLINK_ROUTE.
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
}
