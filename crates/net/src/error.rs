//! What can go wrong in the network, by the operation that was attempted.
//!
//! [`Error`] names the object (bridge, pod, sysctl); its source is most often a [`NetlinkError`], which names
//! the step and carries the kernel's answer.

use std::io;
use std::net::IpAddr;

use berth_store::ErrorKind;
use ipnet::IpNet;

use crate::name::IfName;
use crate::ports::PortMapping;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in the network. Unless a variant says otherwise, the call left the kernel as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is nonsense.
    #[error("check network setting {key} = {value}: {problem}")]
    Config {
        /// The key in the configuration file.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The kernel would not take this name.
    #[error("check interface name {name:?}: needs 1 to 15 printable ASCII characters without / : %")]
    BadInterfaceName {
        /// The name.
        name: String,
    },
    /// No interface name can be made of this pod id.
    #[error("name host interface of pod {pod_id:?}: the id does not begin with 12 letters or digits")]
    BadPodId {
        /// The pod's id.
        pod_id: String,
    },
    /// Every address of the subnet is in use.
    #[error("lease pod addresses: no address is free in {subnet}")]
    AddressesExhausted {
        /// The full subnet.
        subnet: IpNet,
    },
    /// A recorded lease clashes with another.
    #[error("reserve address {address} for {owner}: another owner has it")]
    AddressTaken {
        /// The address that both have.
        address: IpAddr,
        /// The one who was refused.
        owner: String,
    },
    /// Another pod holds a port of the host.
    #[error("claim host port {mapping}: pod {holder} has it")]
    PortTaken {
        /// What was wanted.
        mapping: PortMapping,
        /// The pod that has it.
        holder: String,
    },
    /// One pod means two things by one port of the host.
    #[error("claim host port {mapping}: the same pod leads it to two places")]
    PortTwice {
        /// The second of them.
        mapping: PortMapping,
    },
    /// A port of the host is wanted on an address of a family that the pod has none of.
    #[error("lead host port {mapping} to pod: it has no address of that family, only {addresses}")]
    PortUnreachable {
        /// What was wanted.
        mapping: PortMapping,
        /// What the pod has.
        addresses: String,
    },
    /// A new subnet would have its gateway where a pod is.
    #[error("give pods subnet {subnet}: pods still have addresses of {overlaps}")]
    SubnetInUse {
        /// The new subnet.
        subnet: IpNet,
        /// The one in force.
        overlaps: IpNet,
    },
    /// A new subnet holds an address that the host has elsewhere.
    #[error(
        "give pods subnet {subnet}: the host has address {address} in it, on another link than the bridge"
    )]
    SubnetOfHost {
        /// The new subnet.
        subnet: IpNet,
        /// The host's address.
        address: IpAddr,
    },
    /// Pods get no addresses before a client has said which.
    #[error("lease pod addresses: no pod CIDR has been given yet, and the settings ask to wait for it")]
    AwaitingPodCidr,
    /// Rules are missing from our table; [`Network::restore`](crate::Network::restore) puts them back.
    #[error("use nftables table {table}: it has {found} rules instead of {wanted}")]
    RulesLost {
        /// The table.
        table: String,
        /// How many rules are there.
        found: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// A pod's link was taken away, or out of the bridge.
    #[error("use link {host_ifname}: it is gone, down, or no port of the bridge")]
    LinkLost {
        /// The host's end.
        host_ifname: IfName,
    },
    /// The flows of a pod's ports cannot be looked at.
    #[error("forget the flows of ports that have changed")]
    Flows(#[source] NetlinkError),
    /// A pod's address lies in none of the subnets, so it has neither prefix nor gateway.
    #[error("attach pod {pod_id}: address {address} is in no subnet of the network")]
    AddressOutside {
        /// The pod's id.
        pod_id: String,
        /// The address.
        address: IpAddr,
    },
    /// An interface has the bridge's name and is not ours; it was left alone.
    #[error("adopt bridge {bridge}: an interface of that name exists that is not ours ({found})")]
    ForeignBridge {
        /// The name.
        bridge: IfName,
        /// What the interface is.
        found: String,
    },
    /// The bridge is not there, or is down; [`Network::restore`](crate::Network::restore) puts it back.
    #[error("bridge {bridge} is {state}")]
    BridgeLost {
        /// The bridge.
        bridge: IfName,
        /// What it is instead of up.
        state: &'static str,
    },
    /// The bridge cannot be made ready; it may exist in part, which the next attempt completes.
    #[error("prepare bridge {bridge}")]
    Bridge {
        /// The bridge.
        bridge: IfName,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// A kernel setting cannot be read or written.
    #[error("set sysctl {name} to {value}")]
    Sysctl {
        /// The setting, with slashes, below `/proc/sys`.
        name: String,
        /// The wanted value.
        value: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The nftables table cannot be replaced or removed; it is as it was.
    #[error("change nftables table {table}")]
    Table {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// A pod cannot be attached; its veth pair is gone again.
    #[error("attach pod {pod_id} to {bridge} by {host_ifname}")]
    Attach {
        /// The pod's id.
        pod_id: String,
        /// The bridge.
        bridge: IfName,
        /// The host's end of the veth pair.
        host_ifname: IfName,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// A veth pair cannot be removed.
    #[error("detach {host_ifname}")]
    Detach {
        /// The host's end of the veth pair.
        host_ifname: IfName,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// The loopback of a pod cannot be brought up.
    #[error("bring up loopback")]
    Loopback(#[source] NetlinkError),
    /// The host's links cannot be listed.
    #[error("list links")]
    List(#[source] NetlinkError),
    /// What has gone over a pod's links can't be read.
    #[error("read link statistics")]
    Statistics(#[source] NetlinkError),
    /// Pods are still attached.
    #[error("remove bridge {bridge}: {pods} pods are attached to it")]
    InUse {
        /// The bridge.
        bridge: IfName,
        /// How many.
        pods: usize,
    },
}

impl Error {
    /// Whether something of ours has been taken away that can be put back.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::BridgeLost { .. } | Self::RulesLost { .. })
    }

    /// What this failure means to the one who asked.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. } | Self::BadInterfaceName { .. } | Self::BadPodId { .. } => ErrorKind::Invalid,
            Self::AddressOutside { .. } => ErrorKind::Invalid,
            Self::AddressesExhausted { .. } => ErrorKind::Exhausted,
            Self::AddressTaken { .. } | Self::ForeignBridge { .. } => ErrorKind::Exists,
            Self::PortTaken { .. } => ErrorKind::Exists,
            Self::PortTwice { .. } | Self::PortUnreachable { .. } => ErrorKind::Invalid,
            Self::SubnetInUse { .. } | Self::SubnetOfHost { .. } => ErrorKind::WrongState,
            Self::BridgeLost { .. } | Self::RulesLost { .. } | Self::LinkLost { .. } => {
                ErrorKind::Unavailable
            }
            Self::AwaitingPodCidr => ErrorKind::Unavailable,
            Self::InUse { .. } => ErrorKind::Busy,
            Self::Sysctl { .. } => ErrorKind::Internal,
            Self::Bridge { source, .. }
            | Self::Table { source, .. }
            | Self::Attach { source, .. }
            | Self::Detach { source, .. }
            | Self::Loopback(source)
            | Self::Flows(source)
            | Self::Statistics(source)
            | Self::List(source) => source.kind(),
        }
    }
}

/// What can go wrong between us and the kernel's netlink.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("open netlink socket")]
    Open(#[source] io::Error),
    /// The kernel took nothing of the batch.
    #[error("send netlink requests, the first to {step}")]
    Send {
        /// The first step of the batch.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's answers cannot be read.
    #[error("receive netlink answers, the first to {step}")]
    Receive {
        /// The first step of the batch.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A test has broken the step.
    #[error(transparent)]
    Broken(#[from] berth_fault::Fault),
    /// The kernel refused one request. Those after it may have been carried out, but for nftables, where all
    /// or nothing happens.
    #[error("{step}{}", hint.as_ref().map(|hint| format!(" (kernel: {hint})")).unwrap_or_default())]
    Refused {
        /// The step that failed first.
        step: &'static str,
        /// The kernel's own words, where it has some.
        hint: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
}

impl NetlinkError {
    /// Whether the kernel answered that the link which the request names does not exist.
    pub(crate) fn is_no_device(&self) -> bool {
        self.refusal() == Some(rustix::io::Errno::NODEV)
    }

    /// The kernel's answer to the request that it refused.
    pub(crate) fn refusal(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::Refused { source, .. } => rustix::io::Errno::from_io_error(source),
            Self::Open(_) | Self::Send { .. } | Self::Receive { .. } | Self::Broken(_) => None,
        }
    }

    fn kind(&self) -> ErrorKind {
        use rustix::io::Errno;
        match self.refusal() {
            Some(Errno::EXIST) => ErrorKind::Exists,
            Some(Errno::BUSY) => ErrorKind::Busy,
            Some(Errno::NOMEM | Errno::NOBUFS | Errno::NOSPC) => ErrorKind::Exhausted,
            _ => ErrorKind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_carries_the_kernels_words_and_kind() {
        let check = |errno: rustix::io::Errno, hint: Option<&str>, text: &str, kind: ErrorKind| {
            let error = NetlinkError::Refused {
                step: "add address",
                hint: hint.map(Into::into),
                source: errno.into(),
            };
            assert_eq!((error.to_string().as_str(), error.kind()), (text, kind));
        };
        let exists = rustix::io::Errno::EXIST;
        check(exists, Some("address in use"), "add address (kernel: address in use)", ErrorKind::Exists);
        check(rustix::io::Errno::NOBUFS, None, "add address", ErrorKind::Exhausted);
        check(rustix::io::Errno::PERM, None, "add address", ErrorKind::Internal);
    }
}
