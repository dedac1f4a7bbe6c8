//! Which devices the processes of a cgroup may open or make.
//!
//! A rule permits; what no rule permits is forbidden, and each access must be covered by one rule alone. On version 1
//! the rules are a list that the kernel keeps in the `devices` hierarchy. On version 2 they become a program, see
//! [`crate::device_program`].
//! Source: kernel admin-guide/cgroup-v1/devices; OCI runtime-spec, "Default Devices" and "Device allowed list".

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// What may be done with a device; at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAccess {
    /// Open it for reading.
    pub read: bool,
    /// Open it for writing.
    pub write: bool,
    /// Make its node.
    pub make: bool,
}

impl DeviceAccess {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, make: true };
    /// Nodes may be made, and not opened.
    pub const MAKE: Self = Self { read: false, write: false, make: true };

    /// Reads letters of `rwm`, in any order; `None` for others, and for none.
    pub fn parse(text: &str) -> Option<Self> {
        let is_known = !text.is_empty() && text.bytes().all(|letter| b"rwm".contains(&letter));
        let has = |letter| text.contains(letter);
        is_known.then(|| Self { read: has('r'), write: has('w'), make: has('m') })
    }
}

impl fmt::Display for DeviceAccess {
    /// The letters, in the order `rwm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.read, "r"), (self.write, "w"), (self.make, "m")];
        letters.into_iter().filter(|(has, _)| *has).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// Permits one device, or all with a major number, or all of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number; `None` for all.
    pub major: Option<u32>,
    /// Minor number; `None` for all.
    pub minor: Option<u32>,
    /// What may be done.
    pub access: DeviceAccess,
}

/// What every container may use: nodes of all kinds may be made, but only these opened. The host's console (5:1), which
/// containerd adds, is not among them: a container's `/dev/console` is a pseudo-terminal.
pub const DEFAULT_DEVICES: [DeviceRule; 10] = [
    DeviceRule { kind: DeviceKind::Character, major: None, minor: None, access: DeviceAccess::MAKE },
    DeviceRule { kind: DeviceKind::Block, major: None, minor: None, access: DeviceAccess::MAKE },
    character_device(1, Some(3)), // null
    character_device(1, Some(5)), // zero
    character_device(1, Some(7)), // full
    character_device(1, Some(8)), // random
    character_device(1, Some(9)), // urandom
    character_device(5, Some(0)), // tty
    character_device(5, Some(2)), // ptmx
    character_device(136, None),  // pts/*
];

const fn character_device(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule { kind: DeviceKind::Character, major: Some(major), minor, access: DeviceAccess::ALL }
}

impl fmt::Display for DeviceRule {
    /// The form that version 1 reads, `c 136:* rwm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Character => 'c',
            DeviceKind::Block => 'b',
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        let rules: Vec<_> = DEFAULT_DEVICES.iter().map(DeviceRule::to_string).collect();
        assert_eq!(rules[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(rules[9], "c 136:* rwm");
    }

    #[test]
    fn accesses_are_letters() {
        for (text, want) in [
            ("rwm", Some("rwm")),
            ("mr", Some("rm")),
            ("w", Some("w")),
            ("", None),
            ("rx", None),
            ("R", None),
        ] {
            let access = DeviceAccess::parse(text).map(|access| access.to_string());
            assert_eq!(access.as_deref(), want, "{text:?}");
        }
    }
}
