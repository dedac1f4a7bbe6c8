//! Waiting for a program that was run, for a limited time.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Waits for a child without looking at it again and again; one that takes too long is killed, and `None`. What it has
/// started itself lives on. Blocks.
///
/// # Errors
/// That it can't be watched; it has been killed then too.
pub fn await_end(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let has_ended = ends_within(child, limit);
    if !matches!(has_ended, Ok(true)) {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(has_ended?.then_some(status))
}

fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_waited_for_and_one_that_takes_too_long_is_killed() {
        let mut quick = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let status = await_end(&mut quick, Duration::from_secs(60)).unwrap();
        assert_eq!(status.and_then(|status| status.code()), Some(7));
        let mut slow = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(await_end(&mut slow, Duration::from_millis(1)).unwrap(), None);
        assert!(!std::path::Path::new(&format!("/proc/{}", slow.id())).exists());
    }
}
