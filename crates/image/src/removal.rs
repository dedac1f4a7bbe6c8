//! Removes a tree that a stranger has filled: however deep it is, with few descriptors and little stack, also what is
//! immutable, and nothing of what is mounted in it.
//!
//! What lies deeper than a few levels is moved up beside its ancestors and removed from there. A container can make
//! directories in each other until its disk is full; `remove_dir_all` needs a descriptor and a stack frame for each.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, RenameFlags, ResolveFlags, ioctl_getflags,
    ioctl_setflags, openat, openat2, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

/// How deep it goes by holding a directory of each level.
const MAX_DEPTH: usize = 32;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a file, or a directory with all that is in it; absent means done. Symbolic links are not followed. Blocks.
///
/// # Errors
/// [`io::ErrorKind::CrossesDevices`] if something is mounted there or below: what is mounted stays whole, and what lies
/// beside it may have been removed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let name = CString::new(name.as_encoded_bytes())?;
    let removed = match openat(CWD, parent, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()) {
        Ok(parent) => remove_entry(parent.as_fd(), &name),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn remove_entry(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match unlink(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        done => return done,
    }
    let top = open_below(parent, name)?;
    let mut moved_up = 0;
    loop {
        let before = moved_up;
        Remover { top: top.as_fd(), moved_up: &mut moved_up }.empty(&top, 0)?;
        match unlink(parent, name, AtFlags::REMOVEDIR) {
            // What was moved up is next.
            Err(Errno::NOTEMPTY) if moved_up > before => {}
            done => return done,
        }
    }
}

/// Removes a file or an empty directory, also one that a privileged container has made immutable.
fn unlink(parent: impl AsFd, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    let unlinked = match unlinkat(&parent, name, flags) {
        Err(Errno::PERM) => {
            make_mutable(&parent)?;
            if let Some(entry) = open_with_attributes(parent.as_fd(), name)? {
                make_mutable(entry)?;
            }
            unlinkat(&parent, name, flags)
        }
        done => done,
    };
    // A mount on it makes it busy.
    unlinked.map_err(|error| if error == Errno::BUSY { Errno::XDEV } else { error })
}

fn make_mutable(file: impl AsFd) -> Result<(), Errno> {
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    match ioctl_getflags(&file) {
        Ok(flags) if flags.intersects(fixed) => ioctl_setflags(&file, flags - fixed),
        // A file system may know no such attributes.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Files and directories alone: to open a device may do something.
fn open_with_attributes(parent: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(Some)
}

/// Never in another mount: neither one that covers the directory, nor its own where it is one's root.
fn open_below(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(parent, name, DIRECTORY, Mode::empty(), resolve)
}

struct Remover<'a> {
    top: BorrowedFd<'a>,
    /// How many directories have been, which makes their names.
    moved_up: &'a mut usize,
}

impl Remover<'_> {
    /// Removes all that is in a directory.
    fn empty(&mut self, directory: &OwnedFd, depth: usize) -> Result<(), Errno> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                unlink(directory, name, AtFlags::empty())?;
                continue;
            }
            match unlink(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTDIR) => unlink(directory, name, AtFlags::empty())?,
                Err(Errno::NOTEMPTY) if depth == MAX_DEPTH => self.move_up(directory, name)?,
                Err(Errno::NOTEMPTY) => {
                    self.empty(&open_below(directory.as_fd(), name)?, depth + 1)?;
                    unlink(directory, name, AtFlags::REMOVEDIR)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn move_up(&mut self, directory: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        loop {
            *self.moved_up += 1;
            let free = format!("moved up {}", self.moved_up);
            match renameat_with(directory, name, self.top, free, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn links_are_removed_and_not_what_they_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        symlink(&kept, tree.join("a/link")).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
        symlink(&kept, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.is_symlink() && kept.join("file").exists());
        // Absent, and below what is absent.
        remove_tree(&tree).unwrap();
        remove_tree(&tree.join("a")).unwrap();
    }

    #[test]
    fn a_tree_may_be_deeper_than_the_process_has_descriptors() {
        const DEPTH: usize = 3000;
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::create_dir(tree.join("moved up 1")).unwrap();
        let mut inner = openat(CWD, &tree, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            for name in ["d", "e"] {
                mkdirat(&inner, name, Mode::RWXU).unwrap();
            }
            inner = openat(&inner, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
