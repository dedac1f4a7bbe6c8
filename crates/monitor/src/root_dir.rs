//! Paths inside a container's root, while the host's root is still in force.
//!
//! Every path goes through `openat2` with `RESOLVE_IN_ROOT`: absolute paths, `..` and symlinks of the image are
//! resolved as the container itself would, and cannot lead out. What is made is made relative to an open parent.
//! Source: openat2(2), since Linux 5.6; CVE-2021-30465, CVE-2024-21626.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2, readlinkat};
use rustix::io::Errno;

/// Symlinks and missing parents followed for one path before it counts as a loop, as the kernel's own limit.
const MAX_STEPS: u32 = 40;

/// A directory that is the root for all paths given to it.
#[derive(Debug)]
pub(crate) struct RootDir(OwnedFd);

/// What is made where a path does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    /// A directory, mode 0755.
    Directory,
    /// An empty regular file, mode 0644.
    File,
}

impl RootDir {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self(root)
    }

    /// Opens `path` for `flags`; nothing is made.
    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.resolve(path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Opens a place for the runtime's own filesystems (`/proc`, `/sys`, `/dev` …): a symlink on the way is refused,
    /// since later steps trust what these paths show (CVE-2019-19921, CVE-2025-52881).
    pub(crate) fn open_plain(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.resolve(path, OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
    }

    /// Opens `path` as a place to mount on, and makes it and its parents where they are missing.
    pub(crate) fn open_or_make(&self, path: &Path, make: Make) -> Result<OwnedFd, Errno> {
        self.open_or_make_within(path, make, MAX_STEPS)
    }

    fn open_or_make_within(&self, path: &Path, make: Make, steps: u32) -> Result<OwnedFd, Errno> {
        let steps = steps.checked_sub(1).ok_or(Errno::LOOP)?;
        match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let (parent_path, name) = split(path).ok_or(Errno::NOENT)?;
        let parent = self.open_or_make_within(parent_path, Make::Directory, steps)?;
        let made = match make {
            Make::Directory => mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
            Make::File => make_file(parent.as_fd(), name),
        };
        match made {
            Ok(()) => self.open(path, OFlags::PATH),
            // The name exists though its target does not: a dangling symlink, like /var/run -> /run in an image
            // without /run. The target is made, as seen from the root.
            Err(Errno::EXIST) => {
                let target = match readlinkat(&parent, name, Vec::new()) {
                    // It is no link: another container of the pod, which has the same volume, was faster.
                    Err(Errno::INVAL | Errno::NOENT) => return self.open_or_make_within(path, make, steps),
                    target => target?,
                };
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                let target = if target.is_absolute() { target.to_owned() } else { parent_path.join(target) };
                self.open_or_make_within(&target, make, steps)
            }
            Err(error) => Err(error),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a descriptor is of a directory.
pub(crate) fn is_directory(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(rustix::fs::FileType::from_raw_mode(fstat(fd)?.st_mode).is_dir())
}

fn make_file(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root(directory: &Path) -> RootDir {
        RootDir::new(rustix::fs::open(directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap())
    }

    #[test]
    fn what_is_missing_is_made_inside_the_root_whatever_the_links_say() {
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        symlink("/run", at("dangling")).unwrap();
        symlink(outside.path(), at("absolute")).unwrap();
        symlink("../../../../up", at("climbing")).unwrap();
        let root = root(directory.path());
        for (path, lands_at) in [
            ("/plain/deep/dir", "plain/deep/dir".to_owned()),
            ("/dangling/secrets", "run/secrets".to_owned()),
            ("/absolute/x", format!(".{}/x", outside.path().display())),
            ("/climbing/x", "up/x".to_owned()),
            ("/../../y", "y".to_owned()),
        ] {
            root.open_or_make(Path::new(path), Make::Directory).unwrap();
            assert!(at(&lands_at).is_dir(), "{path}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn several_may_make_the_same_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..200 {
            let path = format!("/{round}/deep/place");
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope
                        .spawn(|| root(directory.path()).open_or_make(Path::new(&path), Make::File).unwrap());
                }
            });
            assert!(directory.path().join(&path[1..]).is_file());
        }
    }

    #[test]
    fn a_loop_of_links_and_a_link_under_a_plain_path_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        symlink("/etc", directory.path().join("proc")).unwrap();
        let root = root(directory.path());
        assert_eq!(root.open_or_make(Path::new("/a/x"), Make::File).unwrap_err(), Errno::LOOP);
        assert_eq!(root.open_plain(Path::new("/proc")).unwrap_err(), Errno::LOOP);
    }
}
