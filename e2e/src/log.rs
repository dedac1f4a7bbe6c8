//! Reading a container's log file. Source: the kubelet's CRI log format, `TIME STREAM TAG TEXT`.

use std::fs;
use std::path::Path;

/// One record of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As written, RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `F` for the end of a line, `P` for a part of one.
    pub tag: String,
    /// What the container wrote.
    pub text: String,
}

/// The records of a log file; a record that does not have the four parts fails the test.
#[track_caller]
pub fn read_log(path: &Path) -> Vec<Line> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = String::from_utf8(bytes).unwrap();
    // The last record may be half written while its writer works.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    // Not lines(), which would take a `\r` before the newline away.
    whole.split_terminator('\n').map(parse).collect()
}

#[track_caller]
fn parse(record: &str) -> Line {
    let mut parts = record.splitn(4, ' ').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_else(|| panic!("not a record: {record:?}"));
    Line { time: next(), stream: next(), tag: next(), text: next() }
}

/// The lines of a log's text, parts joined, of both streams.
#[track_caller]
pub fn whole_lines(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut part = String::new();
    for line in read_log(path) {
        part.push_str(&line.text);
        if line.tag == "F" {
            lines.push(std::mem::take(&mut part));
        }
    }
    if !part.is_empty() {
        lines.push(part);
    }
    lines
}
