//! The three standard streams of a child: pipes, `/dev/null` or its terminal; whom they belong to, and how they become
//! its descriptors 0, 1 and 2.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Uid, fchown, fstat};

use crate::idmap::IdMaps;
use crate::protocol::ResolvedUser;
use crate::stage::{Stage, StageError};

/// The three, still under any number.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Streams {
    pub(crate) fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()]
    }

    /// Gives pipes to root inside, from where they can be given on to any user inside; what the host's root has made
    /// can't be.
    pub(crate) fn give_to_root_of(&self, maps: &IdMaps) -> Result<(), StageError> {
        let (uid, gid) = (Uid::from_raw(maps.uids.host_root()), Gid::from_raw(maps.gids.host_root()));
        self.give(uid, Some(gid), |_, kind| kind.is_fifo())
    }

    /// Lets a workload that is not root open its own `/dev/stdout` anew, as logging to a file path does.
    pub(crate) fn give_to(&self, user: &ResolvedUser) -> Result<(), StageError> {
        // Not /dev/null, which all share.
        let is_terminal =
            |fd: BorrowedFd<'_>, kind: FileType| kind.is_char_device() && rustix::termios::isatty(fd);
        self.give(Uid::from_raw(user.uid), None, |fd, kind| kind.is_fifo() || is_terminal(fd, kind))
    }

    fn give(
        &self,
        uid: Uid,
        gid: Option<Gid>,
        is_meant: impl Fn(BorrowedFd<'_>, FileType) -> bool,
    ) -> Result<(), StageError> {
        let fail = || StageError::at(Stage::ConnectStreams, "owner of a standard stream");
        for fd in self.as_fds() {
            let stat = fstat(fd).map_err(fail())?;
            if is_meant(fd, FileType::from_raw_mode(stat.st_mode)) {
                fchown(fd, Some(uid), gid).map_err(fail())?;
            }
        }
        Ok(())
    }

    /// Makes them this process's own.
    pub(crate) fn connect(self) -> Result<(), StageError> {
        let connect = || {
            rustix::stdio::dup2_stdin(&self.stdin)?;
            rustix::stdio::dup2_stdout(&self.stdout)?;
            rustix::stdio::dup2_stderr(&self.stderr)
        };
        connect().map_err(StageError::at(Stage::ConnectStreams, "standard streams"))
    }
}
