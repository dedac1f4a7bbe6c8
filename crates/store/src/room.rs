//! Room on the disk that is the database's already when the disk is full, so that a node that has filled up can still
//! record that its pods are stopped and removed, which is what makes room.
//!
//! ```text
//! while it is open   berth.db, berth.db-wal   blocks beyond their ends, which nobody else gets; SQLite does not see them
//! while it is not    reserve                  as much again: SQLite removes the log when it closes, and makes it anew
//! ```
//! A file that is given up when a commit fails would be the simpler way, but its blocks go to whoever fills the disk.
//!
//! Failure: none is told. A file system that can't set blocks aside (fallocate(2)) keeps no room, and neither does one
//! that is full already; it is tried again whenever the log has been copied.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// The log is copied into the database before it is longer than this.
pub(crate) const LOG_BYTES: u64 = 8 << 20;

/// What the database may grow by on a full disk. Removals make it smaller, so this is for records that get longer.
const GROWTH_BYTES: u64 = 1 << 20;

/// What SQLite gives back with the log: there is that much at least, when the database has been closed. The room for
/// growth stays with the database's file.
const RESERVE_BYTES: u64 = LOG_BYTES + INDEX_BYTES;

const RESERVE: &str = "reserve";

/// The room of an open database.
#[derive(Debug)]
pub(crate) struct Room {
    /// POSIX locks go with the first descriptor of a file that a process closes, and SQLite's are such: these are opened
    /// before it takes any, or on the log, which it does not lock, and closed after it has let go.
    database: File,
    /// Shared memory, in a file of its own.
    index: File,
    log: Option<File>,
}

/// How much of the index SQLite uses at once: enough for a log twice as long as ours gets.
const INDEX_BYTES: u64 = 32 << 10;

impl Room {
    /// Opens the database's file, made for root alone when missing: SQLite gives its other files the mode of this one.
    pub(crate) fn open(database: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let index = options.open(database.with_extension("db-shm"))?;
        Ok(Self { database: options.open(database)?, index, log: None })
    }

    /// How long the database's file is.
    pub(crate) fn database_bytes(&self) -> io::Result<u64> {
        Ok(self.database.metadata()?.len())
    }

    /// Takes up the log, which SQLite has opened by now, and sets blocks aside.
    pub(crate) fn furnish(&mut self, log: &Path) {
        // SQLite makes room in the index for one byte of each page. Where blocks are smaller than pages, the rest are
        // holes; and what is written to a hole through memory on a full disk kills the writer (SIGBUS).
        let _ = fallocate(&self.index, FallocateFlags::empty(), 0, INDEX_BYTES);
        self.log = OpenOptions::new().write(true).open(log).ok();
        self.keep();
    }

    /// Sets aside what has been used since.
    pub(crate) fn keep(&self) {
        if let Ok(bytes) = self.database_bytes() {
            take(&self.database, FallocateFlags::KEEP_SIZE, bytes + GROWTH_BYTES);
        }
        if let Some(log) = &self.log {
            take(log, FallocateFlags::KEEP_SIZE, LOG_BYTES);
        }
    }
}

/// Gives a file blocks: as many as there are, in rough steps; half of the room still serves many commits.
fn take(file: &File, flags: FallocateFlags, bytes: u64) {
    let _ = (1..=8).rev().any(|eighths| fallocate(file, flags, 0, bytes / 8 * eighths).is_ok());
}

/// Makes the reserve, when the database has just been closed.
pub(crate) fn make_reserve(root: &Path) {
    let path = root.join(RESERVE);
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    if let Ok(file) = made {
        take(&file, FallocateFlags::empty(), RESERVE_BYTES);
    }
}

/// Makes room for a database that is about to be opened.
pub(crate) fn give_reserve_up(root: &Path) {
    // Absent after an agent that was killed: the log is still there then, with its blocks.
    let _ = std::fs::remove_file(root.join(RESERVE));
}
