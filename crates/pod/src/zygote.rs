//! The agent's side of the zygote: started when first needed, started again when it has died.

use std::io::{Error as IoError, Result as IoResult};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use berth_monitor::plan::SandboxPlan;
use berth_monitor::protocol::SPAWN;
use berth_monitor::{ZYGOTE_ARGUMENT, memfd_of};
use berth_sys::packet::{self, Blocking};

/// Room in the argument strings for the title that a monitor shows: `berth-monitor: ` and a pod's id.
const TITLE_ROOM: usize = 96;

/// A parent of monitors.
#[derive(Debug)]
pub(crate) struct Zygote {
    program: PathBuf,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    control: OwnedFd,
    process: Child,
}

impl Zygote {
    /// Nothing is started yet.
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, running: Mutex::new(None) }
    }

    /// Has a monitor forked for `plan`; returns the agent's end of its connection, on which it will greet. Blocks for
    /// the time of a small send, or of starting the zygote.
    pub(crate) fn spawn_monitor(&self, plan: &SandboxPlan) -> IoResult<OwnedFd> {
        let (ours, theirs) = packet::pair(Blocking::No)?;
        let plan = memfd_of(plan)?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last_error = None;
        // Twice: the first try may find that the zygote has died.
        for _ in 0..2 {
            let zygote = match running.take() {
                Some(zygote) => running.insert(zygote),
                None => running.insert(self.start()?),
            };
            match packet::send(&zygote.control, SPAWN, &[theirs.as_fd(), plan.as_fd()]) {
                Ok(()) => return Ok(ours),
                Err(error) => last_error = Some(error),
            }
            if let Some(dead) = running.take() {
                dead.end();
            }
        }
        Err(last_error.map_or_else(|| IoError::other("zygote does not run"), IoError::from))
    }

    fn start(&self) -> IoResult<Running> {
        let (control, theirs) = packet::pair(Blocking::Yes)?;
        let process = Command::new(&self.program)
            .arg0("berth-monitor")
            .args([ZYGOTE_ARGUMENT, &" ".repeat(TITLE_ROOM)])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running { control, process })
    }
}

impl Running {
    /// Closes the control socket, which ends the zygote, and reaps it.
    fn end(self) {
        let Self { control, mut process } = self;
        drop(control);
        let _ = process.wait();
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            running.end();
        }
    }
}
