//! Follows the log file of one running container and prints its lines.
//!
//! A thread of its own per container attempt: it sleeps in poll(2) on an inotify watch of the log's directory and on an
//! eventfd, by which it is told to read what is left and end. The file is written by the runtime in the CRI log format:
//! `TIME STREAM F|P CONTENT`, where P marks a part of a line; the parts of each stream are joined here.

use std::{
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::inotify,
    io::Errno,
};

use super::output::{Label, Output};

/// A line longer than this is printed in pieces, so that a container can't make us grow.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// The thread that prints a container's log; dropping it lets the thread end by itself.
#[derive(Debug)]
pub(crate) struct Follower {
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Begins to print `log`, whose directory exists; the file may come later.
    pub(crate) fn start(log: PathBuf, label: Label, output: Arc<Output>) -> io::Result<Self> {
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let dir = log.parent().unwrap_or(Path::new("/"));
        inotify::add_watch(&changes, dir, inotify::WatchFlags::CREATE | inotify::WatchFlags::MODIFY)?;
        let print = move |line: &[u8]| output.line(&label, line);
        let told = Arc::clone(&end);
        let thread = thread::Builder::new()
            .name("follow-log".to_owned())
            .spawn(move || follow(&log, &changes, &told, print))?;
        Ok(Self { end, thread: Some(thread) })
    }

    /// Prints what is left and ends. Blocks until that is done.
    pub(crate) fn finish(mut self) {
        self.tell_end();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }

    fn tell_end(&self) {
        // Only a counter at its limit can refuse, which is then not 0 either.
        let _told = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.tell_end();
    }
}

fn follow(log: &Path, changes: &OwnedFd, end: &OwnedFd, mut print: impl FnMut(&[u8])) {
    let mut tail = Tail { file: None, records: Records::default() };
    loop {
        let mut fds = [PollFd::new(changes, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let ending = fds[1].revents().contains(PollFlags::IN);
        drain(changes);
        tail.read_new(log, &mut print);
        if ending {
            tail.records.finish(&mut print);
            return;
        }
    }
}

fn drain(changes: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(changes, &mut buffer);
    while reader.next().is_ok() {}
}

struct Tail {
    file: Option<File>,
    records: Records,
}

impl Tail {
    fn read_new(&mut self, log: &Path, print: &mut impl FnMut(&[u8])) {
        if self.file.is_none() {
            self.file = File::open(log).ok();
        }
        let Some(file) = &mut self.file else { return };
        let mut chunk = [0; 16 * 1024];
        while let Ok(read @ 1..) = file.read(&mut chunk) {
            self.records.feed(&chunk[..read], print);
        }
    }
}

/// Bytes of a log file in, lines of the container out.
#[derive(Debug, Default)]
struct Records {
    /// A record whose end has not been read yet.
    unfinished: Vec<u8>,
    /// Parts of a line of standard output, and of standard error.
    parts: [Vec<u8>; 2],
}

impl Records {
    fn feed(&mut self, bytes: &[u8], print: &mut impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if let Some(record) = self.unfinished.strip_suffix(b"\n") {
                let record = record.to_vec();
                self.unfinished.clear();
                self.record(&record, print);
            }
        }
    }

    fn record(&mut self, record: &[u8], print: &mut impl FnMut(&[u8])) {
        let mut fields = record.splitn(4, |byte| *byte == b' ');
        let (_time, stream, tag) = (fields.next(), fields.next(), fields.next());
        let parts = &mut self.parts[usize::from(stream == Some(b"stderr"))];
        parts.extend_from_slice(fields.next().unwrap_or_default());
        if tag != Some(b"P") || parts.len() > MAX_LINE_BYTES {
            print(parts);
            parts.clear();
        }
    }

    fn finish(&mut self, print: &mut impl FnMut(&[u8])) {
        for parts in self.parts.iter_mut().filter(|parts| !parts.is_empty()) {
            print(parts);
            parts.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&str]) -> Vec<String> {
        let mut records = Records::default();
        let mut lines = Vec::new();
        let mut print = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
        chunks.iter().for_each(|chunk| records.feed(chunk.as_bytes(), &mut print));
        records.finish(&mut print);
        lines
    }

    #[test]
    fn records_become_lines() {
        for (chunks, expected) in [
            (&["t stdout F a b  c\n"][..], &["a b  c"][..]),
            (&["t stdout F \nt stderr F x\n"], &["", "x"]),
            (&["t std", "out F a", "b\n"], &["ab"]),
            (&["t stdout P a\nt stderr F err\nt stdout P b\nt stdout F c\n"], &["err", "abc"]),
            (&["t stdout P never ended\n"], &["never ended"]),
            (&["t stdout F cut off"], &[]),
        ] {
            assert_eq!(lines(chunks), expected, "{chunks:?}");
        }
    }

    #[test]
    fn a_follower_prints_what_is_there_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let (mut reader, writer) = io::pipe().unwrap();
        let output = Arc::new(Output::plain(writer));
        let follower = Follower::start(log.clone(), Label::new("web", 5, 0), output).unwrap();
        std::fs::write(&log, "t stdout F one\nt stderr F two\n").unwrap();
        follower.finish();
        let mut printed = String::new();
        reader.read_to_string(&mut printed).unwrap();
        assert_eq!(printed, "web   | one\nweb   | two\n");
    }
}
