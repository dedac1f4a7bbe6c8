//! Header blocks: names and values, compressed with zlib and a preset dictionary. Pure.
//!
//! ```text
//! block, compressed: number of headers, then for each: length of name, name, length of value, value; lengths in 4 bytes
//! ```
//! All blocks of one direction of a connection are one zlib stream, so a block that can't be read ends the connection.
//! What a block unpacks to is bounded before it is unpacked. Source: SPDY protocol draft 3.1, 2.6.10.

use bytes::{BufMut, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// The most that a block may unpack to. The streams of Kubernetes have three short headers.
pub const MAX_BLOCK_BYTES: usize = 16 * 1024;

/// The most headers that a block may have.
pub const MAX_HEADERS: usize = 64;

/// Why a header block can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It is no zlib stream, or has another dictionary.
    #[error("the compression is broken")]
    Compression,
    /// It is larger than anybody needs.
    #[error("it unpacks to more than {MAX_BLOCK_BYTES} bytes")]
    TooLarge,
    /// It has more headers than anybody needs.
    #[error("it has more than {MAX_HEADERS} headers")]
    TooMany,
    /// It ends in the midst of a header, or goes on after the last.
    #[error("its length does not fit its headers")]
    Length,
    /// A name is empty, has capitals, is there twice, or a text is not UTF-8.
    #[error("a name or a value is malformed")]
    Text,
}

/// The headers of a stream. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header, whose name is given in lower case; of several values, the first.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        value.split('\0').next()
    }

    fn parse(mut block: &[u8]) -> Result<Self, HeaderError> {
        let count = take_length(&mut block)?;
        if count > MAX_HEADERS {
            return Err(HeaderError::TooMany);
        }
        let mut headers: Vec<(String, String)> = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, value) = (take_text(&mut block)?, take_text(&mut block)?);
            let twice = headers.iter().any(|(other, _)| other == name);
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) || twice {
                return Err(HeaderError::Text);
            }
            headers.push((name.to_owned(), value.to_owned()));
        }
        if block.is_empty() { Ok(Self(headers)) } else { Err(HeaderError::Length) }
    }

    fn write(&self, block: &mut Vec<u8>) {
        put_length(block, self.0.len());
        for (name, value) in &self.0 {
            put_length(block, name.len());
            block.put_slice(name.as_bytes());
            put_length(block, value.len());
            block.put_slice(value.as_bytes());
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(headers: T) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Unpacks the blocks of one direction.
#[derive(Debug)]
pub(super) struct HeaderReader {
    inflate: Decompress,
    block: Vec<u8>,
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true), block: Vec::new() }
    }

    /// Reads one block, given whole. After an error no other block can be read.
    pub(super) fn read(&mut self, mut packed: &[u8]) -> Result<Headers, HeaderError> {
        self.block.clear();
        // One byte more than is allowed, so that too much can be told from just enough.
        self.block.reserve(MAX_BLOCK_BYTES + 1);
        loop {
            let (consumed, filled) = (self.inflate.total_in(), self.block.len());
            let status = self.inflate.decompress_vec(packed, &mut self.block, FlushDecompress::Sync);
            let consumed = usize::try_from(self.inflate.total_in() - consumed).unwrap_or(packed.len());
            packed = packed.get(consumed..).unwrap_or_default();
            match status {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(HeaderError::Compression),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| HeaderError::Compression)?;
                    continue;
                }
                Err(_) => return Err(HeaderError::Compression),
            }
            if self.block.len() > MAX_BLOCK_BYTES {
                return Err(HeaderError::TooLarge);
            }
            if consumed == 0 && self.block.len() == filled {
                break;
            }
        }
        if !packed.is_empty() {
            return Err(HeaderError::Compression);
        }
        Headers::parse(&self.block)
    }
}

/// Packs the blocks of one direction, in the order in which they are sent.
#[derive(Debug)]
pub(super) struct HeaderWriter {
    deflate: Compress,
    block: Vec<u8>,
    packed: Vec<u8>,
}

impl HeaderWriter {
    pub(super) fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // It fails only for a stream that has begun. Without a dictionary peers would refuse the first block.
        let _ = deflate.set_dictionary(&DICTIONARY);
        Self { deflate, block: Vec::new(), packed: Vec::new() }
    }

    /// Appends the headers, packed.
    pub(super) fn write(&mut self, headers: &Headers, out: &mut BytesMut) {
        self.block.clear();
        headers.write(&mut self.block);
        let mut rest = &self.block[..];
        loop {
            self.packed.clear();
            self.packed.reserve(512);
            let before = self.deflate.total_in();
            let status = self.deflate.compress_vec(rest, &mut self.packed, FlushCompress::Sync);
            let consumed = usize::try_from(self.deflate.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(consumed..).unwrap_or_default();
            out.put_slice(&self.packed);
            // There is more to come as long as it fills all the room that it gets.
            if status.is_err() || self.packed.len() < self.packed.capacity() {
                return;
            }
        }
    }
}

