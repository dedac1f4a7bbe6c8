//! What a directory tree takes of its filesystem, counted as `du` does.
//!
//! The tree may be a stranger's and may change under the walk. What vanishes meanwhile is not counted, other
//! filesystems are not entered, and no symbolic link is followed. However wide or deep it is, the walk holds few
//! descriptors (one, and one more for each two thousand bytes of a path) and remembers at most [`MOST_PENDING`]
//! directories and [`MOST_LINKED`] inodes with several names. Beyond the first it does not look into further
//! directories; beyond the second each name counts for its share of the inode.

use std::{
    collections::HashSet,
    ffi::CStr,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat},
    io::Errno,
};
use std::os::unix::ffi::OsStrExt;

const MOST_PENDING: usize = 1 << 18;
const MOST_LINKED: usize = 1 << 16;
/// Half of what a path may have.
const MOST_PATH_BYTES: usize = 2000;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// What is allocated on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of allocated blocks.
    pub bytes: u64,
    /// Files, directories and everything else.
    pub inodes: u64,
}

impl DiskUsage {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }

    /// What one inode allocates.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self { bytes: stat.st_blocks as u64 * 512, inodes: 1 }
    }
}

/// Counts what a directory and all below it allocate; inodes with several names count once.
///
/// `pace` is called for each entry: a walk in the background can rest there. Blocks.
///
/// # Errors
/// The directory itself can't be opened.
pub fn disk_usage(root: &Path, pace: impl FnMut()) -> io::Result<DiskUsage> {
    let root = openat(CWD, root, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    let usage = DiskUsage::of(&fstat(&root)?);
    let mut walk = Walk { usage, linked: HashSet::new(), pending: Vec::new(), pace };
    walk.pending.push(Pending { base: Rc::new(root), path: PathBuf::new() });
    while let Some(directory) = walk.pending.pop() {
        match walk.count_entries(directory) {
            // It has vanished, or become something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) | Ok(()) => {}
            Err(errno) => tracing::debug!(%errno, "directory not measured"),
        }
    }
    Ok(walk.usage)
}

/// A directory to be counted, by its path below an open one.
struct Pending {
    base: Rc<OwnedFd>,
    path: PathBuf,
}

struct Walk<P> {
    usage: DiskUsage,
    linked: HashSet<u64>,
    pending: Vec<Pending>,
    pace: P,
}

impl<P: FnMut()> Walk<P> {
    fn count_entries(&mut self, Pending { mut base, mut path }: Pending) -> Result<(), Errno> {
        let directory = match path.as_os_str().is_empty() {
            true => openat(&base, c".", DIRECTORY, Mode::empty())?,
            false => openat2(&base, &path, DIRECTORY, Mode::empty(), CONFINED)?,
        };
        let entries = Dir::read_from(&directory)?;
        if path.as_os_str().len() > MOST_PATH_BYTES {
            (base, path) = (Rc::new(openat(&directory, c".", DIRECTORY, Mode::empty())?), PathBuf::new());
        }
        for entry in entries {
            (self.pace)();
            let entry = entry?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.count(&stat, &base, &path, name),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn count(&mut self, stat: &Stat, base: &Rc<OwnedFd>, parent: &Path, name: &CStr) {
        let mut usage = DiskUsage::of(stat);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if self.pending.len() < MOST_PENDING {
                let path = parent.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
                self.pending.push(Pending { base: Rc::clone(base), path });
            }
        } else if stat.st_nlink > 1 {
            if self.linked.contains(&stat.st_ino) {
                return;
            }
            if self.linked.len() < MOST_LINKED {
                self.linked.insert(stat.st_ino);
            } else {
                #[allow(clippy::useless_conversion, reason = "the type depends on the processor")]
                let names = u64::from(stat.st_nlink);
                usage.bytes /= names;
            }
        }
        self.usage = self.usage.and(usage);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    /// What `du` counts.
    fn du(directory: &Path, flags: &[&str]) -> u64 {
        let output = Command::new("du").args(flags).arg("-s").arg(directory).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn it_is_what_du_counts() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        for (name, length) in [("a/one", 1), ("a/b/two", 100_000), ("a/b/c/three", 5000)] {
            fs::write(dir.path().join(name), vec![1; length]).unwrap();
        }
        fs::hard_link(dir.path().join("a/b/two"), dir.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/out")).unwrap();
        let mut entries = 0;
        let usage = disk_usage(dir.path(), || entries += 1).unwrap();
        assert_eq!(usage.bytes, du(dir.path(), &["--block-size=1"]));
        assert_eq!((usage.inodes, entries), (du(dir.path(), &["--inodes"]), 8 + 2 * 4));
    }

    #[test]
    fn no_depth_is_too_deep() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
        // Deeper than any path can be.
        let name = "x".repeat(200);
        for _ in 0..60 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = openat(&at, &name, DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(disk_usage(dir.path(), || {}).unwrap().inodes, 61);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(disk_usage(&dir.path().join("absent"), || {}).is_err());
    }
}
