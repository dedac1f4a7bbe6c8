//! Capabilities by name, and the sets that a container gets. Source: capabilities(7).

use serde::{Deserialize, Serialize};

/// All capabilities in the order of their numbers, as of Linux 6.18.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
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

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
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
