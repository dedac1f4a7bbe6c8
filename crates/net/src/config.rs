//! The network's settings, as the agent's configuration file has them, and their validation.
//!
//! Every key has a default. [`NetworkConfig::validate`] runs once at the edge; the rest of the crate relies
//! on what it promises and does not check again.

use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::{overlap, pod_range};
use crate::error::{Error, Result};
use crate::name::IfName;

/// IPv6 needs links of at least 1280 bytes (RFC 8200); the kernel's veth takes at most 65535.
const MTU_BYTES: RangeInclusive<u32> = 1280..=65535;

/// Longest table name that nftables takes, without the ending zero.
const TABLE_NAME_BYTES: usize = 255;

/// The loopback interface, and what stands for all others in the names of their parameters.
const NO_BRIDGES: [&str; 3] = ["lo", "all", "default"];

/// What no pod can have an address of, and why. Source: the special-purpose address registries of IANA (RFC 6890).
const UNUSABLE: [(&str, &str); 9] = [
    ("0.0.0.0/8", "overlaps with 0.0.0.0/8, which stands for no address"),
    ("127.0.0.0/8", "overlaps with 127.0.0.0/8, which is loopback"),
    ("169.254.0.0/16", "overlaps with 169.254.0.0/16, which is link-local"),
    ("224.0.0.0/4", "overlaps with 224.0.0.0/4, which is multicast"),
    ("240.0.0.0/4", "overlaps with 240.0.0.0/4, which is reserved"),
    // Loopback, mapped IPv4 and what stands for no address are all in it.
    ("::/8", "overlaps with ::/8, which is reserved"),
    ("fe80::/10", "overlaps with fe80::/10, which is link-local"),
    ("fec0::/10", "overlaps with fec0::/10, which is no longer in use"),
    ("ff00::/8", "overlaps with ff00::/8, which is multicast"),
];

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
        if NO_BRIDGES.contains(&self.bridge.as_str()) {
            return Err(invalid("bridge", &self.bridge, "is a name that the kernel keeps for itself"));
        }
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
    let in_it = |range: &str| range.parse().is_ok_and(|range| overlap(&range, subnet));
    match UNUSABLE.iter().find(|(range, _)| in_it(range)) {
        Some((_, problem)) => Err(invalid(key, subnet, problem)),
        None => Ok(()),
    }
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
        for (subnet, range, kind) in [
            ("0.0.0.0/0", "0.0.0.0/8", "stands for no address"),
            ("127.0.0.0/8", "127.0.0.0/8", "is loopback"),
            ("126.0.0.0/7", "127.0.0.0/8", "is loopback"),
            ("169.254.0.0/16", "169.254.0.0/16", "is link-local"),
            ("224.0.0.0/8", "224.0.0.0/4", "is multicast"),
            ("240.0.0.0/4", "240.0.0.0/4", "is reserved"),
            ("255.255.255.0/24", "240.0.0.0/4", "is reserved"),
            ("128.0.0.0/1", "169.254.0.0/16", "is link-local"),
            ("::/0", "::/8", "is reserved"),
            ("::ffff:10.0.0.0/120", "::/8", "is reserved"),
            ("fe80::/64", "fe80::/10", "is link-local"),
            ("ff02::/64", "ff00::/8", "is multicast"),
        ] {
            let expected =
                format!("check network setting subnets = {subnet}: overlaps with {range}, which {kind}");
            let subnet: IpNet = subnet.parse().unwrap();
            check(&format!("subnets = ['{subnet}']"), &expected);
        }
        check(
            "bridge = 'lo'",
            "check network setting bridge = lo: is a name that the kernel keeps for itself",
        );
        check("mtu = 1000", "check network setting mtu = 1000: is not between 1280 and 65535");
        let table = "is not a letter followed by letters, digits or _-./";
        check("nft_table = ''", &format!("check network setting nft_table = : {table}"));
        check("nft_table = 'a b'", &format!("check network setting nft_table = a b: {table}"));
    }
}
