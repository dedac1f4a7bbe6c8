//! Copying a directory of an image into a volume, with everything that a user would see of it.
//!
//! Both sides are named by descriptors and paths without symlinks below them, so neither an image nor a process that
//! works in it can lead the copy elsewhere. Owners, modes, times and attributes come along; device nodes and sockets do
//! not. Directories wait in a list, not on the stack or as open descriptors: an image may nest them as deep as a path
//! is long.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fchown, fgetxattr, flistxattr, fsetxattr, futimens, mkdirat, mknodat, openat, openat2,
    readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

/// The largest attribute that the kernel allows (`XATTR_SIZE_MAX`), and the largest list of names.
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;

/// Makes `to`, which is empty, what `from` is.
pub(crate) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut waiting = vec![PathBuf::from(".")];
    while let Some(path) = waiting.pop() {
        let (source, target) = (open_directory(from, &path)?, open_directory(to, &path)?);
        for entry in Dir::read_from(&source)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = statat(&source, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if copy_entry(&source, &target, name, &stat)? {
                waiting.push(path.join(name));
            }
        }
        copy_attributes(source.as_fd(), target.as_fd(), &rustix::fs::fstat(&source)?)?;
    }
    Ok(())
}

fn open_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Copies one entry; true for a directory, of which only the name has been made.
fn copy_entry(source: &OwnedFd, target: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<bool, Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => mkdirat(target, name, Mode::RWXU).map(|()| true),
        FileType::RegularFile => copy_file(source, target, name, stat).map(|()| false),
        FileType::Symlink => {
            symlinkat(&*readlinkat(source, name, Vec::new())?, target, name)?;
            let (uid, gid) = owner(stat);
            chownat(target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map(|()| false)
        }
        FileType::Fifo => {
            mknodat(target, name, FileType::Fifo, Mode::from_raw_mode(stat.st_mode), 0)?;
            let (uid, gid) = owner(stat);
            chownat(target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map(|()| false)
        }
        FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => Ok(false),
    }
}

fn copy_file(source: &OwnedFd, target: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<(), Errno> {
    let from = openat(source, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (mut from, mut to) = (File::from(from), File::from(openat(target, name, create, Mode::RWXU)?));
    std::io::copy(&mut from, &mut to).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    copy_attributes(from.as_fd(), to.as_fd(), stat)
}

/// The owner first, since changing it takes set-user-ID bits and file capabilities away.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = owner(stat);
    fchown(to, uid, gid)?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    copy_extended_attributes(from, to)?;
    let time = |seconds: i64, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    };
    futimens(
        to,
        &Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        },
    )
}

/// Labels belong to the place and not to the file, and what the target's filesystem does not take is done without.
fn copy_extended_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = match flistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        listed => listed?,
    };
    let mut value = vec![0; MAX_ATTRIBUTE_BYTES];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name == b"security.selinux" {
            continue;
        }
        let length = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            set => set?,
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn a_copy_has_the_same_files_links_modes_and_times() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(from.path().join("deep/er")).unwrap();
        fs::write(from.path().join("deep/er/file"), "text").unwrap();
        fs::set_permissions(from.path().join("deep/er/file"), PermissionsExt::from_mode(0o4750)).unwrap();
        fs::set_permissions(from.path().join("deep"), PermissionsExt::from_mode(0o1777)).unwrap();
        fs::set_permissions(from.path(), PermissionsExt::from_mode(0o711)).unwrap();
        symlink(outside.path(), from.path().join("link")).unwrap();
        copy_tree(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        for path in ["", "deep", "deep/er", "deep/er/file"] {
            let (old, new) = (fs::metadata(from.path().join(path)), fs::metadata(to.path().join(path)));
            let (old, new) = (old.unwrap(), new.unwrap());
            assert_eq!((old.mode(), old.uid(), old.gid()), (new.mode(), new.uid(), new.gid()), "{path}");
        }
        let modified = |root: &Path| fs::metadata(root.join("deep/er/file")).unwrap().modified().unwrap();
        assert_eq!(modified(from.path()), modified(to.path()));
        assert_eq!(fs::read_to_string(to.path().join("deep/er/file")).unwrap(), "text");
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), outside.path());
    }
}
