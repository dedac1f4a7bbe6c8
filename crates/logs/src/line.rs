//! One stream's bytes become log records.
//!
//! ```text
//! 2026-11-22T16:50:26.000000001Z stdout F text of the line\n
//! time of the read               stream tag  bytes as they came, without their newline
//! ```
//! The tag is `F` for the end of a line and `P` for a piece after which the same line goes on. A line longer than the
//! limit is cut into pieces of exactly the limit; one of exactly the limit is whole, hence the limit is only seen to be
//! passed when one more byte arrives. Bytes are opaque: `\r`, NUL and broken UTF-8 pass through.
//!
//! The begin of a line whose end has not been read waits here, at most `max_line_bytes` of it, so that a line written
//! in many small writes is one record. [`LineSplitter::flush`] writes it as `P`: at the end of the stream, where no
//! `F` follows (as containerd does: the record says truthfully that the container wrote no newline), and whenever the
//! owner wants a reader to see a prompt or a progress line that has been waiting for a while.
//!
//! Owned by the monitor, one for each stream of a container; pure, cannot fail.
//! Source: kubernetes/design-proposals, node/kubelet-cri-logging; cri-api `logs`; containerd internal/cri/io/logger.go.

use memchr::memchr;

use crate::Timestamp;

/// Longest text of one record in bytes where nothing else is configured, as in containerd.
pub const DEFAULT_MAX_LINE_BYTES: usize = 16 * 1024;

/// [`LineSplitter::split`] stops when its output is this long: a read of nothing but newlines grows fifty-fold. What a full
/// pipe of ordinary lines becomes is shorter, and so can be written at once.
const OUTPUT_BYTES: usize = 128 * 1024;

/// A waiting line gives its memory back when it was larger than this.
const KEPT_BYTES: usize = 256;

/// Where the bytes came from; a container with a terminal has only standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn field(self) -> &'static [u8] {
        match self {
            Stream::Stdout => b" stdout ",
            Stream::Stderr => b" stderr ",
        }
    }
}

#[derive(Clone, Copy)]
enum Tag {
    Full,
    Partial,
}

impl Tag {
    fn field(self) -> &'static [u8] {
        match self {
            Tag::Full => b"F ",
            Tag::Partial => b"P ",
        }
    }
}

/// Cuts one stream into records.
#[derive(Debug)]
pub struct LineSplitter {
    stream: Stream,
    max_line_bytes: usize,
    /// Begin of the current line, without a newline, never longer than `max_line_bytes`.
    waiting: Vec<u8>,
}

impl LineSplitter {
    /// A splitter at the begin of a line; a limit of zero counts as one byte.
    pub fn new(stream: Stream, max_line_bytes: usize) -> Self {
        Self { stream, max_line_bytes: max_line_bytes.max(1), waiting: Vec::new() }
    }

