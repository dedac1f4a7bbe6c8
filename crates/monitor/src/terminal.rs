//! A container's terminals, made in its own instance of devpts: the slave side becomes the workload's streams, the
//! master goes to the monitor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use crate::root_dir::RootDir;
use crate::rootfs;
use crate::stage::{Stage, StageError};
use crate::streams::Streams;

const PTMX: &str = "/dev/pts/ptmx";

/// A new terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    /// Makes the terminal of a container that is being made; it is its `/dev/console` too.
    pub(crate) fn open_in(root: &RootDir) -> Result<Self, StageError> {
        Stage::OpenTerminal.begin()?;
        let terminal = Self::of(root.open(Path::new(PTMX), OFlags::RDWR | OFlags::NOCTTY))?;
        rootfs::mount_console(root, terminal.slave.as_fd())
            .map_err(StageError::mount(Stage::OpenTerminal))?;
        Ok(terminal)
    }

    /// Makes one in the container that this process has entered.
    pub(crate) fn open_here() -> Result<Self, StageError> {
        Self::of(open(PTMX, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()))
    }

    fn of(ptmx: Result<OwnedFd, Errno>) -> Result<Self, StageError> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let open = || {
            let master = ptmx?;
            unlockpt(&master)?;
            let slave = ioctl_tiocgptpeer(&master, flags)?;
            Ok(Self { master, slave })
        };
        open().map_err(StageError::at(Stage::OpenTerminal, PTMX))
    }

    /// Makes it the controlling terminal of this session. Returns the workload's streams, and the master side.
    pub(crate) fn take(self) -> Result<(Streams, OwnedFd), StageError> {
        let Self { master, slave } = self;
        let copy = || rustix::io::fcntl_dupfd_cloexec(&slave, 3);
        let take = || {
            rustix::process::ioctl_tiocsctty(&slave)?;
            Ok(Streams { stdin: copy()?, stdout: copy()?, stderr: copy()? })
        };
        let streams = take().map_err(StageError::at(Stage::ConnectStreams, "terminal"))?;
        Ok((streams, master))
    }
}
