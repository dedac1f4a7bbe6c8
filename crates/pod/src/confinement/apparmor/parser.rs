//! Running `apparmor_parser` on a profile: for a limited time, with files in memory for what goes in and out, so that
//! neither side ever waits for the other.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use berth_monitor::await_end;
use rustix::fs::{MemfdFlags, memfd_create};

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
    match await_end(&mut child, limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(io::Error::other(told(&mut words, status)?)),
        None => {
            let detail = format!("no end within {} s", limit.as_secs_f32());
            Err(io::Error::new(io::ErrorKind::TimedOut, detail))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, mark: &str, input: &str, limit: Duration) -> io::Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("BERTH_TEST_MARK", mark);
        run(command, input, limit)
    }

    #[test]
    fn what_a_program_says_of_its_failure_is_told() {
        assert!(shell("grep -q profile", "", "profile x {}", LIMIT).is_ok());
        let failed = shell("cat >&2; exit 3", "", "line 1", LIMIT).unwrap_err().to_string();
        assert!(failed.contains("3") && failed.ends_with("line 1"), "{failed}");
    }

    #[test]
    fn one_that_hangs_is_killed_at_its_deadline_and_says_so() {
        let mark = format!("hangs for {}", std::process::id());
        let slow = shell("exec sleep 1000", &mark, "", Duration::from_millis(200)).unwrap_err();
        assert_eq!(
            (slow.kind(), slow.to_string().as_str()),
            (io::ErrorKind::TimedOut, "no end within 0.2 s")
        );
        let lives = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|piece| piece == mark.as_bytes())
        });
        assert!(!lives);
    }
}
