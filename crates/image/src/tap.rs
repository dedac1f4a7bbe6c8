//! What passes between a layer's decompressor and the tar parser: counted, hashed, and remembered without the
//! contents of files, so that the very same tar can be written again from the unpacked tree.
//!
//! The record is a zstd stream of segments, each a tag byte followed by:
//! - `0`: the number of bytes (u32, little endian), and the bytes: headers, padding, contents of odd entries;
//! - `1`: the length of a path (u32), the path below the tree's root, the number of bytes (u64): a file's content.
//!
//! The idea is that of tar-split, which Docker and CRI-O use for the same purpose. An image's id is a promise
//! about the digests of its tars; an export that made new tars would be a different image.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
    rc::Rc,
};

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, ResolveFlags, openat2},
};
use sha2::{Digest as _, Sha256};

use crate::{Digest, Error, Result};

const BYTES: u8 = 0;
const CONTENT: u8 = 1;

/// The headers in front of one entry, long names and extended attributes included. The parser holds them in
/// memory, so a layer must not decide how large they are.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// The reader that the tar parser reads from.
pub(crate) struct Tap<'a> {
    content: &'a mut dyn Read,
    state: Rc<RefCell<State>>,
}

/// Steers a tap from outside of the parser that owns it.
#[derive(Clone)]
pub(crate) struct TapControl(Rc<RefCell<State>>);

/// What a layer's tar was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tapped {
    pub(crate) diff_id: Digest,
    pub(crate) tar_bytes: u64,
}

struct State {
    passing: Passing,
    hasher: Sha256,
    bytes: u64,
    limit: u64,
    record: zstd::stream::write::Encoder<'static, File>,
}

/// What the bytes that pass now are.
enum Passing {
    /// Headers, of which this many bytes may still come.
    Headers(u64),
    /// To be recorded as they are.
    Recorded,
    /// The content of a file that can be read again from the tree.
    Content,
}

/// Taps a layer's content; the record goes to a new file, and `limit` is the most that may pass.
pub(crate) fn tap(content: &mut dyn Read, record: File, limit: u64) -> io::Result<(Tap<'_>, TapControl)> {
    let record = zstd::stream::write::Encoder::new(record, 1)?;
    let state = State { passing: Passing::Recorded, hasher: Sha256::new(), bytes: 0, limit, record };
    let state = Rc::new(RefCell::new(state));
    Ok((Tap { content, state: Rc::clone(&state) }, TapControl(state)))
}

impl TapControl {
    /// The parser will look for the next entry.
    pub(crate) fn expect_headers(&self) {
        self.0.borrow_mut().passing = Passing::Headers(MAX_HEADER_BYTES);
    }

    /// What comes is kept in the record.
    pub(crate) fn expect_anything(&self) {
        self.0.borrow_mut().passing = Passing::Recorded;
    }

    /// The next `bytes` bytes are the content of the file at `path`.
    pub(crate) fn expect_content(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let path = path.as_os_str().as_bytes();
        state.record.write_all(&[CONTENT])?;
        state.record.write_all(&(path.len() as u32).to_le_bytes())?;
        state.record.write_all(path)?;
        state.record.write_all(&bytes.to_le_bytes())?;
        state.passing = Passing::Content;
        Ok(())
    }

    /// Ends the record, and tells what passed. The tap must be gone by now.
    pub(crate) fn finish(self) -> io::Result<Tapped> {
        let state =
            Rc::into_inner(self.0).ok_or_else(|| io::Error::other("the tap is still in use"))?.into_inner();
        state.record.finish()?;
        Ok(Tapped { diff_id: Digest::finish(state.hasher), tar_bytes: state.bytes })
    }
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        let state = &mut *self.state.borrow_mut();
        let bytes = &buffer[..count];
        state.hasher.update(bytes);
        state.bytes += count as u64;
        if state.bytes > state.limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the layer is over the size limit when unpacked",
            ));
        }
        match &mut state.passing {
            Passing::Content => return Ok(count),
            Passing::Recorded => {}
            Passing::Headers(left) => {
                *left = left.checked_sub(count as u64).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "the headers of an entry are over 1 MiB")
                })?;
            }
        }
        if count > 0 {
            state.record.write_all(&[BYTES])?;
            state.record.write_all(&(count as u32).to_le_bytes())?;
            state.record.write_all(bytes)?;
        }
        Ok(count)
    }
}

/// Writes a layer's tar again from its record and its tree.
///
/// Errors: the output is not the tar that it was when the tree has been changed; the digest tells.
pub(crate) fn replay(layer: &Path, output: &mut impl Write) -> Result<Digest> {
    let record = layer.join(RECORD);
    let failed = |source| Error::Io { action: "write layer again from", path: layer.to_owned(), source };
    let file = File::open(&record).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree =
        rustix::fs::open(layer.join("fs"), flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let mut segments = io::BufReader::new(zstd::stream::read::Decoder::new(file).map_err(failed)?);
    let mut output = Hashing { output, hasher: Sha256::new() };
    replay_segments(&mut segments, &tree, &mut output).map_err(failed)?;
    Ok(Digest::finish(output.hasher))
}

/// The record's file in a layer's directory.
pub(crate) const RECORD: &str = "tar.zst";

fn replay_segments(segments: &mut impl Read, tree: &OwnedFd, output: &mut impl Write) -> io::Result<()> {
    let mut tag = [0];
    while segments.read(&mut tag)? == 1 {
        let length = u64::from(u32::from_le_bytes(read_array(segments)?));
        if tag[0] == BYTES {
            copy_exactly(segments, length, output)?;
            continue;
        }
        let mut path = Vec::new();
        segments.take(length).read_to_end(&mut path)?;
        let size = u64::from_le_bytes(read_array(segments)?);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut file = File::from(openat2(tree, &path[..], flags, Mode::empty(), resolve)?);
        copy_exactly(&mut file, size, output)?;
    }
    Ok(())
}

fn read_array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn copy_exactly(input: &mut impl Read, bytes: u64, output: &mut impl Write) -> io::Result<()> {
    if io::copy(&mut input.take(bytes), output)? == bytes {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file is shorter than it was"))
}

struct Hashing<'a, W> {
    output: &'a mut W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
