//! What the agent says to the machine around it, and hears from it: readiness and stopping to systemd (sd_notify(3); nothing
//! happens where no service manager listens), and the signals that ask it to stop.

use rustix::process::Signal;
use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

/// Tells the service manager that clients are served.
pub(crate) fn notify_ready() {
    notify(&[sd_notify::NotifyState::Ready]);
}

/// Tells the service manager that the agent is on its way out.
pub(crate) fn notify_stopping() {
    notify(&[sd_notify::NotifyState::Stopping]);
}

/// A deaf service manager is no reason to stop serving pods.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "notify the service manager");
    }
}

/// Signals that ask for a graceful stop, caught from the moment that this exists.
#[derive(Debug)]
pub(crate) struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// Takes over SIGTERM and SIGINT; must run inside the async runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
        }
    }
}
