//! The file that a container's records go to.
//!
//! Whole records come in and are appended; the kubelet, or whoever reads, renames the file away and asks for
//! [`LogFile::reopen`]. Until then bytes go to the renamed file, afterwards to the new one, and since one thread does
//! both there is no moment between: nothing is lost.
//!
//! Reopening creates the file, as both peers do: the kubelet has just renamed the old one and creates none itself. The
//! CRI's rule that no file may appear when the call fails holds, because opening is the only step that can fail.
//!
//! Only a regular file is opened, never through a symbolic link below the directory that its client vouches for, and a
//! pipe in its place is refused, not waited for: a container that can write to its log directory must not redirect or
//! stop a monitor.
//!
//! Failure: [`LogFile::append`] has none to return. A full disk or a revoked file drops records, counts their bytes and
//! tries again with the next ones. A record that was cut short is ended with a newline first, so that only it is lost.
//! Owned by the monitor, which is the only writer. Nothing is flushed to the disk: the log of a running container
//! survives every process, though not the loss of power.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2};
use rustix::io::Errno;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directory for the file could not be made.
    #[error("create log directory {}", path.display())]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file could not be opened or created.
    #[error("open log file {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// The path names a directory, pipe, socket or device.
    #[error("open log file {}: it is a {kind}, not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
}

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    /// Up to here symbolic links are followed, since its client says where it is.
    directory: PathBuf,
    path: PathBuf,
    fd: OwnedFd,
    /// The last write ended in the middle of a record.
    torn: bool,
    dropped_bytes: u64,
    last_error: Option<Errno>,
}

impl LogFile {
    /// Opens the log at `path` for appending, and creates it (0640) and the directories above it (0755).
    ///
    /// Errors: nothing is left but directories.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LogError> {
        let path = path.into();
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        Self::open_below(directory, path)
    }

    /// As [`LogFile::open`], for a path of which everything below `directory` must be what it seems.
    ///
    /// Errors: also where a symbolic link is on the way from there.
    pub fn open_below(directory: impl Into<PathBuf>, path: impl Into<PathBuf>) -> Result<Self, LogError> {
        let (directory, path) = (directory.into(), path.into());
        make_directories(&directory, &path)
            .map_err(|source| LogError::CreateDirectory { path: path.clone(), source })?;
        let fd = open_regular(&directory, &path)?;
        Ok(Self { directory, path, fd, torn: false, dropped_bytes: 0, last_error: None })
    }

    /// Goes on in the file that the path names now, created where there is none.
    ///
    /// Errors: records go on to the old file, and no new one exists. The directories are not made again: where they are
    /// gone, the pod is being removed.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        self.fd = open_regular(&self.directory, &self.path)?;
        self.torn = false;
        Ok(())
    }

    /// Appends whole records; what cannot be written is dropped and counted.
    pub fn append(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if self.torn && self.write_all(b"\n").is_ok() {
            self.torn = false;
        }
        if let Err(unwritten) = self.write_all(records) {
            let written = records.len() - unwritten;
            self.torn = if written == 0 { self.torn } else { records[written - 1] != b'\n' };
            self.dropped_bytes += unwritten as u64;
        }
    }

    /// How many bytes of records were dropped since the log was opened.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// Why records were dropped the last time that it happened.
    pub fn last_error(&self) -> Option<io::Error> {
        self.last_error.map(io::Error::from)
    }

    /// Writes all of `bytes`, or says how many of them are missing.
    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), usize> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(error) => {
                    self.last_error = Some(error);
                    return Err(bytes.len());
                }
            }
        }
        Ok(())
    }
}

