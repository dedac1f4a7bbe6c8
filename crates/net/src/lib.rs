//! The pod network: address leases, a bridge, a veth pair per pod, routes, forwarding, masquerade and host ports.
//!
//! In: a [`NetworkConfig`], and per pod its network namespace and a netlink socket that was opened in it.
//! Out: kernel state (links, addresses, routes, sysctls, one nftables table), each piece under a name by
//! which it is found again; nothing is kept on disk here.
//!
//! ```text
//!   pod namespace            host namespace
//!   lo                       berth0  bridge, the gateway of each subnet, alias berth:berth0:bridge
//!   eth0 ── veth pair ─────── bth0123456789ab  alias berth:berth0:pod:ID, port of berth0
//! ```
//!
//! - [`NetworkConfig`]: the settings, validated once
//! - [`Network`]: the host's side made ready, pods attached and detached, leftovers listed
//! - [`PortClaims`], [`Forward`]: which pod has which ports of the host, and how these lead to it
//! - [`PodLinks`]: what has gone over a pod's interfaces, asked for over the same socket
//! - [`Survey`]: what the kernel holds under this network's names, whoever owns it
//! - [`AddressPool`]: which pod has which addresses; pure, rebuilt by the caller from its own records
//! - [`link`] and [`netlink`]: what all this is made of, requests and how they are sent, for whoever makes links with
//!   nothing else
//!
//! Three rules shape the code. **No thread enters a namespace**: a netlink socket speaks to the namespace it
//! was opened in, whoever uses it. **One send per namespace**: all requests of a step go to the kernel in
//! one system call, which answers them in order (`netlink`); the usual client crate, `rtnetlink`, is
//! asynchronous and waits for the answer to each message before the next, so it is not used. **No shared
//! lock**: each call opens its own socket, so attaches wait for each other in the kernel only.
//!
//! Everything here is blocking code, to be called where blocking is allowed: the kernel does its work within
//! the send. An attach that fails leaves nothing behind. Bandwidth and CNI plugins are not here.
//!
//! A verdict of accept in a table of ours cannot overrule a drop in someone else's. On a host whose forward
//! chain drops by default (Docker sets that), pods reach nothing beyond the host until that chain lets the
//! bridge through: `iptables -I DOCKER-USER -i berth0 -j ACCEPT` and the same with `-o`.
//! [`Network::open`] logs a warning that names such a chain.

mod address;
mod attach;
mod attributes;
mod bridge;
mod config;
mod conntrack;
mod error;
mod host;
pub mod link;
mod name;
pub mod netlink;
mod network;
mod nftables;
mod pool;
mod ports;
mod rules;
mod served;
mod stats;
mod survey;
mod sysctl;

pub use address::PodAddresses;
pub use attach::{Attached, Attachment, up_loopback};
pub use config::NetworkConfig;
pub use error::{Error, NetlinkError, Result};
pub use name::IfName;
pub use network::{Inherited, Network, OwnedLink, PortState};
pub use pool::AddressPool;
pub use ports::{Forward, PortClaims, PortMapping, Protocol};
pub use served::ServedSubnets;
pub use stats::{LinkUsage, PodLinks, Traffic};
pub use survey::Survey;
