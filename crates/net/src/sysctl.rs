//! The few kernel settings below `/proc/sys/net` that the network needs, changed only where they differ.
//!
//! `/proc/sys/net` shows the network namespace of whoever opens it, so these are the host's. A change of
//! something that others share (forwarding) is logged; the bridge's own settings are not. Nothing is changed
//! back when the agent stops: pods go on running without it.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::name::IfName;

const IPV6_CONF: &str = "net/ipv6/conf";

/// Whether the kernel knows IPv6: it was not left out at boot.
pub(crate) fn has_ipv6() -> bool {
    path_of("net/ipv6").exists()
}

/// Whether the host has IPv6 at all: neither left out at boot nor disabled for every link.
pub(crate) fn ipv6_enabled() -> bool {
    read("net/ipv6/conf/all/disable_ipv6").is_ok_and(|value| value == "0")
}

/// Has the host forward IPv4 packets.
pub(crate) fn enable_forwarding_v4() -> Result<()> {
    set_shared("net/ipv4/ip_forward", "1")
}

/// Has the host forward IPv6 packets, and go on learning its own routes from router advertisements.
///
/// A host that forwards ignores advertisements on links where `accept_ra` is 1, and would lose its default
/// route when that expires; 2 means to listen nonetheless. So this is set first, on every link that listens
/// now. Source: Linux `Documentation/networking/ip-sysctl.rst`, `accept_ra`.
pub(crate) fn enable_forwarding_v6() -> Result<()> {
    let forwarding = "net/ipv6/conf/all/forwarding";
    if read(forwarding).is_ok_and(|value| value == "1") {
        return Ok(());
    }
    for link in listening_links().unwrap_or_default() {
        match set_shared(&format!("{IPV6_CONF}/{link}/accept_ra"), "2") {
            // Links of others come and go at any time.
            Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    set_shared(forwarding, "1")
}

/// Has our bridge heed no routers: a pod could pose as one, also where no pod has an IPv6 address (CVE-2020-10749).
pub(crate) fn deafen_to_routers(bridge: &IfName) -> Result<()> {
    set(&format!("{IPV6_CONF}/{bridge}/accept_ra"), "0").map(drop)
}

/// Makes IPv6 on our bridge usable at once.
pub(crate) fn settle_bridge_v6(bridge: &IfName) -> Result<()> {
    for (key, value) in [("disable_ipv6", "0"), ("accept_dad", "0")] {
        set(&format!("{IPV6_CONF}/{bridge}/{key}"), value)?;
    }
    Ok(())
}

/// Lets the host's loopback be reached across the bridge, in both directions; our rules keep pods from it.
pub(crate) fn route_loopback(bridge: &IfName) -> Result<()> {
    set(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1").map(drop)
}

/// The links that take router advertisements now, and would not when the host forwards.
fn listening_links() -> io::Result<Vec<String>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(path_of(IPV6_CONF))? {
        let link = entry?.file_name().to_string_lossy().into_owned();
        let listens = read(&format!("{IPV6_CONF}/{link}/accept_ra")).is_ok_and(|value| value == "1");
        if listens && !matches!(link.as_str(), "all" | "default" | "lo") {
            links.push(link);
        }
    }
    Ok(links)
}

fn set_shared(name: &str, value: &'static str) -> Result<()> {
    if set(name, value)? == Change::Made {
        tracing::info!(sysctl = name, value, "host setting changed");
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Change {
    Made,
    NotNeeded,
}

/// Writes only where the value differs: a host may mount `/proc/sys` read-only with all of it in place.
fn set(name: &str, value: &'static str) -> Result<Change> {
    let failed = |source| Error::Sysctl { name: name.into(), value, source };
    if read(name).map_err(failed)? == value {
        return Ok(Change::NotNeeded);
    }
    fs::write(path_of(name), value).map_err(failed)?;
    Ok(Change::Made)
}

fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path_of(name))?.trim().to_owned())
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}
