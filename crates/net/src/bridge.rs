//! The bridge: made when there is none, adopted when it is ours, refused when it is someone else's.
//!
//! In: the settings. Out: the bridge's index, the bridge being up with the gateway addresses and no others.
//! Whose a bridge is, its alias tells. [`ensure`] may be repeated at any time: what was left half done, by a
//! crash say, is completed the next time, and addresses from before a change of the settings go.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use crate::address::gateway;
use crate::config::NetworkConfig;
use crate::error::{Error, NetlinkError, Result};
use crate::host::HostLinks;
use crate::link::{self, Link};
use crate::name::IfName;
use crate::netlink::{Batch, Mode};
use crate::sysctl;

/// Makes the bridge ready with a gateway for each of `subnets`, and returns its index.
///
/// Errors: exists, for an interface that is not ours; it is not touched. Wrong state, for a subnet that the host is in by
/// another link; one whose gateway the bridge has already is not asked about, since pods may be in it.
pub(crate) fn ensure(config: &NetworkConfig, subnets: &[IpNet]) -> Result<u32> {
    let name = &config.bridge;
    let failed = |source| Error::Bridge { bridge: name.clone(), source };
    let host = HostLinks::open().map_err(failed)?;
    let found = host.find(name).map_err(failed)?.map(|_| find_own(&host, name)).transpose()?;
    let index = found.as_ref().map(|bridge| bridge.index);
    let present = index.map_or(Ok(Vec::new()), |index| gateways(&host, index)).map_err(failed)?;
    let is_new = |subnet: &&IpNet| !present.iter().any(|address| address.addr() == gateway(subnet));
    check_beside(&host, config, index, subnets.iter().filter(is_new))?;
    if found.is_none() {
        create(&host, name, subnets).map_err(failed)?;
    }
    let bridge = find_own(&host, name)?;
    if sysctl::has_ipv6() {
        sysctl::deafen_to_routers(name)?;
    }
    if subnets.iter().any(|subnet| subnet.addr().is_ipv6()) {
        sysctl::settle_bridge_v6(name)?;
    }
    settle(&host, bridge.index, config.mtu, subnets).map_err(failed)?;
    take_ports_back(&host, name, bridge.index).map_err(failed)?;
    Ok(bridge.index)
}

/// Gives the bridge its gateways anew, of `subnets` and no others.
pub(crate) fn renumber(config: &NetworkConfig, subnets: &[IpNet]) -> Result<()> {
    let name = &config.bridge;
    let failed = |source| Error::Bridge { bridge: name.clone(), source };
    let host = HostLinks::open().map_err(failed)?;
    let index = find_own(&host, name)?.index;
    settle(&host, index, config.mtu, subnets).map_err(failed)
}

/// Looks whether the bridge has the gateway of each of `subnets`.
///
/// Errors: unavailable, when one is missing.
pub(crate) fn check_gateways(
    host: &HostLinks,
    bridge: &Link,
    name: &IfName,
    subnets: &[IpNet],
) -> Result<()> {
    let present =
        gateways(host, bridge.index).map_err(|source| Error::Bridge { bridge: name.clone(), source })?;
    let is_missing = |subnet: &&IpNet| !present.iter().any(|address| address.addr() == gateway(subnet));
    match subnets.iter().find(is_missing) {
        Some(_) => Err(Error::BridgeLost { bridge: name.clone(), state: "without a gateway address" }),
        None => Ok(()),
    }
}

/// The addresses that the bridge has, but for link-local ones.
pub(crate) fn gateways(host: &HostLinks, index: u32) -> std::result::Result<Vec<IpNet>, NetlinkError> {
    Ok(list_addresses(host)?.iter().filter_map(|body| address_on(body, index)).collect())
}

