//! A directory tree that strangers' paths cannot lead out of. All of it blocks.
//!
//! Every path is taken relative to the tree's root descriptor, and symbolic links in it are resolved as if the
//! tree were the whole filesystem (openat2 with `RESOLVE_IN_ROOT`), so that neither `..` nor a link planted by an
//! earlier entry reaches anything outside. The last component is always handled by name in an opened parent.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, Stat, XattrFlags, fgetxattr, flistxattr, fsetxattr,
        mkdirat, openat, openat2, unlinkat,
    },
    io::Errno,
};

/// The overlayfs attribute of a directory that hides what lies below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// Removal recurses and holds a descriptor per level.
const MAX_DEPTH: usize = 256;

const IMPLIED_MODE: Mode = Mode::from_raw_mode(0o755);

/// A tree that is being filled.
pub(crate) struct Tree {
    root: OwnedFd,
    /// The parent that was used last; entries of one directory come together.
    last_parent: Option<(PathBuf, OwnedFd)>,
    /// Directories that had to be made although no entry asked for them, parents first.
    pub(crate) implied: BTreeSet<PathBuf>,
}

/// What one layer says about a path.
pub(crate) enum Found {
    /// A directory.
    Directory(OwnedFd),
    /// Something that hides whatever lower layers have there.
    Hidden,
    /// Nothing.
    Absent,
}

impl Tree {
    /// A tree in an empty directory.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        let root = openat(CWD, root, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
        Ok(Self { root, last_parent: None, implied: BTreeSet::from([PathBuf::new()]) })
    }

    /// The parent of a path, made when missing, and the path's last component. The root has no parent.
    pub(crate) fn parent<'p>(&mut self, path: &'p Path) -> io::Result<Option<(BorrowedFd<'_>, &'p OsStr)>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        if self.last_parent.as_ref().is_none_or(|(last, _)| last != parent) {
            let directory = self.make_directories(parent)?;
            self.last_parent = Some((parent.to_owned(), directory));
        }
        Ok(self.last_parent.as_ref().map(|(_, directory)| (directory.as_fd(), name)))
    }

    /// The directory that a path leads to, links resolved within the tree.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match self.open(path, confined | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {}
            other => return Ok(other?),
        }
        let directory = self.open(path, confined)?;
        // Through links, a tree could grow deeper than any path, and then nobody could remove it.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        if real.components().count() > MAX_DEPTH {
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, "it is nested too deeply"));
        }
        Ok(directory)
    }

    fn open(&self, path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A rename elsewhere in the system can make the kernel ask for another try.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Removes what is at a path, whatever it is; nothing is there afterwards.
    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        // What is removed may be, or be on the way to, the remembered parent.
        self.last_parent = None;
        let below = self.implied.range(path.to_owned()..).take_while(|implied| implied.starts_with(path));
        for gone in below.cloned().collect::<Vec<_>>() {
            self.implied.remove(&gone);
        }
        match self.parent(path)? {
            Some((parent, name)) => remove_at(parent, name),
            None => Ok(()),
        }
    }

    fn make_directories(&mut self, path: &Path) -> io::Result<OwnedFd> {
        match self.directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.directory(path);
        };
        let parent = self.make_directories(parent)?;
        mkdirat(&parent, name, IMPLIED_MODE)?;
        self.implied.insert(path.to_owned());
        self.directory(path)
    }
}

/// An entry's path below the root; none if it goes upwards, is empty of names, or could not be a path at all.
///
/// Absolute paths count from the tree's root. The root itself is the empty path.
pub(crate) fn clean(path: &[u8]) -> Option<PathBuf> {
    if path.is_empty() || path.contains(&0) || path.len() > 4095 {
        return None;
    }
    let mut cleaned = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) if name.len() <= 255 => cleaned.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::Normal(_) | Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (cleaned.components().count() <= MAX_DEPTH).then_some(cleaned)
}

/// Looks a path up in a finished layer without following any link.
pub(crate) fn look_up(layer: &Path, path: &Path) -> io::Result<Found> {
    let mut directory = openat(CWD, layer, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
    let mut opaque = false;
    for name in path {
        opaque |= is_opaque(&directory);
        match openat(&directory, name, OFlags::RDONLY | DIRECTORY, Mode::empty()) {
            Ok(next) => directory = next,
            Err(Errno::NOENT) => return Ok(if opaque { Found::Hidden } else { Found::Absent }),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Hidden),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Found::Directory(directory))
}

/// Gives a directory the owner, mode, times and attributes of another.
pub(crate) fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    set_owner_and_mode(to, &stat)?;
    let mut names = vec![0; 64 << 10];
    let length = flistxattr(from, &mut names[..])?;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    let time =
        |seconds, nanoseconds: u64| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    let times = rustix::fs::Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(to, &times)?)
}

/// Whether a directory hides what lies below it.
pub(crate) fn is_opaque(directory: &OwnedFd) -> bool {
    fgetxattr(directory, OPAQUE, &mut [0; 1][..]).is_ok()
}

fn set_owner_and_mode(file: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let (owner, group) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(file, Some(owner), Some(group))?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode))?)
}

/// Removes a file or a whole directory by name, following nothing.
fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let directory = openat(parent, name, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            remove_at(directory.as_fd(), OsStr::from_bytes(entry.file_name().to_bytes()))?;
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Makes a file that did not exist, open for writing.
pub(crate) fn create_file(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(parent, name, flags, mode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn implied(tree: &Tree) -> Vec<&str> {
        tree.implied.iter().filter_map(|path| path.to_str()).collect()
    }

    #[test]
    fn names_are_cleaned_or_refused() {
        let check = |path: &[u8], expected: Option<&str>| {
            assert_eq!(clean(path).as_deref(), expected.map(Path::new), "{path:?}");
        };
        check(b"a/b", Some("a/b"));
        check(b"./a//b/./", Some("a/b"));
        check(b"/etc/passwd", Some("etc/passwd"));
        check(b"./", Some(""));
        check(b"..", None);
        check(b"a/../../b", None);
        check(b"a/..", None);
        check(b"", None);
        check(b"a\0b", None);
        check(&b"a/".repeat(300), None);
        check(&[b'a'; 256], None);
        check(&[b'/'; 5000], None);
    }

    #[test]
    fn links_are_resolved_within_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/../../../inside", dir.path().join("out")).unwrap();
        let mut tree = Tree::new(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("inside")).unwrap();
        let (parent, name) = tree.parent(Path::new("out/file")).unwrap().unwrap();
        create_file(parent, name, Mode::RUSR).unwrap();
        assert!(dir.path().join("inside/file").exists());
        assert_eq!(implied(&tree), [""]);
    }

    #[test]
    fn missing_parents_are_made_and_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(dir.path()).unwrap();
        tree.parent(Path::new("a/b/c")).unwrap().unwrap();
        assert_eq!(implied(&tree), ["", "a", "a/b"]);
        tree.remove(Path::new("a")).unwrap();
        assert_eq!(implied(&tree), [""]);
        assert!(!dir.path().join("a").exists());
    }
}
