//! Killing all processes of a control group, and waiting until they are gone.
//!
//! Where the kernel has `cgroup.kill` (version 2 since Linux 5.14, also in a hierarchy without controllers) one write
//! kills all of them, and none can fork its way out. Version 1 has only the freezer: freeze, so that nothing forks
//! while the list is read, signal everyone, thaw, and look again.
//!
//! Waiting has an event in version 2, `populated` in `cgroup.events`. Version 1 has none: there one member after
//! the other is awaited through a pidfd, and the moment between its death and its leaving the cgroup is waited out.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::files::{self, is_gone, keyed_number, pids_in_tree, write};
use crate::{CgroupError, Entry};

/// Rounds of freeze, kill and thaw; the first nearly always suffices, later ones catch who joined meanwhile.
const ROUNDS: u32 = 16;

/// How long to wait where the kernel has no event to wait for.
const PAUSE: Duration = Duration::from_millis(1);

/// Sends SIGKILL to every process in the cgroup and below it; returns without waiting for their exit.
///
/// An absent cgroup has no processes. On version 1 it may pause for some milliseconds between rounds.
/// Errors: the kernel refused; some processes may have been killed.
pub fn kill_all(entry: &Entry) -> Result<(), CgroupError> {
    entry.killing_directory().map_or(Ok(()), kill_tree)
}

/// Kills and removes the tree at `directory`, waiting for its processes at most `timeout` long.
///
/// The removal is tried first: mostly the processes are long gone.
pub(crate) fn remove_tree(directory: &Path, timeout: Duration) -> Result<(), CgroupError> {
    let started = Instant::now();
    loop {
        let source = match files::remove_tree(directory) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let remove = |source| CgroupError::Remove { path: directory.to_owned(), source };
        if !files::is_in_use(&source) {
            return Err(remove(source));
        }
        if started.elapsed() >= timeout {
            let pids = pids_in_tree(directory).unwrap_or_default();
            return Err(CgroupError::Occupied {
                path: directory.to_owned(),
                pids,
                waited: started.elapsed(),
            });
        }
        kill_tree(directory)?;
        wait_empty(directory, started + timeout).map_err(remove)?;
    }
}

fn kill_tree(directory: &Path) -> Result<(), CgroupError> {
    let result = match write(&directory.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == ErrorKind::NotFound => kill_by_signals(directory),
        result => result,
    };
    match result {
        Err(error) if is_gone(&error) => Ok(()),
        result => result.map_err(|source| CgroupError::Kill { path: directory.to_owned(), source }),
    }
}

/// Waits until the cgroup and all below it look empty, or until the deadline. Where they do from the start it pauses,
/// so that a caller may simply try again.
fn wait_empty(directory: &Path, deadline: Instant) -> io::Result<()> {
    let waited = match File::open(directory.join("cgroup.events")) {
        Ok(events) => wait_unpopulated(&events, deadline)?,
        Err(error) if error.kind() == ErrorKind::NotFound => wait_members(directory, deadline)?,
        Err(error) => return Err(error),
    };
    if waited { Ok(()) } else { pause(deadline) }
}

fn kill_by_signals(directory: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let frozen = set_frozen(directory, "FROZEN")?;
        let signalled = signal_members(directory);
        if frozen {
            set_frozen(directory, "THAWED")?;
        }
        if signalled? == 0 {
            return Ok(());
        }
        pause(Instant::now() + PAUSE)?;
    }
    // Still listed after so many rounds: they cannot run, only wait for I/O. Their SIGKILL is pending.
    Ok(())
}

/// Writes the freezer's state; false where there is no freezer.
fn set_frozen(directory: &Path, state: &str) -> io::Result<bool> {
    match write(&directory.join("freezer.state"), state) {
        Err(error) if is_gone(&error) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Kills all that are listed and says how many were.
fn signal_members(directory: &Path) -> io::Result<usize> {
    let pids = pids_in_tree(directory)?;
    for pid in pids.iter().filter_map(|pid| as_pid(*pid)) {
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(pids.len())
}

/// Waits for `populated 0`; false where it was so from the start.
fn wait_unpopulated(mut events: &File, deadline: Instant) -> io::Result<bool> {
    let mut text = String::new();
    let mut waited = false;
    loop {
        text.clear();
        events.rewind()?;
        match events.read_to_string(&mut text) {
            Err(error) if is_gone(&error) => return Ok(waited),
            result => result?,
        };
        if keyed_number(&text, "populated") != Some(1) || Instant::now() >= deadline {
            return Ok(waited);
        }
        wait_for(&mut [PollFd::new(events, PollFlags::PRI)], deadline)?;
        waited = true;
    }
}

/// Waits for each member's end; false where there were none.
fn wait_members(directory: &Path, deadline: Instant) -> io::Result<bool> {
    let pids = pids_in_tree(directory)?;
    for pid in pids.iter().filter_map(|pid| as_pid(*pid)) {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => wait_for(&mut [PollFd::new(&pidfd, PollFlags::IN)], deadline)?,
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(!pids.is_empty())
}

fn pause(deadline: Instant) -> io::Result<()> {
    wait_for(&mut [], deadline.min(Instant::now() + PAUSE))
}

/// Polls once, at most until `deadline`.
fn wait_for(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_absent_cgroup_is_already_killed() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        kill_all(&Entry { directory: Some(gone.clone()), tasks: Vec::new() }).unwrap();
        kill_all(&Entry { directory: None, tasks: vec![gone.join("tasks")] }).unwrap();
        kill_all(&Entry::default()).unwrap();
    }

    #[test]
    fn the_kernels_own_kill_is_preferred() {
        let dir = tempfile::tempdir().unwrap();
        let (v1, v2) = (dir.path().join("freezer"), dir.path().join("unified"));
        for (directory, file) in [(&v1, "freezer.state"), (&v2, "cgroup.kill")] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("cgroup.procs"), "").unwrap();
            fs::write(directory.join(file), "").unwrap();
        }
        let tasks = vec![v1.join("tasks")];
        kill_all(&Entry { directory: Some(v2.clone()), tasks: tasks.clone() }).unwrap();
        assert_eq!(fs::read_to_string(v2.join("cgroup.kill")).unwrap(), "1");
        assert_eq!(fs::read_to_string(v1.join("freezer.state")).unwrap(), "");
        kill_all(&Entry { directory: None, tasks }).unwrap();
        assert_eq!(fs::read_to_string(v1.join("freezer.state")).unwrap(), "THAWED");
    }
}
