//! Running `apparmor_parser` on a profile: for a limited time, with files in memory for what goes in and out, so that neither
//! side ever waits for the other.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long the parser may take; it needs less than a second.
const LIMIT: Duration = Duration::from_secs(20);

/// How much of what it says is told, in bytes.
const MAX_WORDS: u64 = 512;

/// Compiles a profile and loads it into the kernel.
pub(super) fn run_parser(profile: &str) -> io::Result<()> {
    let mut parser = Command::new("apparmor_parser");
    parser.args(["--replace", "--skip-cache"]);
    run(parser, profile, LIMIT)
        .map_err(|error| io::Error::new(error.kind(), format!("apparmor_parser: {error}")))
}

fn run(mut command: Command, input: &str, limit: Duration) -> io::Result<()> {
    let (mut stdin, mut words) = (in_memory()?, in_memory()?);
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let mut child = command.stdin(stdin).stdout(Stdio::null()).stderr(words.try_clone()?).spawn()?;
    let ended = await_end(&child, limit);
    let Ok(true) = ended else {
        child.kill()?;
        child.wait()?;
        ended?;
        let detail = format!("no end within {} s", limit.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, detail));
    };
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(told(&mut words, status)?)),
    }
}

fn told(words: &mut File, status: ExitStatus) -> io::Result<String> {
    words.rewind()?;
    let mut told = Vec::new();
    words.take(MAX_WORDS).read_to_end(&mut told)?;
    Ok(format!("{status}: {}", String::from_utf8_lossy(&told).trim_end()))
}

fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create("berth-apparmor", MemfdFlags::CLOEXEC)?))
}

/// Whether a child ends in time.
fn await_end(child: &Child, limit: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)) {
            Err(Errno::INTR) => {}
            polled => return Ok(polled? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_failure_is_told_and_a_slow_one_is_killed() {
        let shell = |script: &str, input: &str, limit| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run(command, input, limit)
        };
        assert!(shell("grep -q profile", "profile x {}", LIMIT).is_ok());
        let failed = shell("cat >&2; exit 3", "line 1", LIMIT).unwrap_err().to_string();
        assert!(failed.contains("3") && failed.ends_with("line 1"), "{failed}");
        let slow = shell("exec sleep 1000", "", Duration::ZERO).unwrap_err();
        assert_eq!(slow.kind(), io::ErrorKind::TimedOut);
    }
}
