//! A blob on its way from an async source to the blocking code that unpacks it, verified while it streams.
//!
//! ```text
//! registry or archive → pipe (bounded) → Metered: size and digest of the blob → decompressor → unpack
//! ```
//!
//! What the blob is compressed with is read off its first bytes: media types are often wrong, and the digest has
//! been promised for the bytes, not for the label.

use std::{
    cell::RefCell,
    io::{self, Cursor, Read},
    rc::Rc,
};

use berth_store::ErrorKind;
use bytes::{Buf, Bytes};
use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::{Digest, Error, Result};

/// With the 8 to 16 KiB that a connection hands over at a time, a quarter of a MiB per layer.
const PIPE_CHUNKS: usize = 16;

/// The async end of a pipe. Dropped without [`PipeWriter::finish`], the reader gets an error, not an end.
#[derive(Debug)]
pub(crate) struct PipeWriter(mpsc::Sender<Option<Bytes>>);

/// The blocking end of a pipe.
#[derive(Debug)]
pub(crate) struct PipeReader {
    chunks: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    finished: bool,
}

/// What a blob must turn out to be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Absent where an archive names a layer by its tar only.
    pub(crate) digest: Option<Digest>,
    pub(crate) size: u64,
}

/// Counts and hashes what passes, and stops what is longer than it should be.
pub(crate) struct Metered<R> {
    inner: R,
    meter: Rc<RefCell<Meter>>,
}

/// What has passed so far.
pub(crate) struct Meter {
    hasher: Sha256,
    bytes: u64,
    limit: u64,
}

/// A pipe of a few chunks; a slow reader slows the writer down.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, chunks) = mpsc::channel(PIPE_CHUNKS);
    (PipeWriter(sender), PipeReader { chunks, current: Bytes::new(), finished: false })
}

impl PipeWriter {
    /// Hands a chunk over; fails when the reader has gone.
    pub(crate) async fn send(&self, chunk: Bytes) -> std::result::Result<(), ()> {
        self.0.send(Some(chunk)).await.map_err(drop)
    }

    /// Tells the reader that this was all. A reader that has gone does not care.
    pub(crate) async fn finish(self) {
        let _ = self.0.send(None).await;
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.finished {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.current = chunk,
                Some(None) => self.finished = true,
                None => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download was given up"));
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Feeds the decompressed content of a blob to a consumer, then checks that the blob was what it should be.
///
/// Where the content makes no sense as a stream, the check still comes first in what is reported: the cause of
/// garbage is that the blob is not the one that was asked for.
pub(crate) fn consume<T>(
    blob: impl Read,
    expected: &Expected,
    consumer: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let meter = Rc::new(RefCell::new(Meter { hasher: Sha256::new(), bytes: 0, limit: expected.size }));
    let mut metered = Metered { inner: blob, meter: Rc::clone(&meter) };
    let mut magic = Vec::with_capacity(4);
    let outcome = match (&mut metered).take(4).read_to_end(&mut magic) {
        Ok(_) => {
            let mut whole = Read::chain(Cursor::new(magic.clone()), &mut metered);
            match decompressed(&magic, &mut whole) {
                Ok(mut content) => consumer(&mut *content),
                Err(error) => Err(Error::Stream(error)),
            }
        }
        Err(error) => Err(Error::Stream(error)),
    };
    let exhausted = |error: &Error| error.kind() == ErrorKind::Exhausted;
    if outcome.as_ref().is_err_and(|error| !matches!(error, Error::Stream(_)) || exhausted(error)) {
        return outcome;
    }
    // Only a blob that was read to its end can be judged; decompressors stop before it.
    match (outcome, io::copy(&mut metered, &mut io::sink())) {
        (outcome, Ok(_)) => meter.borrow().check(expected).and(outcome),
        (Ok(_), Err(error)) => Err(Error::Stream(error)),
        (failed, Err(_)) => failed,
    }
}

fn decompressed<'a>(magic: &[u8], whole: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

impl Meter {
    fn check(&self, expected: &Expected) -> Result<()> {
        if self.bytes != expected.size {
            return Err(Error::Size {
                what: "blob".to_owned(),
                expected_bytes: expected.size,
                actual: self.bytes.to_string(),
            });
        }
        let actual = Digest::finish(self.hasher.clone());
        match &expected.digest {
            Some(digest) if *digest != actual => {
                Err(Error::Mismatch { what: "blob".to_owned(), expected: digest.clone(), actual })
            }
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let mut meter = self.meter.borrow_mut();
        meter.hasher.update(&buffer[..count]);
        meter.bytes += count as u64;
        if meter.bytes > meter.limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than its manifest says"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read_all(content: &mut dyn Read) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(Error::Stream)?;
        Ok(bytes)
    }

    #[test]
    fn every_compression_is_recognised_by_its_first_bytes() {
        let check = |blob: Vec<u8>, content: &[u8]| {
            let expected = Expected { digest: Some(Digest::of(&blob)), size: blob.len() as u64 };
            assert_eq!(consume(&blob[..], &expected, read_all).unwrap(), content);
        };
        check(b"plain".to_vec(), b"plain");
        check(b"".to_vec(), b"");
        check(gzip(b"text"), b"text");
        check([gzip(b"two "), gzip(b"members")].concat(), b"two members");
        check(zstd::encode_all(&b"text"[..], 1).unwrap(), b"text");
    }

    #[test]
    fn a_lying_blob_is_told_by_its_size_or_its_digest() {
        let blob = gzip(b"text");
        let size = blob.len() as u64;
        let check = |blob: &[u8], size: u64, digest: Digest, expected: &str| {
            let error = consume(blob, &Expected { digest: Some(digest), size }, read_all).unwrap_err();
            let text = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
            assert!(text.contains(expected), "{text}");
        };
        let digest = Digest::of(&blob);
        check(&blob, size, Digest::of(b""), "expected sha256:e3b0");
        check(&blob[..10], size, digest.clone(), "got 10");
        check(&blob, size - 1, digest.clone(), "longer than its manifest says");
        check(&[&blob[..], b"x"].concat(), size, digest.clone(), "longer");
        check(b"garbage", 7, digest, "expected");
    }

    #[test]
    fn a_writer_that_disappears_is_not_an_end() {
        let (writer, mut reader) = pipe();
        drop(writer);
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
