//! The agent's side of the zygote: started when first needed, started again when it has died.
//!
//! It is started from a view of the program that nobody can write to, and all that come of it with it: a process on its
//! way into a container shows there what it runs as `/proc/PID/exe`, and who opens that for writing gets a file on a
//! mount that is read-only and not theirs to change. Source: CVE-2019-5736; runc has an overlay for it.

use std::io::{Error as IoError, Result as IoResult};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use berth_monitor::plan::SandboxPlan;
use berth_monitor::protocol::SPAWN;
use berth_monitor::{ZYGOTE_ARGUMENT, memfd_of};
use berth_sys::mountattr::{MountAttributes, Reach, set_attributes};
use berth_sys::packet::{self, Blocking};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::waiting::{Condition, look_at};

/// Room in the argument strings for the title that a monitor shows: `berth-monitor: ` and a pod's id.
const TITLE_ROOM: usize = 96;

/// A monitor that has been asked for.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// The agent's end of its connection, on which it will greet.
    pub(crate) connection: OwnedFd,
    /// Whom it was asked from.
    pub(crate) zygote: ZygoteId,
}

/// One of the zygotes of an agent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZygoteId(u32);

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

impl ZygoteId {
    /// Whether it is stopped by a signal, or waits in the kernel.
    pub(crate) fn stands_still(self) -> bool {
        matches!(look_at(self.0).condition, Condition::Stopped | Condition::Waits)
    }
}

impl Zygote {
    /// Nothing is started yet.
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program, running: Mutex::new(None) }
    }

    /// Has a monitor forked for `plan`. Blocks for the time of a small send, or of starting the zygote.
    pub(crate) fn spawn_monitor(&self, plan: &SandboxPlan) -> IoResult<Spawned> {
        let (connection, theirs) = packet::pair(Blocking::No)?;
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
                Ok(()) => return Ok(Spawned { connection, zygote: zygote.id() }),
                Err(error) => last_error = Some(error),
            }
            if let Some(dead) = running.take() {
                dead.end();
            }
        }
        Err(last_error.map_or_else(|| IoError::other("zygote does not run"), IoError::from))
    }

    /// Ends this zygote, which may be dying: as it does, what it has taken is closed before its socket. Another is started
    /// when it is needed.
    pub(crate) fn end(&self, zygote: ZygoteId) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dying) = running.take_if(|running| running.id() == zygote) {
            dying.end();
        }
    }

    fn start(&self) -> IoResult<Running> {
        let (control, theirs) = packet::pair(Blocking::Yes)?;
        let program = read_only_view(&self.program)?;
        // Closed by the exec itself, after it has been looked up.
        let process = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("berth-monitor")
            .args([ZYGOTE_ARGUMENT, &" ".repeat(TITLE_ROOM)])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running { control, process })
    }
}

/// A file on a mount of its own, which is attached nowhere and gone with the last that uses it.
fn read_only_view(file: &Path) -> IoResult<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let view = open_tree(CWD, file, flags)?;
    let read_only = MountAttributes { read_only: true, ..MountAttributes::default() };
    set_attributes(view.as_fd(), Reach::This, read_only)?;
    Ok(view)
}

impl Running {
    fn id(&self) -> ZygoteId {
        ZygoteId(self.process.id())
    }

    /// Kills the zygote, which nothing depends on, and reaps it.
    fn end(mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            running.end();
        }
    }
}