/// Takes the bridge's addresses in one subnet away; absent means done.
pub(crate) fn remove_gateways(
    host: &HostLinks,
    index: u32,
    subnet: &IpNet,
) -> std::result::Result<(), NetlinkError> {
    let stale = gateways(host, index)?.into_iter().filter(|address| address.trunc() == *subnet);
    let remove = |batch: Batch, address| {
        batch.route("remove gateway address", Mode::Plain, &link::delete_address(index, address))
    };
    host.send(stale.fold(Batch::default(), remove)).map(drop)
}

/// Looks whether the host has an address of one of `subnets` elsewhere than on the bridge.
///
/// Errors: wrong state, when it has.
pub(crate) fn check_host_addresses(config: &NetworkConfig, subnets: &[IpNet]) -> Result<()> {
    let name = &config.bridge;
    let host = HostLinks::open().map_err(|source| Error::Bridge { bridge: name.clone(), source })?;
    let bridge = find_own(&host, name)?.index;
    check_beside(&host, config, Some(bridge), subnets.iter())
}

fn check_beside<'a>(
    host: &HostLinks,
    config: &NetworkConfig,
    bridge: Option<u32>,
    mut subnets: impl Iterator<Item = &'a IpNet>,
) -> Result<()> {
    let failed = |source| Error::Bridge { bridge: config.bridge.clone(), source };
    let told = list_addresses(host).map_err(failed)?;
    let beside: Vec<_> = told.iter().filter_map(|body| address_beside(body, bridge)).collect();
    let clash = subnets.find_map(|subnet| {
        let address = beside.iter().find(|address| subnet.contains(&address.addr()))?;
        Some(Error::SubnetOfHost { subnet: *subnet, address: address.addr() })
    });
    clash.map_or(Ok(()), Err)
}

/// Whether one of the settings' subnets and a network that a link of the host is in have addresses in common.
pub(crate) fn overlap_with_host(config: &NetworkConfig) -> Result<bool> {
    let failed = |source| Error::Bridge { bridge: config.bridge.clone(), source };
    let told = HostLinks::open().and_then(|host| list_addresses(&host)).map_err(failed)?;
    let messages = told.iter().filter_map(|body| AddressMessage::parse(body).ok());
    let networks: Vec<IpNet> = messages.filter_map(|message| address_of(&message)).collect();
    Ok(config.subnets.iter().any(|subnet| networks.iter().any(|network| overlap(subnet, network))))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// A bridge that has been deleted left its pods' links behind; one that was never away keeps its ports by this.
fn take_ports_back(host: &HostLinks, name: &IfName, index: u32) -> std::result::Result<(), NetlinkError> {
    for link in host.list()? {
        let ours = link.alias.as_deref().is_some_and(|alias| name.pod_of_alias(alias).is_some());
        if ours && link.controller != Some(index) {
            let batch = Batch::default()
                .route("take port back", Mode::Plain, &link::set_controller(link.index, index))
                .route("settle bridge port", Mode::Plain, &link::settle_carrier(link.index));
            match host.send(batch) {
                // A pod's link may go at any moment.
                Err(error) if error.is_no_device() => {}
                taken => drop(taken?),
            }
            tracing::warn!(link = link.name, bridge = %name, "port taken back by the bridge");
        }
    }
    Ok(())
}

fn list_addresses(host: &HostLinks) -> std::result::Result<Vec<Vec<u8>>, NetlinkError> {
    host.send(Batch::default().route("list addresses", Mode::Dump, &link::list_addresses()))
}

/// Our bridge as it is now.
///
/// Errors: exists, when the interface of that name is not ours; unavailable, when there is none.
pub(crate) fn find_own(host: &HostLinks, name: &IfName) -> Result<Link> {
    let found = host.find(name).map_err(|source| Error::Bridge { bridge: name.clone(), source })?;
    let Some(link) = found else {
        return Err(Error::BridgeLost { bridge: name.clone(), state: "gone" });
    };
    let kind = link.kind.as_deref().unwrap_or("device");
    let alias = link.alias.as_deref().unwrap_or_default();
    if kind == "bridge" && alias == name.bridge_alias() {
        return Ok(link);
    }
    Err(Error::ForeignBridge { bridge: name.clone(), found: format!("{kind} with alias {alias:?}") })
}

fn create(host: &HostLinks, name: &IfName, subnets: &[IpNet]) -> std::result::Result<(), NetlinkError> {
    let address = subnets.first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), gateway);
    let batch = Batch::default()
        .route("create bridge", Mode::Create, &link::create_bridge(name, address))
        .route("mark bridge as ours", Mode::Plain, &link::set_alias(name, &name.bridge_alias()));
    host.send(batch)?;
    tracing::info!(bridge = %name, "bridge created");
    Ok(())
}

