//! Whether this node can give pods user namespaces, and what of a pod has to belong to them.

use std::os::unix::fs::chown;
use std::path::Path;

use berth_monitor::idmap::IdMaps;
use rustix::fs::statfs;

use crate::confinement::version_of;
use crate::error::{Error, Result};

/// Overlayfs takes id-mapped layers since this version.
const KERNEL: (u32, u32) = (5, 19);

/// Filesystems that can be id-mapped, by their magic numbers (statfs(2)), and since which version.
const FILESYSTEMS: [(u64, (u32, u32)); 5] = [
    (0xef53, (5, 12)),      // ext4
    (0x5846_5342, (5, 12)), // xfs
    (0x9123_683e, (5, 15)), // btrfs
    (0xf2f5_2010, (5, 18)), // f2fs
    (0x0102_1994, (6, 3)),  // tmpfs
];

/// Asks the kernel once: whether it has user namespaces, and can map the filesystem with the images and writable
/// layers.
pub(crate) fn are_supported(root: &Path) -> bool {
    let allowed = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let filesystem = statfs(root).map_or(0, |found| found.f_type as u64);
    allowed.trim() != "0" && !allowed.is_empty() && can_map(&release, filesystem)
}

fn can_map(release: &str, filesystem: u64) -> bool {
    let version = version_of(release);
    let since = FILESYSTEMS.iter().find(|(magic, _)| *magic == filesystem).map(|(_, since)| *since);
    version >= KERNEL && since.is_some_and(|since| version >= since)
}

/// Gives the files that a pod's containers share to its root. Blocks.
pub(crate) fn give_files(directory: &Path, maps: &IdMaps) -> Result<()> {
    for name in ["hosts", "hostname", "resolv.conf"] {
        let path = directory.join(name);
        let given = chown(&path, Some(maps.uids.host_root()), Some(maps.gids.host_root()));
        given.map_err(Error::file("change owner of", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_and_filesystem_both_have_a_say() {
        let check = |release, filesystem, want| {
            assert_eq!(can_map(release, filesystem), want, "{release} {filesystem:x}");
        };
        check("6.18.44-fc", 0xef53, true);
        check("5.19.0", 0x5846_5342, true);
        check("5.15.0-91-generic", 0xef53, false);
        check("6.1.0", 0x0102_1994, false);
        check("6.3.0", 0x0102_1994, true);
        // nfs
        check("6.18.0", 0x6969, false);
        check("unreadable", 0xef53, false);
    }
}
