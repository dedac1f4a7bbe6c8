//! The host's links: a socket in the agent's own namespace, and the requests that several callers make.
//!
//! Opened per call and closed with it, so that no two calls wait for each other; that costs microseconds.

use std::os::fd::AsFd;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::error::NetlinkError;
use crate::link::{self, Link};
use crate::name::IfName;
use crate::netlink::{self, Batch, Mode};

type Result<T> = std::result::Result<T, NetlinkError>;

/// A route socket in the host's network namespace.
pub(crate) struct HostLinks {
    socket: Socket,
}

impl HostLinks {
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { socket: netlink::open(NETLINK_ROUTE)? })
    }

    /// Sends a batch of the caller's own, and returns what the kernel tells besides acknowledging.
    pub(crate) fn send(&self, batch: Batch) -> Result<Vec<Vec<u8>>> {
        batch.send(self.socket.as_fd())
    }

    /// The link of this name, if there is one.
    pub(crate) fn find(&self, name: &IfName) -> Result<Option<Link>> {
        match self.send(Batch::default().route("look up link", Mode::Plain, &link::get_link(name))) {
            Ok(told) => Ok(told.first().and_then(|body| Link::read(body))),
            Err(error) if error.is_no_device() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub(crate) fn list(&self) -> Result<Vec<Link>> {
        let told = self.send(Batch::default().route("list links", Mode::Dump, &link::list_links()))?;
        Ok(told.iter().filter_map(|body| Link::read(body)).collect())
    }

    /// Lets a pod's port send packets back out by which they came in; a port that is gone needs it no more.
    pub(crate) fn allow_hairpin(&self, name: &IfName) -> Result<()> {
        let request = link::allow_hairpin(name);
        match self.send(Batch::default().route("allow hairpin on bridge port", Mode::Plain, &request)) {
            Err(error) if error.is_no_device() => Ok(()),
            allowed => allowed.map(drop),
        }
    }

    /// Removes a link; one that is not there is fine.
    pub(crate) fn delete(&self, name: &IfName) -> Result<()> {
        match self.send(Batch::default().route("delete link", Mode::Plain, &link::delete_link(name))) {
            Ok(_) => Ok(()),
            Err(error) if error.is_no_device() => Ok(()),
            Err(error) => Err(error),
        }
    }
}
