//! Access by name to the members of a tarball or a directory. Blocks.
//!
//! A tarball's order is not ours to choose, and its index often comes last; so it is read once for the positions of
//! its members, which are then read at their places. A compressed one, or one that arrives as a stream, is spooled
//! to an unnamed file first.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::read::MultiGzDecoder;

use crate::{Digest, Error, Result, manifest::MAX_DOCUMENT_BYTES, registry::verify, tree::clean};

/// An image archive that is open for reading.
#[derive(Debug)]
pub(crate) enum Archive {
    Directory(PathBuf),
    Tar { path: PathBuf, file: Arc<File>, members: HashMap<PathBuf, Member> },
}

#[derive(Debug, Clone)]
pub(crate) enum Member {
    Content {
        offset: u64,
        bytes: u64,
    },
    /// Old versions of Docker share layers by links.
    Link(PathBuf),
}

/// A part of a file, read without moving its cursor.
struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

const MAX_MEMBERS: usize = 1 << 20;

impl Archive {
    /// Opens a directory or a tarball; `spool` is where a compressed one is unpacked.
    pub(crate) fn open(path: &Path, spool: &Path) -> Result<Self> {
        let failed = || Error::io("read archive", path);
        if path.metadata().map_err(failed())?.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut file = File::open(path).map_err(failed())?;
        let mut magic = [0; 6];
        let length = file.read(&mut magic).map_err(failed())?;
        file.rewind().map_err(failed())?;
        let file = match &magic[..length] {
            [0x1f, 0x8b, ..] => spooled(MultiGzDecoder::new(file), spool).map_err(failed())?,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = zstd::stream::read::Decoder::new(file).map_err(failed())?;
                spooled(decoder, spool).map_err(failed())?
            }
            [0xfd, b'7', b'z', b'X', b'Z', ..] | [b'B', b'Z', b'h', ..] => {
                return Err(malformed(path, "only gzip and zstd compression are supported"));
            }
            _ => file,
        };
        let members = index(&file).map_err(failed())?;
        Ok(Self::Tar { path: path.to_owned(), file: Arc::new(file), members })
    }

    /// Where a blob is in an OCI layout.
    pub(crate) fn blob_member(digest: &Digest) -> String {
        format!("blobs/sha256/{}", digest.hex())
    }

    /// The archive's own path, for messages.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Tar { path, .. } => path,
        }
    }

    /// Opens a member, and tells its size.
    pub(crate) fn open_member(&self, name: &str) -> Result<(u64, Box<dyn Read + Send>)> {
        let path = clean(name.as_bytes())
            .ok_or_else(|| malformed(self.path(), &format!("{name:?} is no member")))?;
        match self {
            Self::Directory(directory) => {
                let path = directory.join(path);
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                let bytes = file.metadata().map_err(Error::io("open", &path))?.len();
                Ok((bytes, Box::new(file)))
            }
            Self::Tar { file, members, .. } => {
                let mut member = members.get(&path);
                if let Some(Member::Link(target)) = member {
                    member = members.get(target);
                }
                match member {
                    Some(Member::Content { offset, bytes }) => {
                        let section = Section { file: Arc::clone(file), offset: *offset, left: *bytes };
                        Ok((*bytes, Box::new(section)))
                    }
                    Some(Member::Link(_)) | None => {
                        Err(malformed(self.path(), &format!("{name:?} is not in it")))
                    }
                }
            }
        }
    }

    /// A small member whole; none if it is not there.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let exists = match self {
            Self::Directory(directory) => directory.join(name).exists(),
            Self::Tar { members, .. } => members.contains_key(Path::new(name)),
        };
        if !exists {
            return Ok(None);
        }
        let (size, mut reader) = self.open_member(name)?;
        if size > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                what: name.to_owned(),
                limit: format!("{MAX_DOCUMENT_BYTES} bytes"),
            });
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(Error::io("read archive", self.path()))?;
        Ok(Some(bytes))
    }

    /// A manifest or config of an OCI layout, verified.
    pub(crate) fn document_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let name = Self::blob_member(digest);
        let bytes =
            self.document(&name)?.ok_or_else(|| malformed(self.path(), &format!("{name:?} is not in it")))?;
        verify(&name, &bytes, digest)?;
        Ok(bytes)
    }
}

pub(super) fn malformed(path: &Path, reason: &str) -> Error {
    Error::Malformed { what: format!("archive {}", path.display()), reason: reason.to_owned() }
}

fn spooled(mut content: impl Read, spool: &Path) -> io::Result<File> {
    let mut file = tempfile::tempfile_in(spool)?;
    io::copy(&mut content, &mut file)?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

fn index(file: &File) -> io::Result<HashMap<PathBuf, Member>> {
    let mut members = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let Some(name) = clean(&entry.path_bytes()) else {
            continue;
        };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            members.insert(name, Member::Content { offset: entry.raw_file_position(), bytes: entry.size() });
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            // Symbolic links count from their own directory, and lead to another one at the same level.
            let target = match target.strip_prefix(b"../") {
                Some(sibling) => clean(sibling),
                None => clean(&target),
            };
            members.extend(target.map(|target| (name, Member::Link(target))));
        }
        if members.len() > MAX_MEMBERS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has over a million members"));
        }
    }
    Ok(members)
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
