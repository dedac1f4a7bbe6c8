//! The signal by which a container is asked to stop, where its monitor can't be asked to send it.

use std::os::fd::OwnedFd;

use berth_cgroup::Cgroup;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};
use crate::events::started_at;

/// Sends a signal to a container's first process; none means done. Blocks.
pub(super) fn signal_first(cgroup: &Cgroup, number: i32) -> Result<()> {
    let Some(first) = first_of(&cgroup.procs()?) else { return Ok(()) };
    let Some(pidfd) = open(first)? else { return Ok(()) };
    // Looked at after it was opened: from here on the descriptor means this process and no later one of its number.
    if !cgroup.procs()?.contains(&first) {
        return Ok(());
    }
    match berth_sys::clone::send_signal(&pidfd, number) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(failed(first, errno)),
    }
}

fn open(pid: u32) -> Result<Option<OwnedFd>> {
    let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(handle, PidfdFlags::empty()) {
        Err(Errno::SRCH) => Ok(None),
        opened => opened.map(Some).map_err(|errno| failed(pid, errno)),
    }
}

/// The one that has been there longest: what a container forks, and commands of exec sessions, came later.
fn first_of(pids: &[u32]) -> Option<u32> {
    pids.iter().filter_map(|pid| Some((started_at(*pid)?, *pid))).min().map(|(_, pid)| pid)
}

fn failed(pid: u32, errno: Errno) -> Error {
    Error::file("signal process", format!("/proc/{pid}"))(errno.into())
}
