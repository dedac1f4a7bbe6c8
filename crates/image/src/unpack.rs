//! A layer's tar becomes a directory that overlayfs can use as a lower layer. Blocking; runs on a thread of its own.
//!
//! In: the decompressed tar, from a stranger. Out: the tree, and a record from which the tar can be written again.
//! Whatever the tar says, nothing outside the tree is touched (see `tree`), and a name that appears twice means the
//! last one. Whiteouts become overlayfs's: a character device 0:0, and an attribute on directories that are opaque.
//!
//! On failure the tree is incomplete, and for the caller to remove.
//!
//! Source: OCI image specification, layer.md; kernel, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
//! directories"; pax(1) for the extended headers.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, FileType, Mode, Stat, Timespec, XattrFlags, chmodat, chownat, fsetxattr, futimens, linkat,
    makedev, mkdirat, mknodat, statat, symlinkat, utimensat,
};
use tar::{Archive, Entry, EntryType};

use crate::{
    Error, Result,
    attributes::{Attributes, timestamps},
    tap::{Tap, TapControl, Tapped, tap},
    tree::{OPAQUE, Tree, clean, create_file},
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// Other names with this prefix are bookkeeping of aufs.
const AUFS: &[u8] = b".wh..wh.";

const COPY_BYTES: usize = 128 << 10;

/// Inodes are a resource, too.
const MAX_ENTRIES: u64 = 4 << 20;

/// What was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) tar: Tapped,
    /// Directories that the tar did not describe; in the image they look as in the layers below.
    pub(crate) implied: BTreeSet<PathBuf>,
}

struct Unpacker {
    tree: Tree,
    control: TapControl,
    /// Filling a directory changes its time, so these are set at the end.
    directory_times: Vec<(PathBuf, Timespec)>,
    buffer: Vec<u8>,
}

/// Unpacks a tar into an empty directory, of at most `limit` bytes.
pub(crate) fn unpack(content: &mut dyn Read, root: &Path, record: File, limit: u64) -> Result<Unpacked> {
    let tree = Tree::new(root).map_err(Error::io("open layer directory", root))?;
    let (tap, control) = tap(content, record, limit).map_err(Error::Stream)?;
    let mut unpacker =
        Unpacker { tree, control: control.clone(), directory_times: Vec::new(), buffer: vec![0; COPY_BYTES] };
    let mut archive = Archive::new(tap);
    unpacker.unpack_entries(&mut archive)?;
    control.expect_anything();
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(Error::Stream)?;
    unpacker.set_directory_times();
    let implied = unpacker.tree.implied;
    drop(unpacker.control);
    let tar = control.finish().map_err(Error::io("record layer in", root))?;
    Ok(Unpacked { tar, implied })
}