/// Brings the bridge up with exactly the wanted addresses; link-local ones are the kernel's affair.
fn settle(
    host: &HostLinks,
    index: u32,
    mtu: Option<u32>,
    subnets: &[IpNet],
) -> std::result::Result<(), NetlinkError> {
    let told = list_addresses(host)?;
    let wanted = |address: &IpNet| {
        subnets.iter().any(|net| gateway(net) == address.addr() && net.prefix_len() == address.prefix_len())
    };
    let mut batch = Batch::default();
    for stale in told.iter().filter_map(|body| address_on(body, index)).filter(|address| !wanted(address)) {
        batch = batch.route("remove old gateway address", Mode::Plain, &link::delete_address(index, stale));
    }
    for subnet in subnets {
        let message = link::add_address(index, gateway(subnet), subnet);
        batch = batch.route("add gateway address to bridge", Mode::Put, &message);
    }
    host.send(batch.route("bring up bridge", Mode::Plain, &link::set_up(index, mtu)))?;
    Ok(())
}

/// The address that the body of an `RTM_NEWADDR` tells of, if it is on this link and not link-local.
pub(crate) fn address_on(body: &[u8], index: u32) -> Option<IpNet> {
    address_of(&AddressMessage::parse(body).ok().filter(|message| message.header.index == index)?)
}

/// The same for every link but this one.
fn address_beside(body: &[u8], index: Option<u32>) -> Option<IpNet> {
    address_of(&AddressMessage::parse(body).ok().filter(|message| Some(message.header.index) != index)?)
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    // IPv4 has both attributes, and the address proper is the local one; IPv6 has only the other.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Local(ip) = attribute { Some(*ip) } else { None });
    let plain = message
        .attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None });
    let address = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
    let link_local = matches!(address, IpNet::V6(net) if net.addr().is_unicast_link_local());
    (!link_local).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::NetlinkSerializable;

    #[test]
    fn networks_overlap_when_one_is_in_the_other() {
        for (one, other, expected) in [
            ("10.130.4.0/24", "10.130.4.9/24", true),
            ("10.130.4.0/24", "10.128.0.7/9", true),
            ("10.130.0.0/16", "10.130.4.9/32", true),
            ("10.130.4.0/24", "10.130.5.9/24", false),
            ("fd62::/64", "10.130.4.9/24", false),
            ("fd62::/64", "fd62::7/128", true),
        ] {
            let (one, other): (IpNet, IpNet) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(&one, &other), overlap(&other, &one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn addresses_of_the_bridge_are_told_from_others() {
        let check = |on: u32, address: &str, expected: Option<&str>| {
            let address: IpNet = address.parse().unwrap();
            let message = link::add_address(on, address.addr(), &address);
            let mut body = vec![0; message.buffer_len()];
            message.serialize(&mut body);
            let found = address_on(&body, 7).map(|net| net.to_string());
            assert_eq!(found.as_deref(), expected, "{address} on {on}");
        };
        check(7, "10.88.0.1/16", Some("10.88.0.1/16"));
        check(7, "fd62::1/64", Some("fd62::1/64"));
        check(7, "fe80::1/64", None);
        check(8, "10.88.0.1/16", None);
    }
}