/// Makes `directory` and, without following a link, what is missing between it and the file.
fn make_directories(directory: &Path, path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut parent = open_directory(directory)?;
    for name in below(directory, path)?.parent().into_iter().flatten() {
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => parent = enter(&parent, name)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn enter(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn below<'a>(directory: &Path, path: &'a Path) -> Result<&'a Path, Errno> {
    path.strip_prefix(directory).map_err(|_| Errno::XDEV)
}

/// Opens or creates a regular file for appending.
fn open_regular(directory: &Path, path: &Path) -> Result<OwnedFd, LogError> {
    let fail = |source| LogError::Open { path: path.to_owned(), source };
    // NONBLOCK changes nothing for a regular file; without it a pipe would keep us here until somebody reads it.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::NOCTTY
        | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let directory_fd = open_directory(directory).map_err(fail)?;
    let file = below(directory, path).map_err(fail)?;
    let fd = openat2(&directory_fd, file, flags, Mode::from_raw_mode(0o640), resolve).map_err(fail)?;
    let stat = rustix::fs::fstat(&fd).map_err(fail)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(fd),
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Directory | FileType::Symlink | FileType::Unknown => "special file",
    };
    Err(LogError::NotRegular { path: path.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LineSplitter, Stream, Timestamp};
    use std::fs;
    use std::time::UNIX_EPOCH;

    #[test]
    fn directories_are_made_and_records_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/0.log");
        LogFile::open(&path).unwrap().append(b"one\n");
        LogFile::open(&path).unwrap().append(b"two\n");
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn bytes_go_to_the_renamed_file_until_it_is_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.append(b"one\n");
        fs::rename(&path, &rotated).unwrap();
        log.append(b"two\n");
        log.reopen().unwrap();
        log.append(b"three\n");
        assert_eq!(fs::read(&rotated).unwrap(), b"one\ntwo\n");
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file_and_makes_no_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        let mut log = LogFile::open(logs.join("0.log")).unwrap();
        fs::rename(&logs, &moved).unwrap();
        assert!(matches!(log.reopen(), Err(LogError::Open { .. })));
        log.append(b"still\n");
        assert_eq!(fs::read(moved.join("0.log")).unwrap(), b"still\n");
        assert!(!logs.exists());
    }

    #[test]
    fn links_and_pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (link, pipe) = (dir.path().join("link"), dir.path().join("pipe"));
        std::os::unix::fs::symlink("target", &link).unwrap();
        assert!(matches!(LogFile::open(&link), Err(LogError::Open { .. })));
        assert!(!dir.path().join("target").exists());
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
        assert!(matches!(LogFile::open(&pipe), Err(LogError::Open { source: Errno::NXIO, .. })));
        let _reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        assert!(matches!(LogFile::open(&pipe), Err(LogError::NotRegular { kind: "pipe", .. })));
    }

    #[test]
    fn no_link_below_the_clients_directory_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let [logs, outside, shown] = ["logs", "outside", "shown"].map(|name| dir.path().join(name));
        fs::create_dir(&logs).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, logs.join("web")).unwrap();
        std::os::unix::fs::symlink(&logs, &shown).unwrap();
        for path in ["web/0.log", "web/deep/0.log"] {
            let opened = LogFile::open_below(&shown, shown.join(path));
            assert!(opened.is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        // Where its client says that the directory is, it is.
        let mut log = LogFile::open_below(&shown, shown.join("db/0.log")).unwrap();
        log.append(b"one\n");
        assert_eq!(fs::read(logs.join("db/0.log")).unwrap(), b"one\n");
        // What comes in its place later is no better.
        fs::remove_dir_all(logs.join("db")).unwrap();
        std::os::unix::fs::symlink(&outside, logs.join("db")).unwrap();
        assert!(log.reopen().is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.append(b"before\n");
        let good = std::mem::replace(&mut log.fd, fs::File::open("/dev/full").unwrap().into());
        log.append(b"lost\n");
        assert_eq!(log.dropped_bytes(), 5);
        assert!(log.last_error().is_some());
        log.fd = good;
        log.append(b"after\n");
        assert_eq!(fs::read(&path).unwrap(), b"before\nafter\n");
    }

    #[test]
    fn a_record_cut_short_is_ended_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.append(b"cut sho");
        log.torn = true;
        log.append(b"next\n");
        log.append(b"last\n");
        assert_eq!(fs::read(&path).unwrap(), b"cut sho\nnext\nlast\n");
    }

    #[test]
    fn a_thousand_rotations_lose_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        let mut lines = LineSplitter::new(Stream::Stdout, 64);
        let (stamp, mut records) = (Timestamp::new(UNIX_EPOCH), Vec::new());
        for rotation in 0..1000 {
            for half in ["fir", "st\nsecond ", "half"] {
                lines.split(half.as_bytes(), stamp, &mut records);
            }
            lines.split(format!(" {rotation}\n").as_bytes(), stamp, &mut records);
            // The first half of the batch is written before the rename, the second between rename and reopen.
            let end = records.iter().position(|&byte| byte == b'\n').unwrap() + 1;
            log.append(&records[..end]);
            fs::rename(&path, dir.path().join(rotation.to_string())).unwrap();
            log.append(&records[end..]);
            records.clear();
            log.reopen().unwrap();
        }
        for rotation in 0..1000 {
            let text = fs::read_to_string(dir.path().join(rotation.to_string())).unwrap();
            let texts: Vec<_> = text.lines().map(|line| &line[Timestamp::LEN + 10..]).collect();
            assert_eq!(texts, ["first".to_owned(), format!("second half {rotation}")]);
        }
        assert_eq!((fs::read(&path).unwrap().len(), log.dropped_bytes()), (0, 0));
    }
}