    /// Appends the records that `input` completes to `records`, and returns what of `input` was not taken yet.
    ///
    /// Something is left only when `records` has grown past 128 KiB: write it out, clear it, and call again. So its
    /// length stays below 128 KiB plus one record, whatever the container writes.
    pub fn split<'a>(&mut self, mut input: &'a [u8], at: Timestamp, records: &mut Vec<u8>) -> &'a [u8] {
        let full = self.head(Tag::Full, at);
        while !input.is_empty() && records.len() < OUTPUT_BYTES {
            let room = self.max_line_bytes - self.waiting.len();
            // One byte past the room decides between a line of exactly the limit and a longer one.
            let window = &input[..input.len().min(room + 1)];
            let taken = match memchr(b'\n', window) {
                Some(end) => {
                    self.put(&full, &window[..=end], records);
                    end + 1
                }
                None if window.len() > room => {
                    self.put(&self.head(Tag::Partial, at), &window[..room], records);
                    records.push(b'\n');
                    room
                }
                None => {
                    self.waiting.extend_from_slice(input);
                    return &[];
                }
            };
            input = &input[taken..];
        }
        input
    }

    /// Appends the waiting begin of a line as a partial record, if there is one.
    pub fn flush(&mut self, at: Timestamp, records: &mut Vec<u8>) {
        if self.is_waiting() {
            self.put(&self.head(Tag::Partial, at), b"\n", records);
        }
    }

    /// Whether there is a begin of a line that no record holds yet.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What stands before the text of a record; the same for all lines of one read.
    fn head(&self, tag: Tag, at: Timestamp) -> Vec<u8> {
        [at.as_bytes(), self.stream.field(), tag.field()].concat()
    }

    /// Appends a record of what waits and `text`, which comes with what ends it.
    fn put(&mut self, head: &[u8], text: &[u8], records: &mut Vec<u8>) {
        records.extend_from_slice(head);
        if self.is_waiting() {
            records.extend_from_slice(&self.waiting);
            self.clear_waiting();
        }
        records.extend_from_slice(text);
    }

    fn clear_waiting(&mut self) {
        if self.waiting.capacity() > KEPT_BYTES {
            self.waiting = Vec::new();
        } else {
            self.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const MAX: usize = 8;

    fn at() -> Timestamp {
        Timestamp::new(UNIX_EPOCH)
    }

    /// Feeds `reads` one by one and returns the records as (tag, text), after the end of the stream.
    fn records(reads: &[&[u8]], max_line_bytes: usize) -> Vec<(char, Vec<u8>)> {
        let mut lines = LineSplitter::new(Stream::Stderr, max_line_bytes);
        let mut out = Vec::new();
        for read in reads {
            let mut rest = *read;
            let mut batch = Vec::new();
            while !rest.is_empty() {
                rest = lines.split(rest, at(), &mut batch);
                assert!(batch.len() <= OUTPUT_BYTES + Timestamp::LEN + 11 + max_line_bytes);
                out.append(&mut batch);
            }
        }
        lines.flush(at(), &mut out);
        lines.flush(at(), &mut out);
        parse(&out)
    }

    fn parse(mut log: &[u8]) -> Vec<(char, Vec<u8>)> {
        let mut parsed = Vec::new();
        while !log.is_empty() {
            let end = log.iter().position(|&byte| byte == b'\n').unwrap();
            let text = log[..end].strip_prefix(b"1970-01-01T00:00:00.000000000Z stderr ").unwrap();
            assert_eq!(text[1], b' ');
            parsed.push((char::from(text[0]), text[2..].to_vec()));
            log = &log[end + 1..];
        }
        parsed
    }

    fn check(reads: &[&str], expected: &[(char, &str)]) {
        let reads: Vec<_> = reads.iter().map(|read| read.as_bytes()).collect();
        let expected: Vec<_> = expected.iter().map(|(tag, text)| (*tag, text.as_bytes().to_vec())).collect();
        assert_eq!(records(&reads, MAX), expected, "{reads:?}");
    }

    #[test]
    fn lines_become_records() {
        check(&[], &[]);
        check(&["a\n"], &[('F', "a")]);
        check(&["\n\n"], &[('F', ""), ('F', "")]);
        check(&["a\nb\r\n\0\n"], &[('F', "a"), ('F', "b\r"), ('F', "\0")]);
        check(&["a", "b", "\n", "c\n"], &[('F', "ab"), ('F', "c")]);
        check(&["one\ntw", "o\nthr", "ee"], &[('F', "one"), ('F', "two"), ('P', "three")]);
    }

    #[test]
    fn a_line_is_cut_only_when_it_passes_the_limit() {
        check(&["1234567\n"], &[('F', "1234567")]);
        check(&["12345678\n"], &[('F', "12345678")]);
        check(&["12345678", "\n"], &[('F', "12345678")]);
        check(&["12345678"], &[('P', "12345678")]);
        check(&["123456789\n"], &[('P', "12345678"), ('F', "9")]);
        check(&["12345678", "9", "\n"], &[('P', "12345678"), ('F', "9")]);
        check(
            &["1234", "5678abcdefgh12345678\nx"],
            &[('P', "12345678"), ('P', "abcdefgh"), ('F', "12345678"), ('P', "x")],
        );
    }

    #[test]
    fn the_rest_after_a_flush_ends_the_same_line() {
        let mut lines = LineSplitter::new(Stream::Stderr, MAX);
        let mut out = Vec::new();
        lines.split(b"name: ", at(), &mut out);
        assert!(lines.is_waiting() && out.is_empty());
        lines.flush(at(), &mut out);
        assert!(!lines.is_waiting());
        lines.split(b"\n", at(), &mut out);
        assert_eq!(parse(&out), [('P', b"name: ".to_vec()), ('F', b"".to_vec())]);
    }

    #[test]
    fn bytes_survive_any_cutting_of_the_reads() {
        let mut state = 1_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..400 {
            let max_line_bytes = 1 + random(40) as usize;
            let data: Vec<u8> = (0..random(3000))
                .map(|_| if random(1 + round % 60) == 0 { b'\n' } else { random(256) as u8 })
                .collect();
            let mut reads = Vec::new();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let (read, after) = rest.split_at(rest.len().min(1 + random(200) as usize));
                reads.push(read);
                rest = after;
            }
            let cut = records(&reads, max_line_bytes);
            assert_eq!(cut, records(&[&data], max_line_bytes), "the same records however it was read");
            let mut joined = Vec::new();
            for (tag, text) in &cut {
                assert!(text.len() <= max_line_bytes);
                joined.extend_from_slice(text);
                if *tag == 'F' {
                    joined.push(b'\n');
                }
            }
            assert_eq!(joined, data);
        }
    }

    #[test]
    fn the_output_of_one_call_is_bounded() {
        let newlines = vec![b'\n'; 100_000];
        assert_eq!(records(&[&newlines], MAX).len(), 100_000);
    }
}
