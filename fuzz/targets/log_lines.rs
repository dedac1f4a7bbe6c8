//! A container's output: every byte is in the log, in order, in records of the format and within the limit.
#![no_main]

use std::time::UNIX_EPOCH;

use berth_logs::{LineSplitter, Stream, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let &[size, limit, ref output @ ..] = data else { return };
    let limit = usize::from(limit).max(1);
    let at = Timestamp::new(UNIX_EPOCH);
    let mut lines = LineSplitter::new(Stream::Stdout, limit);
    let mut records = Vec::new();
    for mut rest in output.chunks(usize::from(size) + 1) {
        while !rest.is_empty() {
            let mut some = Vec::new();
            rest = lines.split(rest, at, &mut some);
            records.extend_from_slice(&some);
        }
    }
    lines.flush(at, &mut records);
    let mut logged = Vec::new();
    for record in records.split_inclusive(|byte| *byte == b'\n') {
        let text = record.strip_prefix(at.as_bytes()).and_then(|rest| rest.strip_prefix(b" stdout ")).unwrap();
        let (tag, text) = text.split_at(2);
        let text = text.strip_suffix(b"\n").unwrap();
        assert!(text.len() <= limit);
        logged.extend_from_slice(text);
        match tag {
            b"F " => logged.push(b'\n'),
            b"P " => assert!(!text.is_empty()),
            _ => panic!("{tag:?}"),
        }
    }
    assert!(logged == output);
});
