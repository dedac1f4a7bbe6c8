//! A profile with nothing left to decide: for one kernel, one architecture, one set of capabilities.

use crate::action::Action;
use crate::arch::Arch;
use crate::condition::Condition;

/// What a profile's conditional rules may depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The node's architecture.
    pub arch: Arch,
    /// The kernel's version and major revision: `(6, 18)`.
    pub kernel: (u32, u32),
    /// The container's bounding set, as full upper-case names (`CAP_SYS_ADMIN`).
    pub capabilities: Vec<&'static str>,
}

impl Facts {
    pub(crate) fn has(&self, capability: &str) -> bool {
        self.capabilities.contains(&capability)
    }
}

/// What a filter does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// For calls that no rule speaks of.
    pub default: Action,
    /// Whose calls the rules are for; a call of any other architecture kills the process. The node's own comes first.
    pub arches: Vec<Arch>,
    /// In order. Where several speak of a call, [`crate::compile()`] says which one holds.
    pub rules: Vec<Rule>,
    /// For the kernel, at the installation. Source: seccomp(2), `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The calls; a name that an architecture does not have means nothing there.
    pub names: Vec<String>,
    /// What happens to them.
    pub action: Action,
    /// Only when all of these hold.
    pub conditions: Vec<Condition>,
}
