//! A log line's way through the monitor: pipe or terminal → records → log file, and then to whoever is attached.
//!
//! One read per wake-up, so that a container that floods its log takes turns with all others of the pod; and all lines
//! of a read go to the file in one write, or in few. After a write error reading goes on and the records are dropped and
//! counted: a container never blocks on its log.
//!
//! A pod whose containers say little has little memory for it: only a read that leaves no room makes the buffers large,
//! and a second later they are given back.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use berth_logs::{LineSplitter, LogFile, Stream, Timestamp};
use rustix::io::{Errno, read};

use crate::container::ReplyTo;
use crate::viewers::Viewers;

/// Bytes read at once where there is little to read.
const FEW_BYTES: usize = 4 * 1024;

/// Bytes read at once of a flood; so much a pipe holds.
const MANY_BYTES: usize = 64 * 1024;

/// How long large buffers are kept. A flood that goes on then makes new ones, which is nothing beside a second of it.
const KEPT: Duration = Duration::from_secs(1);

/// Reads at the end of a stream: a small one, and what a pipe of the largest size holds (`fs.pipe-max-size`, 1 MiB).
/// Whoever still writes then is no process of the container's, and must not keep the monitor busy.
const LAST_READS: usize = 18;

/// Where a container's output goes.
#[derive(Debug, Default)]
pub(crate) struct Sinks {
    pub(crate) log: Option<LogFile>,
    pub(crate) viewers: Viewers,
    /// Viewers that were cut off and have not been told yet.
    pub(crate) cut: Vec<ReplyTo>,
}

/// The buffers that all streams of a pod share, since one is read at a time.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    input: Vec<u8>,
    records: Vec<u8>,
    /// Since they are large.
    kept_until: Option<Instant>,
}

/// One stream of one container.
#[derive(Debug)]
pub(crate) struct Output {
    source: OwnedFd,
    stream: Stream,
    splitter: LineSplitter,
}

/// What is to be expected of a stream after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Something was read; there may be more.
    Some,
    /// Nothing is there now.
    Empty,
    /// No writer is left.
    End,
}

impl Output {
    /// `source` does not block.
    pub(crate) fn new(source: OwnedFd, stream: Stream, max_line_bytes: usize) -> Self {
        Self { source, stream, splitter: LineSplitter::new(stream, max_line_bytes) }
    }

    /// The descriptor to wait for.
    pub(crate) fn source(&self) -> &OwnedFd {
        &self.source
    }

    /// Reads once, logs what came, and then shows it.
    pub(crate) fn pump(&mut self, sinks: &mut Sinks, buffers: &mut Buffers) -> Pumped {
        match read(&self.source, buffers.input()) {
            Ok(0) => Pumped::End,
            Ok(length) => {
                self.log(length, sinks.log.as_mut(), buffers);
                let bytes = buffers.input.get(..length).unwrap_or_default();
                sinks.cut.extend(sinks.viewers.show(self.stream, bytes));
                buffers.grow_after(length);
                Pumped::Some
            }
            Err(Errno::AGAIN | Errno::INTR) => Pumped::Empty,
            // A terminal reports EIO when the last slave has been closed.
            Err(_) => Pumped::End,
        }
    }

    /// Logs everything that is there now and the unfinished line: the stream's writer is gone.
    pub(crate) fn finish(&mut self, sinks: &mut Sinks, buffers: &mut Buffers) {
        for _ in 0..LAST_READS {
            if self.pump(sinks, buffers) != Pumped::Some {
                break;
            }
        }
        let Some(log) = &mut sinks.log else { return };
        buffers.records.clear();
        self.splitter.flush(Timestamp::new(SystemTime::now()), &mut buffers.records);
        log.append(&buffers.records);
    }

    fn log(&mut self, length: usize, log: Option<&mut LogFile>, buffers: &mut Buffers) {
        let Some(log) = log else { return };
        let now = Timestamp::new(SystemTime::now());
        let mut rest = buffers.input.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            buffers.records.clear();
            rest = self.splitter.split(rest, now, &mut buffers.records);
            log.append(&buffers.records);
        }
    }
}

impl Buffers {
    /// When they are to be given back.
    pub(crate) fn kept_until(&self) -> Option<Instant> {
        self.kept_until
    }

    /// Gives large ones back to the kernel when their time has come.
    pub(crate) fn give_back(&mut self) {
        if self.kept_until.is_some_and(|until| Instant::now() >= until) {
            *self = Self::default();
            berth_sys::heap::trim();
        }
    }

    fn input(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; if self.kept_until.is_some() { MANY_BYTES } else { FEW_BYTES }];
        }
        &mut self.input
    }

    /// Makes them large, if a read has left no room or its records have taken much already.
    fn grow_after(&mut self, length: usize) {
        let is_much = length == self.input.len() || self.records.capacity() > MANY_BYTES;
        if self.kept_until.is_none() && is_much {
            self.kept_until = Some(Instant::now() + KEPT);
            self.input = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::write;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn a_flood_makes_the_buffers_large_for_a_while_and_all_of_it_is_logged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let (source, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut output = Output::new(source, Stream::Stdout, 100);
        let mut sinks = Sinks { log: Some(LogFile::open(&path).unwrap()), ..Sinks::default() };
        let mut buffers = Buffers::default();
        let mut say = |text: &str, buffers: &mut Buffers| {
            assert_eq!(write(&writer, text.as_bytes()), Ok(text.len()));
            let mut reads = 0;
            while output.pump(&mut sinks, buffers) == Pumped::Some {
                reads += 1;
            }
            reads
        };
        assert_eq!((say("one\n", &mut buffers), buffers.input.len()), (1, FEW_BYTES));
        assert_eq!(buffers.kept_until, None);
        // A small read, which leaves no room, and a large one.
        assert_eq!((say(&"flood\n".repeat(10_000), &mut buffers), buffers.input.len()), (2, MANY_BYTES));
        buffers.give_back();
        assert_eq!(buffers.input.len(), MANY_BYTES, "a second is not over");
        buffers.kept_until = Some(Instant::now());
        buffers.give_back();
        assert_eq!((buffers.kept_until, buffers.records.capacity()), (None, 0));
        assert_eq!((say("two\n", &mut buffers), buffers.input.len()), (1, FEW_BYTES));
        // Newlines alone are records of forty times their length.
        say(&"\n".repeat(FEW_BYTES - 1), &mut buffers);
        assert!(buffers.kept_until.is_some());

        let log = std::fs::read_to_string(&path).unwrap();
        let texts: Vec<_> = log.lines().map(|line| line.splitn(4, ' ').last().unwrap()).collect();
        let expected = [vec!["one"], vec!["flood"; 10_000], vec!["two"], vec![""; FEW_BYTES - 1]].concat();
        assert_eq!(texts, expected);
    }
}
