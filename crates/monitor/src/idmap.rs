//! How the ids of a pod's user namespace map to the host's: values only, checked when they are made.
//!
//! A pod has one range of users and one of groups, both from 0 up inside. That is all that the CRI allows, and what the
//! kubelet gives. Source: CRI `UserNamespace`; user_namespaces(7), "User and group ID mappings".

use serde::{Deserialize, Serialize};

/// The user namespace of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Its users.
    pub uids: IdRange,
    /// Its groups.
    pub gids: IdRange,
}

/// The ids 0 to `length` - 1 inside, which are `host` to `host + length` - 1 outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    host: u32,
    length: u32,
}

impl IdRange {
    /// `None` for an empty range, and for one that leaves the kernel's ids (all ones is nobody's).
    pub fn new(host: u32, length: u32) -> Option<Self> {
        let end = host.checked_add(length)?;
        (length > 0 && end < u32::MAX).then_some(Self { host, length })
    }

    /// The host's id of root inside.
    pub fn host_root(self) -> u32 {
        self.host
    }

    /// How many ids there are inside.
    pub fn length(self) -> u32 {
        self.length
    }

    /// The host's id of one inside; `None` for one that the namespace does not have.
    pub fn host_id(self, inside: u32) -> Option<u32> {
        (inside < self.length).then(|| self.host + inside)
    }

    /// The line for `/proc/PID/uid_map` or `gid_map`.
    pub(crate) fn line(self) -> String {
        format!("0 {} {}\n", self.host, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_the_kernel_can_map() {
        let check =
            |host, length, want| assert_eq!(IdRange::new(host, length).is_some(), want, "{host} {length}");
        check(65536, 65536, true);
        check(0, 1, true);
        check(1000, 0, false);
        check(u32::MAX - 2, 1, true);
        check(u32::MAX - 1, 1, false);
        check(1, u32::MAX, false);
    }

    #[test]
    fn ids_inside_have_ids_outside() {
        let range = IdRange::new(1000, 50).unwrap();
        assert_eq!((range.host_root(), range.host_id(49), range.host_id(50)), (1000, Some(1049), None));
        assert_eq!(range.line(), "0 1000 50\n");
    }
}
