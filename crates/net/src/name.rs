//! Names of network interfaces, checked once, and the aliases by which the kernel's links are known as ours.
//!
//! A link carries two marks: its name, which the kernel limits to 15 bytes, and its alias, which has room
//! for the whole pod id and for the bridge, so that agents with different bridges never take each other's.
//!
//! ```text
//! berth:berth0:bridge        the bridge itself
//! berth:berth0:pod:ID        the host's end of a pod's veth pair
//! ```

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Longest name that the kernel takes: `IFNAMSIZ` without the ending zero.
const MAX_BYTES: usize = 15;

/// How many characters of a pod id make the name of its host-side link: 48 bits of a hexadecimal id.
const ID_CHARACTERS: usize = 12;

/// The name of a network interface: 1 to 15 printable ASCII characters without slash, colon or percent sign.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// Checks `name` by the kernel's rules, and a little more strictly (ASCII only).
    ///
    /// Source: `dev_valid_name` in Linux; a percent sign would ask the kernel to number the name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let allowed = |c: char| c.is_ascii_graphic() && !"/:%".contains(c);
        let valid =
            (1..=MAX_BYTES).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != "..";
        if valid { Ok(Self(name)) } else { Err(Error::BadInterfaceName { name }) }
    }

    /// The name of the host's end of a pod's veth pair: `bth` and the first twelve characters of the pod's id.
    ///
    /// The id must begin with twelve ASCII letters or digits.
    pub fn from_pod_id(pod_id: &str) -> Result<Self> {
        match pod_id.get(..ID_CHARACTERS) {
            Some(start) if start.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Ok(Self(format!("bth{start}")))
            }
            _ => Err(Error::BadPodId { pod_id: pod_id.into() }),
        }
    }

    /// The bridge's name where the settings have none.
    pub(crate) fn default_bridge() -> Self {
        Self("berth0".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The alias of this bridge.
    pub(crate) fn bridge_alias(&self) -> String {
        format!("berth:{self}:bridge")
    }

    /// The alias of the veth that joins the pod to this bridge.
    pub(crate) fn pod_alias(&self, pod_id: &str) -> String {
        format!("berth:{self}:pod:{pod_id}")
    }

    /// The pod's id from an alias that [`IfName::pod_alias`] made for this bridge.
    pub(crate) fn pod_of_alias<'a>(&self, alias: &'a str) -> Option<&'a str> {
        alias.strip_prefix("berth:")?.strip_prefix(self.as_str())?.strip_prefix(":pod:")
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for IfName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kernels_rules() {
        for good in ["berth0", "a", "eth0.100", "fifteen-bytes-x"] {
            assert_eq!(IfName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a:b", "eth%d", "with space", "sixteen-bytes-xx", "brücke"] {
            assert!(IfName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn host_name_is_taken_from_the_pod_id() {
        let name = IfName::from_pod_id("0123456789abcdef0123").unwrap();
        assert_eq!(name.as_str(), "bth0123456789ab");
        for bad in ["", "0123456789a", "0123/56789ab", "äääääääääääää"] {
            assert!(IfName::from_pod_id(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn alias_names_bridge_and_pod() {
        let bridge = IfName::new("berth0").unwrap();
        assert_eq!(bridge.pod_of_alias(&bridge.pod_alias("f00d")), Some("f00d"));
        for foreign in ["", "uplink", "berth:berth0:bridge", "berth:berth01:pod:f00d", "berth:other:pod:f00d"]
        {
            assert_eq!(bridge.pod_of_alias(foreign), None, "{foreign:?}");
        }
    }
}
