//! The agent's Unix socket: bound so that a client never meets it half made. It is bound under a name of its own, given
//! its mode, set to listen, and only then renamed over the place where clients look. A socket that nobody answers on is
//! what a killed agent leaves, and is replaced; one that is answered on belongs to a live agent, and is refused.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Connections that wait for the agent's accept; the kernel's own cap is `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that listens, and the file by which clients find it.
#[derive(Debug)]
pub(crate) struct Listener {
    path: PathBuf,
    /// Device and inode: tells our socket from that of an agent that replaced it.
    identity: (u64, u64),
}

/// Why the agent can't listen. The path is as it was, unless a stale socket was there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Somebody answers.
    #[error("listen on {}: another agent answers there; stop it, or choose another --socket", path.display())]
    InUse { path: PathBuf },
    /// Not ours to replace.
    #[error("listen on {}: a file that is not a socket is in the way", path.display())]
    NotASocket { path: PathBuf },
    /// A step failed.
    #[error("listen on {}: {step}", path.display())]
    Step {
        path: PathBuf,
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Who sits at a socket's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupant {
    /// Nothing there.
    Nobody,
    /// A socket that refuses connections.
    Stale,
    /// A process that accepts connections.
    Live,
    /// Some other file.
    File,
}

/// Binds `path` with mode 0660, creating its directory, replacing a stale socket. Blocks on the file system, and for
/// half a second where somebody answers.
pub(crate) fn listen_on(path: &Path) -> Result<(Listener, UnixListener), ListenError> {
    let failed = |step| move |source| ListenError::Step { path: path.to_owned(), step, source };
    match occupant(path).map_err(failed("look who is there"))? {
        Occupant::Nobody | Occupant::Stale => {}
        Occupant::Live if is_ending(path) => {}
        Occupant::Live => {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        Occupant::File => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("create its directory"))?;
    }
    // Shorter than any name that fits, and private to this process; an earlier process of this id may have left one.
    let fresh = path.with_file_name(format!(".{}", std::process::id()));
    remove_if_present(&fresh).map_err(failed("remove an unfinished socket"))?;
    let socket = bind_private(&fresh).map_err(failed("bind"))?;
    let metadata = fs::symlink_metadata(&fresh).map_err(failed("look at the new socket"))?;
    if let Err(source) = fs::rename(&fresh, path) {
        // Ours and unfinished: what matters is the error above it.
        let _ = fs::remove_file(&fresh);
        return Err(failed("put in place")(source));
    }
    let identity = (metadata.dev(), metadata.ino());
    Ok((Listener { path: path.to_owned(), identity }, UnixListener::from(socket)))
}

impl Listener {
    /// Removes the socket's file, unless another agent has put its own there. Absent means done.
    pub(crate) fn remove(self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => remove_if_present(&self.path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Finds out by connecting; the connection is closed at once.
pub(crate) fn occupant(path: &Path) -> io::Result<Occupant> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nobody),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Ok(Occupant::File),
        Ok(_) => {}
    }
    match connected(path) {
        Ok(_) | Err(Errno::AGAIN) => Ok(Occupant::Live),
        Err(Errno::CONNREFUSED) => Ok(Occupant::Stale),
        Err(Errno::NOENT) => Ok(Occupant::Nobody),
        Err(error) => Err(error.into()),
    }
}

/// The process that listens on `path`, where that can be told.
pub(crate) fn holder(path: &Path) -> Option<Pid> {
    Some(socket_peercred(connected(path).ok()?).ok()?.pid)
}

/// Whether the process that answers ends within a moment, as one does that has just been killed; its locks are free
/// then.
fn is_ending(path: &Path) -> bool {
    let ends = || {
        let process = pidfd_open(socket_peercred(&connected(path)?)?.pid, PidfdFlags::empty())?;
        let moment = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&moment))
    };
    // It has ended already where nobody answers any more, or no such process is left.
    matches!(ends(), Ok(1..) | Err(Errno::CONNREFUSED | Errno::NOENT | Errno::SRCH))
}

/// Does not wait: the queue of an agent that hangs may be full, and that agent lives, too.
fn connected(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The socket takes connections from the moment that this returns, and only from root and its group.
fn bind_private(path: &Path) -> Result<OwnedFd, io::Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let opened = chmod(path, Mode::from_raw_mode(0o660)).and_then(|()| listen(&socket, BACKLOG));
    opened.inspect_err(|_: &Errno| {
        // Ours and unfinished: what matters is the error above it.
        let _ = fs::remove_file(path);
    })?;
    Ok(socket)
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_socket_has_its_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/berth.sock");
        let (listener, _socket) = listen_on(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(occupant(&path).unwrap(), Occupant::Live);
        listener.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 0);
    }

    #[test]
    fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_listener, socket) = listen_on(&path).unwrap();
        assert!(matches!(listen_on(&path), Err(ListenError::InUse { .. })));
        drop(socket);
        assert_eq!(occupant(&path).unwrap(), Occupant::Stale);
        listen_on(&path).unwrap();
    }

    #[test]
    fn an_agent_that_hangs_with_a_full_queue_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = bind_private(&path).unwrap();
        listen(&socket, 0).unwrap();
        let _first = connected(&path).unwrap();
        assert_eq!(connected(&path).unwrap_err(), Errno::AGAIN);
        assert!(!is_ending(&path));
        assert!(matches!(listen_on(&path), Err(ListenError::InUse { .. })));
    }

    #[test]
    fn a_file_in_the_way_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen_on(&path), Err(ListenError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn an_agent_that_was_replaced_leaves_its_successor_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (old, socket) = listen_on(&path).unwrap();
        drop(socket);
        let (_new, _socket) = listen_on(&path).unwrap();
        old.remove().unwrap();
        assert!(path.exists());
    }
}
