//! Capabilities by name, and the sets that a container gets. Source: capabilities(7).

use serde::{Deserialize, Serialize};

/// All capabilities in the order of their numbers, as of Linux 6.18.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has when nothing is said, as with containerd.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// CAP_MKNOD, as a set.
pub const MKNOD: u64 = 1 << 27;

/// Every capability that has a name.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// Changes to the default set. Source: CRI `Capability`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityNames {
    /// With or without `CAP_`, in any case, or `ALL`.
    pub add: Vec<String>,
    /// The same.
    pub drop: Vec<String>,
    /// Added, and kept by a workload that is not root.
    pub add_ambient: Vec<String>,
}

/// A name that is no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no capability")]
pub struct UnknownCapability(pub String);

impl CapabilityNames {
    /// The set that a container gets, and its ambient part. Adding wins over dropping `ALL`, dropping by name over
    /// adding `ALL`, as with containerd.
    ///
    /// # Errors
    /// A name that is no capability.
    pub fn resolve(&self) -> Result<(u64, u64), UnknownCapability> {
        let [add, drop, ambient] =
            [&self.add, &self.drop, &self.add_ambient].map(|names| Request::parse(names));
        let (add, drop, ambient) = (add?, drop?, ambient?);
        let mut set = default_set();
        if add.all {
            set = ALL;
        }
        if drop.all {
            set = if add.all { ALL } else { 0 };
        }
        set = (set & !drop.named) | (add.named & !(if drop.all { 0 } else { drop.named }));
        let ambient = if ambient.all { ALL } else { ambient.named };
        Ok((set | ambient, ambient))
    }
}

/// The set of a container for which nothing was said.
pub fn default_set() -> u64 {
    DEFAULT.iter().filter_map(|name| number(name)).map(|number| 1 << number).sum()
}

#[derive(Default)]
struct Request {
    all: bool,
    named: u64,
}

impl Request {
    fn parse(names: &[String]) -> Result<Self, UnknownCapability> {
        let mut request = Self::default();
        for name in names {
            let upper = name.to_ascii_uppercase();
            match upper.strip_prefix("CAP_").unwrap_or(&upper) {
                "ALL" => request.all = true,
                short => {
                    request.named |= 1 << number(short).ok_or_else(|| UnknownCapability(name.clone()))?
                }
            }
        }
        Ok(request)
    }
}

/// The names of a set's members, with `CAP_`.
pub fn names_of(set: u64) -> Vec<&'static str> {
    NAMES.iter().enumerate().filter(|(number, _)| set >> number & 1 == 1).map(|(_, name)| *name).collect()
}

/// By the name without `CAP_`.
fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| known.strip_prefix("CAP_") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], want: u64) {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let names = CapabilityNames { add: own(add), drop: own(drop), add_ambient: vec![] };
        assert_eq!(names.resolve(), Ok((want, 0)), "add {add:?} drop {drop:?}");
    }

    #[test]
    fn additions_and_drops_meet_as_kubernetes_says() {
        let (net_admin, chown) = (1 << 12, 1);
        check(&[], &[], 0xa804_25fb);
        check(&["NET_ADMIN"], &[], 0xa804_25fb | net_admin);
        check(&["CAP_NET_ADMIN"], &["all"], net_admin);
        check(&[], &["chown"], 0xa804_25fb & !chown);
        check(&["ALL"], &["CHOWN"], ALL & !chown);
        check(&["ALL"], &["ALL"], ALL);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let names = CapabilityNames { add: vec!["CAP_FLY".to_owned()], ..CapabilityNames::default() };
        assert_eq!(names.resolve(), Err(UnknownCapability("CAP_FLY".to_owned())));
    }
}
