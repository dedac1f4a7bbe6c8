//! A log line's way through the monitor: pipe or terminal → records → log file, and then to whoever is attached.
//!
//! One read per wake-up, so that a container that floods its log takes turns with all others of the pod. After a
//! write error reading goes on and the records are dropped and counted: a container never blocks on its log.

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use berth_logs::{LineSplitter, LogFile, Stream, Timestamp};
use rustix::io::{Errno, read};

use crate::container::ReplyTo;
use crate::viewers::Viewers;

/// Bytes read at once; a pipe holds 64 KiB.
const READ_BYTES: usize = 32 * 1024;

/// Reads at the end of a stream: what a pipe of the largest size holds (`fs.pipe-max-size`, 1 MiB). Whoever still
/// writes then is no process of the container's, and must not keep the monitor busy.
const LAST_READS: usize = 33;

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
        buffers.input.resize(READ_BYTES, 0);
        match read(&self.source, &mut buffers.input) {
            Ok(0) => Pumped::End,
            Ok(length) => {
                self.log(length, sinks.log.as_mut(), buffers);
                let bytes = buffers.input.get(..length).unwrap_or_default();
                sinks.cut.extend(sinks.viewers.show(self.stream, bytes));
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
