//! What has gone over a pod's interfaces, counted by the kernel.
//!
//! Asked for over the netlink socket that was opened in the pod's namespace, so nobody enters it. One request lists all
//! links; the loopback is left out, since what a pod says to itself is no traffic. A pod that may make interfaces can
//! make any number of them: beyond [`MOST_LINKS`] they are not told.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use crate::bridge::address_on;
use crate::error::{Error, Result};
use crate::link::{
    IFLA_IFNAME, LINK_HEADER_BYTES, LOOPBACK_INDEX, Link, POD_IFNAME, list_addresses, list_links,
};
use crate::netlink::{Batch, Mode, attribute, number_of, text_of};

/// More than a pod has that is not out to do harm.
const MOST_LINKS: usize = 256;

const IFLA_STATS64: u16 = 23;

/// A pod's links, as its own netlink socket sees them. As long as this lives, so does the pod's network namespace.
#[derive(Debug)]
pub struct PodLinks(Mutex<OwnedFd>);

/// What has gone over one interface since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkUsage {
    /// Its name in the pod.
    pub name: String,
    /// What it has received.
    pub received: Traffic,
    /// What it has sent.
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of whole frames.
    pub bytes: u64,
    /// Frames.
    pub packets: u64,
    /// Frames with errors.
    pub errors: u64,
    /// Frames for which there was no room.
    pub dropped: u64,
}

impl PodLinks {
    /// Over a `NETLINK_ROUTE` socket that was opened in the pod's namespace.
    pub fn new(pod_socket: OwnedFd) -> Self {
        Self(Mutex::new(pod_socket))
    }

    /// What has gone over each interface but the loopback. Blocks for as long as the kernel takes to answer.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn usage(&self) -> Result<Vec<LinkUsage>> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut links = Vec::new();
        let request = Batch::default().route("list links", Mode::Dump, &list_links());
        let listed = request.send_and_hear(socket.as_fd(), |body| {
            if links.len() < MOST_LINKS {
                links.extend(LinkUsage::read(body));
            }
        });
        listed.map_err(Error::Statistics)?;
        Ok(links)
    }

    /// The addresses of the pod's `eth0`, but for link-local ones; none where it has gone. Blocks as
    /// [`PodLinks::usage`] does.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = |batch: Batch| batch.send(socket.as_fd()).map_err(Error::Statistics);
        let links = ask(Batch::default().route("list links", Mode::Dump, &list_links()))?;
        let mut links = links.iter().filter_map(|body| Link::read(body));
        let Some(eth0) = links.find(|link| link.name == POD_IFNAME) else { return Ok(Vec::new()) };
        let told = ask(Batch::default().route("list addresses", Mode::Dump, &list_addresses()))?;
        Ok(told.iter().filter_map(|body| address_on(body, eth0.index)).map(|net| net.addr()).collect())
    }
}

impl LinkUsage {
    /// Reads the body of an `RTM_NEWLINK`; `None` for the loopback.
    fn read(body: &[u8]) -> Option<Self> {
        let index = number_of(body.get(4..8)?)?;
        let attributes = body.get(LINK_HEADER_BYTES..)?;
        let name = attribute(attributes, IFLA_IFNAME).map(text_of)?;
        let (received, sent) = read_statistics(attribute(attributes, IFLA_STATS64)?)?;
        (index != LOOPBACK_INDEX).then_some(Self { name, received, sent })
    }
}

/// Shape: 64-bit numbers in the host's order, of which the first eight are packets, bytes, errors and drops, each
/// received and sent. Source: `struct rtnl_link_stats64`, linux/if_link.h.
fn read_statistics(value: &[u8]) -> Option<(Traffic, Traffic)> {
    let mut numbers = [0; 8];
    for (number, bytes) in numbers.iter_mut().zip(value.get(..64)?.chunks_exact(8)) {
        *number = u64::from_ne_bytes(bytes.try_into().ok()?);
    }
    let traffic = |first: usize| Traffic {
        packets: numbers[first],
        bytes: numbers[2 + first],
        errors: numbers[4 + first],
        dropped: numbers[6 + first],
    };
    Some((traffic(0), traffic(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, numbers: &[u64]) -> Vec<u8> {
        let mut body = vec![0; LINK_HEADER_BYTES];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut push = |kind: u16, value: &[u8]| {
            body.extend(((4 + value.len()) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        push(IFLA_IFNAME, format!("{name}\0").as_bytes());
        push(IFLA_STATS64, &numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<_>>());
        body
    }

    #[test]
    fn each_number_finds_its_place() {
        let mut numbers = vec![0_u64; 25];
        numbers[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let want = LinkUsage {
            name: "eth0".into(),
            received: Traffic { packets: 1, bytes: 3, errors: 5, dropped: 7 },
            sent: Traffic { packets: 2, bytes: 4, errors: 6, dropped: 8 },
        };
        assert_eq!(LinkUsage::read(&link(2, "eth0", &numbers)), Some(want));
        assert_eq!(LinkUsage::read(&link(LOOPBACK_INDEX, "lo", &numbers)), None);
    }

    #[test]
    fn what_is_cut_off_is_no_link() {
        let whole = link(2, "eth0", &[0; 8]);
        assert!(LinkUsage::read(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(LinkUsage::read(&whole[..length]), None, "{length}");
        }
    }
}
