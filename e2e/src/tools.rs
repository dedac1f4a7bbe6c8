//! Running other programs, and waiting for what they do.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The root of the source tree.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A binary under test: one that was built beside the running test, by `how`.
pub(crate) fn binary(name: &str, how: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/TEST
    let binary = test.ancestors().nth(2).unwrap().join(name);
    assert!(binary.exists(), "{} is missing: run {how}", binary.display());
    binary
}

/// Runs a program to its end, which must be a success, and returns what it prints.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Calls `look` until it finds something.
///
/// The deadline is no measure of speed: it is generous, and only ends a test that would hang.
#[track_caller]
pub fn eventually<T>(what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> T {
    poll(deadline, look).unwrap_or_else(|| panic!("waited {deadline:?} in vain for {what}"))
}

/// As [`eventually`], for those who can do without.
#[allow(clippy::disallowed_methods, reason = "what other processes do can only be looked at again and again")]
pub fn poll<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program that runs beside the test, its output in a file. It is killed, if need be, when this value goes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: PathBuf,
}

/// Starts a program; what it writes to stdout and stderr is appended to `output`.
#[track_caller]
pub fn spawn(command: &mut Command, output: &Path) -> Running {
    let file = File::options().append(true).create(true).open(output).unwrap();
    let command = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Running { child, output: output.to_owned() }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap()).into_owned()
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        poll(deadline, || self.ended())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let end: io::Result<_> = self.child.kill().and_then(|()| self.child.wait());
        let _ = end;
    }
}
