//! What the kernel holds under the names of a pod network, looked at without changing anything.
//!
//! In: the settings alone, so that it works with no network open. Out: links, ports of the host that lead to pods, and
//! subnets that the bridge serves; whose they are is the caller's to say. The three removals here are for what nobody
//! owns while no agent runs; one that runs removes through [`Network`](crate::Network), which knows what is in use.

use ipnet::IpNet;

use crate::bridge;
use crate::config::NetworkConfig;
use crate::conntrack;
use crate::error::{Error, Result};
use crate::host::HostLinks;
use crate::name::IfName;
use crate::network::OwnedLink;
use crate::nftables;
use crate::ports::{Forward, MAPS};

/// A view of one network's names in the kernel.
#[derive(Debug, Clone)]
pub struct Survey {
    config: NetworkConfig,
}

impl Survey {
    /// A view of what has the names of these settings.
    pub fn new(config: NetworkConfig) -> Self {
        Self { config }
    }

    /// The bridge that pods are joined to.
    pub fn bridge(&self) -> &IfName {
        &self.config.bridge
    }

    /// The subnets that the settings give.
    pub fn configured_subnets(&self) -> &[IpNet] {
        &self.config.subnets
    }

    /// Whether one of these subnets and a network that the host is in have addresses in common; its own bridge counts,
    /// too.
    ///
    /// Errors: the kernel does not tell.
    pub fn overlaps_host(&self) -> Result<bool> {
        bridge::overlap_with_host(&self.config)
    }

    /// Whether the bridge is there; one that is not ours is not.
    ///
    /// Errors: the kernel does not tell.
    pub fn has_bridge(&self) -> Result<bool> {
        Ok(self.bridge_index()?.is_some())
    }

    /// The host's ends of pods' veth pairs: by their alias, and those ports of the bridge that are called as one of ours.
    /// Of these the name tells only the beginning of the pod's id.
    ///
    /// Errors: the kernel does not tell.
    pub fn links(&self) -> Result<Vec<OwnedLink>> {
        let bridge = self.bridge_index()?;
        let links = HostLinks::open().and_then(|host| host.list()).map_err(Error::List)?;
        let owned = links.into_iter().filter_map(|link| {
            let by_alias = link.alias.as_deref().and_then(|alias| self.config.bridge.pod_of_alias(alias));
            let is_veth = link.kind.as_deref() == Some("veth");
            let is_port = bridge.is_some() && link.controller == bridge;
            let by_name =
                || link.name.strip_prefix("bth").filter(|id| is_port && is_veth && is_beginning_of_id(id));
            let pod_id = by_alias.or_else(by_name)?.to_owned();
            Some(OwnedLink { name: IfName::new(link.name).ok()?, pod_id })
        });
        Ok(owned.collect())
    }

    /// The ports of the host that lead to pods, as the maps have them; none where there is no table.
    ///
    /// Errors: the kernel does not tell.
    pub fn forwards(&self) -> Result<Vec<Forward>> {
        let mut forwards = Vec::new();
        for map in MAPS {
            let elements = nftables::list_elements(&self.config.nft_table, map.name)
                .map_err(|source| Error::Table { table: self.config.nft_table.clone(), source })?;
            forwards.extend(elements.iter().filter_map(Forward::from_element));
        }
        Ok(forwards)
    }

    /// The subnets whose gateways the bridge has, for each of which the kernel has a route.
    ///
    /// Errors: the kernel does not tell.
    pub fn subnets(&self) -> Result<Vec<IpNet>> {
        let Some(index) = self.bridge_index()? else { return Ok(Vec::new()) };
        let host = HostLinks::open().map_err(Error::List)?;
        let gateways = bridge::gateways(&host, index).map_err(Error::List)?;
        Ok(gateways.iter().map(IpNet::trunc).collect())
    }

    /// Removes a link; absent means done.
    ///
    /// Errors: the kernel refuses.
    pub fn remove_link(&self, name: &IfName) -> Result<()> {
        let failed = |source| Error::Detach { host_ifname: name.clone(), source };
        HostLinks::open().and_then(|host| host.delete(name)).map_err(failed)
    }

    /// Has ports lead nowhere; absent means done.
    ///
    /// Errors: the kernel refuses.
    pub fn remove_forwards(&self, forwards: &[Forward]) -> Result<()> {
        let elements: Vec<_> = forwards.iter().map(Forward::element).collect();
        nftables::remove_elements(&self.config.nft_table, &elements)
            .map_err(|source| Error::Table { table: self.config.nft_table.clone(), source })?;
        conntrack::forget_translated(forwards).map_err(Error::Flows)
    }

    /// Takes the gateway of a subnet from the bridge, and with it the kernel's route; absent means done.
    ///
    /// Errors: the kernel refuses.
    pub fn remove_subnet(&self, subnet: &IpNet) -> Result<()> {
        let Some(index) = self.bridge_index()? else { return Ok(()) };
        let failed = |source| Error::Bridge { bridge: self.config.bridge.clone(), source };
        let host = HostLinks::open().map_err(failed)?;
        bridge::remove_gateways(&host, index, subnet).map_err(failed)
    }

    fn bridge_index(&self) -> Result<Option<u32>> {
        let host = HostLinks::open().map_err(Error::List)?;
        match bridge::find_own(&host, &self.config.bridge) {
            Ok(link) => Ok(Some(link.index)),
            Err(Error::BridgeLost { .. } | Error::ForeignBridge { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// As [`IfName::from_pod_id`] cuts it.
fn is_beginning_of_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_name_holds_the_beginning_of_an_id() {
        let check = |text: &str, expected| assert_eq!(is_beginning_of_id(text), expected, "{text}");
        check("0123456789ab", true);
        check("0123456789a", false);
        check("0123456789abc", false);
        check("0123456789AB", false);
        check("0123456789xy", false);
    }
}
