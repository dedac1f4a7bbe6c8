//! The network's settings, as the agent's configuration file has them, and their validation.
//!
//! Every key has a default. [`NetworkConfig::validate`] runs once at the edge; the rest of the crate relies
//! on what it promises and does not check again.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::pod_range;
use crate::error::{Error, Result};
use crate::name::IfName;

/// IPv6 needs links of at least 1280 bytes (RFC 8200); the kernel's veth takes at most 65535.
const MTU_BYTES: RangeInclusive<u32> = 1280..=65535;

/// Longest table name that nftables takes, without the ending zero.
const TABLE_NAME_BYTES: usize = 255;

/// The settings of the pod network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// The bridge that joins the pods; it is created, and must not be someone else's.
    pub bridge: IfName,
    /// Where pods get their addresses: at most one IPv4 and one IPv6 subnet; the first is the primary one.
    /// In each, the first address is the gateway, which the bridge carries. A pod CIDR that the kubelet gives
    /// (its podCIDR, if the node has one) takes their place for new pods, also after a restart.
    #[schemars(with = "Vec<String>")]
    pub subnets: Vec<IpNet>,
    /// Whether to be not ready, and to give no pod an address, until the kubelet has given a pod CIDR.
    pub wait_for_pod_cidr: bool,
    /// The MTU of bridge and pods in bytes, 1280 to 65535; unset leaves the kernel's default of 1500.
    pub mtu: Option<u32>,
    /// The nftables table that is ours alone: it is replaced as a whole.
    pub nft_table: String,
    /// Whether what leaves a pod subnet gets the host's address.
    pub masquerade: bool,
    /// Whether to make the host forward packets (`net.ipv4.ip_forward` and its IPv6 like). Without it pods
    /// reach each other and the host, and nothing else unless something else has enabled it.
    pub forwarding: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: IfName::default_bridge(),
            subnets: vec![
                IpNet::V4(Ipv4Net::new_assert([10, 88, 0, 0].into(), 16)),
                IpNet::V6(Ipv6Net::new_assert([0xfd62, 0x6572, 0x7468, 0, 0, 0, 0, 0].into(), 64)),
            ],
            wait_for_pod_cidr: false,
            mtu: None,
            nft_table: "berth".into(),
            masquerade: true,
            forwarding: true,
        }
    }
}

impl NetworkConfig {
    /// Checks every value; the error names the key and the value.
    pub fn validate(&self) -> Result<()> {
        check_subnets("subnets", &self.subnets)?;
        if let Some(mtu) = self.mtu.filter(|mtu| !MTU_BYTES.contains(mtu)) {
            return Err(invalid("mtu", mtu, "is not between 1280 and 65535"));
        }
        let named = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
        let table = &self.nft_table;
        let starts_well = table.starts_with(|c: char| c.is_ascii_alphabetic());
        if !starts_well || !table.chars().all(named) || table.len() > TABLE_NAME_BYTES {
            return Err(invalid("nft_table", table, "is not a letter followed by letters, digits or _-./"));
        }
        Ok(())
    }
}

/// What a list of pod subnets must be, wherever it comes from; `key` is for the error.
pub(crate) fn check_subnets(key: &'static str, subnets: &[IpNet]) -> Result<()> {
    if subnets.is_empty() {
        return Err(invalid(key, "[]", "needs at least one subnet"));
    }
    for (n, subnet) in subnets.iter().enumerate() {
        check_subnet(key, subnet)?;
        let same_family = |other: &IpNet| other.addr().is_ipv4() == subnet.addr().is_ipv4();
        if subnets[..n].iter().any(same_family) {
            return Err(invalid(key, subnet, "is the second of its address family"));
        }
    }
    Ok(())
}

fn check_subnet(key: &'static str, subnet: &IpNet) -> Result<()> {
    let ip = subnet.addr();
    if ip != subnet.network() {
        return Err(invalid(key, subnet, "has bits set beyond its prefix"));
    }
    let (first, last) = pod_range(subnet);
    if first > last {
        return Err(invalid(key, subnet, "is too small for a gateway and a pod"));
    }
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || link_local {
        return Err(invalid(key, subnet, "is not made of addresses that a pod can have"));
    }
    Ok(())
}

pub(crate) fn invalid(key: &'static str, value: impl ToString, problem: &'static str) -> Error {
    Error::Config { key, value: value.to_string(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid_and_survives_toml() {
        let config = NetworkConfig::default();
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<NetworkConfig>(&text).unwrap(), config);
        assert_eq!(toml::from_str::<NetworkConfig>("").unwrap(), config);
        assert!(toml::from_str::<NetworkConfig>("bride = 'berth1'").is_err());
        assert!(toml::from_str::<NetworkConfig>("bridge = 'a/b'").is_err());
    }

    #[test]
    fn nonsense_is_refused_naming_key_and_value() {
        let check = |text: &str, expected: &str| {
            let config: NetworkConfig = toml::from_str(text).unwrap();
            let found = config.validate().map_or_else(|e| e.to_string(), |()| "valid".into());
            assert_eq!(found, expected, "{text}");
        };
        check("subnets = ['10.0.0.0/30']", "valid");
        check("subnets = ['fd62::/64', '10.0.0.0/8']", "valid");
        check("mtu = 9000\nnft_table = 'berth-2'", "valid");
        check("subnets = []", "check network setting subnets = []: needs at least one subnet");
        check(
            "subnets = ['10.0.0.0/24', '10.1.0.0/24']",
            "check network setting subnets = 10.1.0.0/24: is the second of its address family",
        );
        check(
            "subnets = ['10.0.0.1/24']",
            "check network setting subnets = 10.0.0.1/24: has bits set beyond its prefix",
        );
        check(
            "subnets = ['10.0.0.0/31']",
            "check network setting subnets = 10.0.0.0/31: is too small for a gateway and a pod",
        );
        let unusable = "is not made of addresses that a pod can have";
        for subnet in ["127.0.0.0/8", "224.0.0.0/8", "0.0.0.0/0", "169.254.0.0/16", "fe80::/64", "ff02::/64"]
        {
            let expected = format!("check network setting subnets = {subnet}: {unusable}");
            check(&format!("subnets = ['{subnet}']"), &expected);
        }
        check("mtu = 1000", "check network setting mtu = 1000: is not between 1280 and 65535");
        let table = "is not a letter followed by letters, digits or _-./";
        check("nft_table = ''", &format!("check network setting nft_table = : {table}"));
        check("nft_table = 'a b'", &format!("check network setting nft_table = a b: {table}"));
    }
}
