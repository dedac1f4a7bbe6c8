//! What a child says to its monitor on the way from fork to exec, and the gate at which it waits.
//!
//! ```text
//! child ──Born (+ pidfd)──────▶ monitor        first, from the child of a pod with a user namespace
//! child ──AwaitsHooks─────────▶ monitor        if hooks run outside; it waits for one byte
//! child ──Ready (+ terminal)──▶ monitor        it stands at the gate
//! child ◀──one byte──────────── monitor        the gate opens
//! child ──Failed{stage}───────▶ monitor        at any time before exec; then it exits
//! child ──end of stream───────▶ monitor        exec has closed the socket: the workload runs
//! ```
//! The socket is close-on-exec, so success needs no message that could be forged after it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_sys::packet;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::protocol::{Failure, ResolvedUser};
use crate::stage::StageError;

/// The longest detail of a failure.
const MAX_DETAIL_CHARS: usize = 1024;

/// One message of a child's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ChildMessage {
    /// Everything but `execve` has been done. A terminal's master side is attached.
    Ready {
        /// Who the workload runs as.
        user: ResolvedUser,
        /// What could not be had and was done without.
        warnings: Vec<String>,
    },
    /// The child has been born by another process, which said nothing so far and exits now: its pidfd is attached.
    Born,
    /// The container has its namespaces and mounts, and is to be looked at from outside; the child waits.
    AwaitsHooks,
    /// A step failed; the child exits.
    Failed(Failure),
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct Gate(OwnedFd);

impl Gate {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Reports readiness and waits until the gate opens. `Err` when the monitor is gone.
    pub(crate) fn wait(
        &self,
        user: ResolvedUser,
        warnings: Vec<String>,
        terminal: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        self.send(&ChildMessage::Ready { user, warnings }, terminal.as_slice())?;
        self.await_word()
    }

    /// Waits until the monitor lets this process go on. `Err` when the monitor is gone.
    pub(crate) fn await_word(&self) -> Result<(), Errno> {
        match packet::receive(&self.0)? {
            Some(_) => Ok(()),
            None => Err(Errno::PIPE),
        }
    }

    /// Waits until hooks outside have run. `Err` when the monitor is gone.
    pub(crate) fn await_hooks(&self) -> Result<(), Errno> {
        self.send(&ChildMessage::AwaitsHooks, &[])?;
        self.await_word()
    }

    /// Reports readiness of a process that has no gate to wait at, with what it hands over.
    pub(crate) fn ready(&self, handles: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        self.send(&ChildMessage::Ready { user: ResolvedUser::default(), warnings: Vec::new() }, handles)
    }

    /// Says that this process has taken the place of the one that bore it.
    pub(crate) fn born(&self, pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.send(&ChildMessage::Born, &[pidfd])
    }

    /// Reports the step that failed. A monitor that is gone has nobody left to tell.
    pub(crate) fn fail(&self, error: StageError) {
        let _ = self.send(&ChildMessage::Failed(error.into()), &[]);
    }

    fn send(&self, message: &ChildMessage, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
        packet::send(&self.0, &bytes, fds)
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens the gate at the other end of `socket`.
pub(crate) fn open_gate(socket: impl AsFd) -> Result<(), Errno> {
    packet::send(socket, b"go", &[])
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        Failure::Launch {
            stage: error.stage,
            detail: shortened(error.to_string()),
            errno: error.errno.map(Errno::raw_os_error),
        }
    }
}

/// A text that fits into a message, whatever a client named: what can't be sent would count as success.
fn shortened(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().nth(MAX_DETAIL_CHARS) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
