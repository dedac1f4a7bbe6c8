//! The network as the agent holds it: opened once, then pods come and go.
//!
//! In: valid settings, attachments. Out: kernel state. It holds the settings and the bridge's index, no lock
//! and no descriptor; all calls take `&self` and may run at the same time on different threads. All block
//! while the kernel works.

use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;

use crate::attach::{Attached, Attachment, Wiring};
use crate::bridge;
use crate::config::NetworkConfig;
use crate::error::{Error, NetlinkError, Result};
use crate::host::HostLinks;
use crate::name::IfName;
use crate::nftables;
use crate::rules;
use crate::sysctl;

/// The host's side of the pod network, ready for pods.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    /// The subnets of the settings that this host can serve.
    subnets: Vec<IpNet>,
    bridge_index: AtomicU32,
}

/// The host's end of a pod's veth pair, as found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLink {
    /// Its name.
    pub name: IfName,
    /// The pod that its alias names, whether that pod still exists or not.
    pub pod_id: String,
}

impl Network {
    /// Makes the host ready: forwarding, bridge, nftables table. May be repeated; pods that are attached
    /// keep their network meanwhile.
    ///
    /// Where the host has IPv6 disabled, the IPv6 subnet is left out with a warning.
    /// Errors: invalid settings; exists, for an interface with the bridge's name that is not ours; internal.
    /// What was made stays, and the next attempt completes it.
    pub fn open(config: NetworkConfig) -> Result<Self> {
        config.validate()?;
        let subnets = served_subnets(&config)?;
        let bridge_index = AtomicU32::new(bridge::ensure(&config, &subnets)?);
        if config.forwarding {
            enable_forwarding(&subnets)?;
        }
        let table = rules::table(&config.nft_table, &subnets, config.masquerade);
        nftables::replace(&table).map_err(|source| table_error(&config, source))?;
        let network = Self { config, subnets, bridge_index };
        network.warn_of_dropping_chains();
        Ok(network)
    }

    /// The bridge that pods are joined to.
    pub fn bridge(&self) -> &IfName {
        &self.config.bridge
    }

    /// The subnets that pods get addresses of, the primary one first; for an [`AddressPool`](crate::AddressPool).
    pub fn subnets(&self) -> &[IpNet] {
        &self.subnets
    }

    /// Gives a pod its loopback, its `eth0` with addresses and default routes, and a port of the bridge.
    ///
    /// The pod can be reached when this returns; by IPv6 a moment later, as a worker of the kernel finishes an
    /// address of that family. Takes about a millisecond.
    ///
    /// Errors, after which nothing is left: exists, when a link of that name or an `eth0` in the pod was there
    /// before, which stays; unavailable, when the bridge is gone; invalid, for an address of no subnet.
    pub fn attach(&self, attachment: &Attachment<'_>) -> Result<Attached> {
        let wiring = Wiring::new(attachment, &self.config.bridge, &self.subnets, self.config.mtu)?;
        let failed = |source| Error::Attach {
            pod_id: attachment.pod_id.into(),
            bridge: self.config.bridge.clone(),
            host_ifname: attachment.host_ifname.clone(),
            source,
        };
        let host = HostLinks::open().map_err(failed)?;
        let known = self.bridge_index.load(Ordering::Relaxed);
        let error = match wiring.connect(&host, known) {
            Ok(attached) => return Ok(attached),
            Err(error) => error,
        };
        // The bridge may have been made anew under our feet; then its index is another one.
        let now = bridge::find_own(&host, &self.config.bridge)?.index;
        if now == known {
            return Err(failed(error));
        }
        self.bridge_index.store(now, Ordering::Relaxed);
        wiring.connect(&host, now).map_err(failed)
    }

    /// Removes a pod's veth pair, and with it the pod's `eth0`, addresses and routes; absent means done.
    ///
    /// The kernel makes this call wait 15 to 50 ms, until no processor can still see the link; calls at the
    /// same time share that wait. A pod's pair also goes by itself, about 20 ms after the last process and
    /// descriptor of the pod's namespace. So a stop need not wait for this call: it ends the namespace, and
    /// detaches in the background to be sure.
    pub fn detach(&self, host_ifname: &IfName) -> Result<()> {
        let failed = |source| Error::Detach { host_ifname: host_ifname.clone(), source };
        HostLinks::open().and_then(|host| host.delete(host_ifname)).map_err(failed)
    }

    /// Every veth in the host's namespace whose alias says that it joins a pod to this bridge.
    pub fn owned_links(&self) -> Result<Vec<OwnedLink>> {
        let links = HostLinks::open().and_then(|host| host.list()).map_err(Error::List)?;
        let owned = links.into_iter().filter_map(|link| {
            let pod_id = self.config.bridge.pod_of_alias(link.alias.as_deref()?)?.to_owned();
            Some(OwnedLink { name: IfName::new(link.name).ok()?, pod_id })
        });
        Ok(owned.collect())
    }

    /// Looks whether pods can be attached now: the bridge is there, ours, and up.
    ///
    /// Errors: the reason why not, to be shown as the network's condition.
    pub fn check(&self) -> Result<()> {
        let bridge = self.config.bridge.clone();
        let host = HostLinks::open().map_err(|source| Error::Bridge { bridge: bridge.clone(), source })?;
        if bridge::find_own(&host, &bridge)?.up {
            Ok(())
        } else {
            Err(Error::BridgeLost { bridge, state: "down" })
        }
    }

    /// Removes bridge and table, for a network that nobody will use again. Forwarding stays as it is:
    /// something else may have come to need it.
    ///
    /// Errors: busy, while pods are attached; nothing is removed then.
    pub fn teardown(self) -> Result<()> {
        let bridge = self.config.bridge.clone();
        let pods = self.owned_links()?.len();
        if pods > 0 {
            return Err(Error::InUse { bridge, pods });
        }
        nftables::remove(&self.config.nft_table).map_err(|source| table_error(&self.config, source))?;
        let failed = |source| Error::Bridge { bridge: bridge.clone(), source };
        HostLinks::open().and_then(|host| host.delete(&bridge)).map_err(failed)
    }

    fn warn_of_dropping_chains(&self) {
        // Only a warning depends on it, so a kernel that does not answer is no failure.
        for chain in nftables::dropping_forward_chains().unwrap_or_default() {
            let bridge = &self.config.bridge;
            tracing::warn!(%chain, %bridge, "forwarded packets are dropped unless this chain accepts them");
        }
    }
}

fn served_subnets(config: &NetworkConfig) -> Result<Vec<IpNet>> {
    let mut subnets = config.subnets.clone();
    if !sysctl::ipv6_enabled() {
        for subnet in subnets.extract_if(.., |subnet| subnet.addr().is_ipv6()) {
            tracing::warn!(%subnet, "IPv6 is disabled on this host: pods get no address of this subnet");
        }
    }
    if subnets.is_empty() {
        return Err(Error::Config {
            key: "subnets",
            value: config.subnets.iter().map(ToString::to_string).collect(),
            problem: "needs IPv6, which is disabled on this host",
        });
    }
    Ok(subnets)
}

fn enable_forwarding(subnets: &[IpNet]) -> Result<()> {
    for subnet in subnets {
        match subnet {
            IpNet::V4(_) => sysctl::enable_forwarding_v4()?,
            IpNet::V6(_) => sysctl::enable_forwarding_v6()?,
        }
    }
    Ok(())
}

fn table_error(config: &NetworkConfig, source: NetlinkError) -> Error {
    Error::Table { table: config.nft_table.clone(), source }
}
