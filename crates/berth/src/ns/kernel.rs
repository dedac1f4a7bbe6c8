//! What `/proc/PID/ns` says: links such as `net:[4026531840]`, of which the number is the namespace's inode. Two
//! processes are in one namespace exactly when the numbers agree (namespaces(7)).

use std::fs;

/// The kinds of namespace, in the order of the table's columns.
pub(super) const KINDS: [&str; 8] = ["net", "ipc", "uts", "user", "pid", "mnt", "cgroup", "time"];

/// One inode for each of [`KINDS`]; `None` where the process is gone or the kernel has no such namespace.
pub(super) type Namespaces = [Option<u64>; KINDS.len()];

/// Reads the namespaces of a process; needs root for those of others.
pub(super) fn namespaces_of(pid: u32) -> Namespaces {
    KINDS.map(|kind| inode(fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?.to_str()?))
}

/// Those of the machine: of its first process or, where even root may not look at that one, our own.
pub(super) fn namespaces_of_host() -> Namespaces {
    let (first, own) = (namespaces_of(1), namespaces_of(std::process::id()));
    std::array::from_fn(|kind| first[kind].or(own[kind]))
}

fn inode(link: &str) -> Option<u64> {
    link.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_what_stands_in_brackets() {
        assert_eq!(inode("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(inode("net:4026531840"), None);
        assert_eq!(inode("net:[]"), None);
    }

    #[test]
    fn every_process_is_in_a_namespace_of_each_old_kind() {
        let own = namespaces_of(std::process::id());
        assert!(own[..6].iter().all(Option::is_some), "{own:?}");
    }
}
