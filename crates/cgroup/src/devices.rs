//! Which devices the processes of a cgroup may open or make.
//!
//! On version 1 a list that the kernel keeps in the `devices` hierarchy. On version 2 there is no such file: the policy
//! is an eBPF program attached to the directory, which is not here yet; a caller learns so from [`DeviceControl`].
//! Source: kernel admin-guide/cgroup-v1/devices; OCI runtime-spec, "Default Devices" and "Device allowed list".

use std::fmt;

/// What kind of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
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
    /// Any of `r` (read), `w` (write) and `m` (make the node).
    pub access: &'static str,
}

/// Whether a device policy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceControl {
    /// The kernel enforces it.
    Enforced,
    /// There is nothing here that could: any device node that exists or can be made can be opened.
    Absent,
}

/// What every container may use: nodes of all kinds may be made, but only these opened.
pub const DEFAULT_DEVICES: [DeviceRule; 10] = [
    DeviceRule { kind: DeviceKind::Char, major: None, minor: None, access: "m" },
    DeviceRule { kind: DeviceKind::Block, major: None, minor: None, access: "m" },
    char_device(1, Some(3)), // null
    char_device(1, Some(5)), // zero
    char_device(1, Some(7)), // full
    char_device(1, Some(8)), // random
    char_device(1, Some(9)), // urandom
    char_device(5, Some(0)), // tty
    char_device(5, Some(2)), // ptmx
    char_device(136, None),  // pts/*
];

const fn char_device(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule { kind: DeviceKind::Char, major: Some(major), minor, access: "rwm" }
}

impl fmt::Display for DeviceRule {
    /// The kernel's form, `c 136:* rwm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Char => 'c',
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
}
