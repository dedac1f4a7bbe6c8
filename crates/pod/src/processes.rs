//! What the processes of a container hold open, as /proc tells.
//!
//! Containers can have any number of processes, and these any number of descriptors: beyond [`MOST_DESCRIPTORS`] a
//! container's are not looked at one by one, and its numbers are lower bounds. Processes come and go meanwhile; one
//! that has gone has nothing open.
//! Source: proc_pid_fd(5), proc_pid_limits(5).

use std::fs;

/// A look at each takes some microseconds.
const MOST_DESCRIPTORS: u64 = 50_000;

/// What the processes of a container hold open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Processes.
    pub processes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Those of them that are sockets.
    pub sockets: u64,
    /// Descriptors that the first process may have open; `None` without a limit.
    pub descriptors_limit: Option<u64>,
}

/// Looks at processes, by their ids in this pid namespace; `first` is the container's own. Blocks.
pub(crate) fn look_at(pids: &[u32], first: Option<i32>) -> ProcessUsage {
    let limits = first.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let mut usage = ProcessUsage {
        processes: pids.len() as u64,
        descriptors_limit: limits.as_deref().and_then(open_files_limit),
        ..ProcessUsage::default()
    };
    for pid in pids {
        for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if usage.descriptors == MOST_DESCRIPTORS {
                return usage;
            }
            usage.descriptors += 1;
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            usage.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    usage
}

/// The soft limit in the line `Max open files  1024  524288  files`.
fn open_files_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_from_other_descriptors() {
        let own = std::process::id();
        let before = look_at(&[own], None);
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let _file = fs::File::open("/").unwrap();
        let after = look_at(&[own], i32::try_from(own).ok());
        // Other tests open and close some at the same time.
        assert!(after.descriptors >= 3 && after.sockets >= 2, "{before:?} {after:?}");
        assert!(after.descriptors > after.sockets && after.descriptors_limit.is_some(), "{after:?}");
        assert_eq!(look_at(&[0], Some(0)), ProcessUsage { processes: 1, ..ProcessUsage::default() });
    }

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             95922                95922                processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(open_files_limit(text), Some(1024));
        assert_eq!(open_files_limit(&text.replace("1024  ", "unlimited")), None);
        assert_eq!(open_files_limit(""), None);
    }
}