impl Unpacker {
    fn unpack_entries(&mut self, archive: &mut Archive<Tap<'_>>) -> Result<()> {
        let mut entries = archive.entries().map_err(Error::Stream)?;
        for count in 0.. {
            self.control.expect_headers();
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(Error::Stream)?;
            self.control.expect_anything();
            let name = entry.path_bytes().into_owned();
            if count >= MAX_ENTRIES {
                return Err(Error::TooLarge {
                    what: "layer".to_owned(),
                    limit: format!("{MAX_ENTRIES} entries"),
                });
            }
            self.unpack_entry(&mut entry, &name)?;
            io::copy(&mut entry, &mut io::sink()).map_err(Error::Stream)?;
        }
        Ok(())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the types are open-ended, and the rest is refused")]
    fn unpack_entry(&mut self, entry: &mut Entry<'_, Tap<'_>>, name: &[u8]) -> Result<()> {
        let refused = |reason| Error::Entry { path: display(name), reason };
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = clean(name).ok_or_else(|| refused("its name leads out of the layer or is no path"))?;
        let base = path.file_name().unwrap_or_default().as_bytes();
        if base.starts_with(WHITEOUT) {
            return self.apply_whiteout(&path, base).map_err(failed(name, "apply the whiteout"));
        }
        let attributes = Attributes::of(entry).map_err(refused)?;
        match kind {
            // Before tar had a type for directories, a slash made one.
            EntryType::Regular if name.ends_with(b"/") => {
                self.make_directory(&path, attributes).map_err(failed(name, "make the directory"))
            }
            EntryType::Directory => {
                self.make_directory(&path, attributes).map_err(failed(name, "make the directory"))
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.write_file(&path, entry, &attributes)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().and_then(|target| clean(&target));
                let target =
                    target.ok_or_else(|| refused("its link leads out of the layer or is no path"))?;
                self.make_hard_link(&path, &target).map_err(failed(name, "make the hard link"))
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| refused("a symbolic link to nothing"))?
                    .into_owned();
                self.make_node(&path, &attributes, |parent, name| symlinkat(&target[..], parent, name))
                    .map_err(failed(name, "make the symbolic link"))
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (kind, device) = device_of(entry).map_err(refused)?;
                self.make_node(&path, &attributes, |parent, name| {
                    mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)
                })
                .map_err(failed(name, "make the device"))
            }
            _ => Err(refused("its type is not known")),
        }
    }

    /// Whiteouts speak of lower layers only: what this layer itself has at the name stays.
    fn apply_whiteout(&mut self, path: &Path, base: &[u8]) -> io::Result<()> {
        if base == OPAQUE_WHITEOUT {
            let Some((parent, _)) = self.tree.parent(path)? else {
                return Ok(());
            };
            return Ok(fsetxattr(parent, OPAQUE, b"y", XattrFlags::empty())?);
        }
        if base.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&base[WHITEOUT.len()..]);
        let hidden = path.with_file_name(hidden);
        match (clean(hidden.as_os_str().as_bytes()), self.tree.parent(path)?) {
            (Some(cleaned), Some((parent, _)))
                if cleaned.components().count() == path.components().count() =>
            {
                let name = cleaned.file_name().unwrap_or_default();
                match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(rustix::io::Errno::NOENT) => {
                        Ok(mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?)
                    }
                    Ok(stat) if is_directory(&stat) => {
                        let directory = self.tree.directory(&cleaned)?;
                        Ok(fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty())?)
                    }
                    Ok(_) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it hides nothing")),
        }
    }

    fn make_directory(&mut self, path: &Path, attributes: Attributes) -> io::Result<()> {
        if let Some((parent, name)) = self.tree.parent(path)? {
            let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
            let replaces_whiteout = there.as_ref().is_some_and(is_whiteout);
            if !there.as_ref().is_some_and(is_directory) {
                if there.is_some() {
                    self.tree.remove(path)?;
                }
                if let Some((parent, name)) = self.tree.parent(path)? {
                    mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
                }
            }
            if replaces_whiteout {
                fsetxattr(self.tree.directory(path)?, OPAQUE, b"y", XattrFlags::empty())?;
            }
        }
        let directory = self.tree.directory(path)?;
        attributes.apply_to(&directory)?;
        self.tree.implied.remove(path);
        self.directory_times.push((path.to_owned(), attributes.modified));
        Ok(())
    }

    fn write_file(
        &mut self,
        path: &Path,
        entry: &mut Entry<'_, Tap<'_>>,
        attributes: &Attributes,
    ) -> Result<()> {
        let name = entry.path_bytes().into_owned();
        let mut file = match self.make_file(path, attributes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.tree.remove(path).and_then(|()| self.make_file(path, attributes))
            }
            made => made,
        }
        .map_err(failed(&name, "make the file"))?;
        let size = entry.size();
        if entry.header().entry_type().is_gnu_sparse() {
            // Its bytes in the tar are not its bytes on the disk, so the record keeps them.
            copy_sparse(entry, &mut file, &mut self.buffer, &name)?;
        } else {
            self.control.expect_content(path, size).map_err(failed(&name, "record the file"))?;
            copy(entry, &mut file, &mut self.buffer, size, &name)?;
            self.control.expect_anything();
        }
        let finish = || {
            attributes.apply_to(&file)?;
            futimens(&file, &timestamps(attributes.modified))
        };
        finish().map_err(|errno: rustix::io::Errno| failed(&name, "set the attributes")(errno.into()))
    }

    fn make_file(&mut self, path: &Path, attributes: &Attributes) -> io::Result<File> {
        match self.tree.parent(path)? {
            Some((parent, name)) => create_file(parent, name, attributes.mode_at_birth()),
            None => Err(io::Error::new(io::ErrorKind::IsADirectory, "it would replace the root")),
        }
    }

    fn make_hard_link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        if path == target {
            return Ok(());
        }
        self.tree.remove_existing(path)?;
        let (Some(directory), Some(target)) = (target.parent(), target.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it links to the root"));
        };
        let directory = self.tree.directory(directory)?;
        match self.tree.parent(path)? {
            Some((parent, name)) => Ok(linkat(&directory, target, parent, name, AtFlags::empty())?),
            None => Err(io::Error::new(io::ErrorKind::IsADirectory, "it would replace the root")),
        }
    }

    /// Makes what has no content and cannot be opened without consequences.
    fn make_node(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        make: impl FnOnce(std::os::fd::BorrowedFd<'_>, &OsStr) -> rustix::io::Result<()>,
    ) -> io::Result<()> {
        self.tree.remove_existing(path)?;
        let Some((parent, name)) = self.tree.parent(path)? else {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it would replace the root"));
        };
        make(parent, name)?;
        chownat(parent, name, Some(attributes.owner), Some(attributes.group), AtFlags::SYMLINK_NOFOLLOW)?;
        let made = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(made.st_mode) != FileType::Symlink {
            // We made it, in a directory that is ours alone: it cannot have become a link since.
            chmodat(parent, name, attributes.mode, AtFlags::empty())?;
        }
        Ok(utimensat(parent, name, &timestamps(attributes.modified), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// A directory that was replaced later has no time to set any more, which is no error.
    fn set_directory_times(&mut self) {
        for (path, modified) in std::mem::take(&mut self.directory_times) {
            if let Ok(directory) = self.tree.directory(&path) {
                let _ = futimens(&directory, &timestamps(modified));
            }
        }
    }
}

impl Tree {
    /// Makes room for something new at a path, where mostly nothing is.
    fn remove_existing(&mut self, path: &Path) -> io::Result<()> {
        match self.parent(path)? {
            Some((parent, name)) if statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() => {
                self.remove(path)
            }
            _ => Ok(()),
        }
    }
}

fn device_of(entry: &Entry<'_, Tap<'_>>) -> std::result::Result<(FileType, u64), &'static str> {
    let header = entry.header();
    let kind = header.entry_type();
    if kind.is_fifo() {
        return Ok((FileType::Fifo, 0));
    }
    let kind = if kind.is_block_special() { FileType::BlockDevice } else { FileType::CharacterDevice };
    match (header.device_major(), header.device_minor()) {
        (Ok(Some(major)), Ok(Some(minor))) => Ok((kind, makedev(major, minor))),
        _ => Err("its device has no number"),
    }
}

fn copy(from: &mut impl Read, to: &mut File, buffer: &mut [u8], size: u64, name: &[u8]) -> Result<()> {
    let mut copied = 0;
    while copied < size {
        let count = from.read(buffer).map_err(Error::Stream)?;
        if count == 0 {
            return Err(Error::Stream(io::ErrorKind::UnexpectedEof.into()));
        }
        io::Write::write_all(to, &buffer[..count]).map_err(failed(name, "write the file"))?;
        copied += count as u64;
    }
    Ok(())
}

/// Leaves holes where a whole buffer is zero.
fn copy_sparse(from: &mut impl Read, to: &mut File, buffer: &mut [u8], name: &[u8]) -> Result<()> {
    let mut length = 0;
    loop {
        let count = from.read(buffer).map_err(Error::Stream)?;
        if count == 0 {
            return to.set_len(length).map_err(failed(name, "write the file"));
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(to, &buffer[..count], length)
                .map_err(failed(name, "write the file"))?;
        }
        length += count as u64;
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn failed(name: &[u8], action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = display(name);
    move |source| Error::EntryIo { path, action, source }
}

fn display(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}