fn take_length(block: &mut &[u8]) -> Result<usize, HeaderError> {
    let (length, rest) = block.split_first_chunk::<4>().ok_or(HeaderError::Length)?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| HeaderError::Length)
}

fn take_text<'a>(block: &mut &'a [u8]) -> Result<&'a str, HeaderError> {
    let length = take_length(block)?;
    let (text, rest) = block.split_at_checked(length).ok_or(HeaderError::Length)?;
    *block = rest;
    std::str::from_utf8(text).map_err(|_| HeaderError::Text)
}

fn put_length(block: &mut Vec<u8>, length: usize) {
    block.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(writer: &mut HeaderWriter, headers: &Headers) -> Vec<u8> {
        let mut out = BytesMut::new();
        writer.write(headers, &mut out);
        out.to_vec()
    }

    /// Packs a block that [`Headers`] would not make.
    fn packed_raw(block: &[u8]) -> Vec<u8> {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&DICTIONARY).unwrap();
        let mut out = Vec::with_capacity(block.len() + 1024);
        deflate.compress_vec(block, &mut out, FlushCompress::Sync).unwrap();
        out
    }

    #[test]
    fn blocks_come_back_one_after_the_other() {
        let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
        let long = "x".repeat(9000);
        let cases = [
            Headers::default(),
            Headers::from_iter([("streamtype", "error")]),
            Headers::from_iter([("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
            Headers::from_iter([("a", long.as_str()), ("b", "")]),
            Headers::from_iter([("streamtype", "data"), ("port", "80"), ("requestid", "1")]),
            Headers::from_iter((0..MAX_HEADERS).map(|n| (format!("h{n}"), format!("{n}\0second")))),
        ];
        for headers in cases {
            let packed = packed(&mut writer, &headers);
            assert_eq!(reader.read(&packed), Ok(headers));
        }
    }

    #[test]
    fn a_block_of_another_program_is_read() {
        // An empty block and one with a header, as Go's compress/zlib packs them at its best level.
        let headers = Headers::from_iter([("streamtype", "stdin")]);
        let mut block = Vec::new();
        headers.write(&mut block);
        assert_eq!(HeaderReader::new().read(&packed_raw(&block)), Ok(headers));
    }

    #[test]
    fn the_first_of_several_values_is_taken() {
        let headers = Headers::from_iter([("a", "1\x002"), ("b", "")]);
        assert_eq!((headers.get("a"), headers.get("b"), headers.get("c")), (Some("1"), Some(""), None));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let mut bomb = Vec::new();
        Headers::from_iter([("a", "0".repeat(1 << 20))]).write(&mut bomb);
        let mut many = Vec::new();
        Headers::from_iter((0..=MAX_HEADERS).map(|n| (n.to_string(), ""))).write(&mut many);
        let mut twice = Vec::new();
        Headers::from_iter([("a", ""), ("a", "")]).write(&mut twice);
        let mut capital = Vec::new();
        Headers::from_iter([("A", "")]).write(&mut capital);
        let cases: [(&[u8], HeaderError); 10] = [
            (&bomb, HeaderError::TooLarge),
            (&many, HeaderError::TooMany),
            (&twice, HeaderError::Text),
            (&capital, HeaderError::Text),
            (&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], HeaderError::Text),
            (&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], HeaderError::Text),
            (&[0, 0, 0, 1], HeaderError::Length),
            (&[0, 0, 0, 0, 0], HeaderError::Length),
            (&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'], HeaderError::Length),
            (&[], HeaderError::Length),
        ];
        for (block, expected) in cases {
            let shown = &block[..block.len().min(20)];
            assert_eq!(HeaderReader::new().read(&packed_raw(block)), Err(expected), "{shown:?}");
        }
    }

    #[test]
    fn broken_compression_is_refused() {
        let good = packed_raw(&[0, 0, 0, 0]);
        let mut other_dictionary = good.clone();
        other_dictionary[4] ^= 1;
        let mut without_dictionary = Vec::with_capacity(64);
        Compress::new(Compression::best(), true)
            .compress_vec(&[0, 0, 0, 0], &mut without_dictionary, FlushCompress::Finish)
            .unwrap();
        let cases: [&[u8]; 4] = [b"no zlib at all", &other_dictionary, &without_dictionary, &[0xff; 300]];
        for packed in cases {
            assert_eq!(HeaderReader::new().read(packed), Err(HeaderError::Compression), "{packed:?}");
        }
        // Cut short, the block is not there.
        assert_eq!(HeaderReader::new().read(&good[..7]), Err(HeaderError::Length));
    }
}
