//! What the agent says to the machine around it, and hears from it: readiness and stopping to systemd (sd_notify(3);
//! nothing happens where no service manager listens), and the signals that ask it to stop.

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
    /// None where whoever started the program has it ignore this one, as nohup does, and after the first: the kernel
    /// and the shell may both tell of one terminal's end.
    hang_up: Option<tokio::signal::unix::Signal>,
}

impl StopSignals {
    /// Takes over SIGTERM, SIGINT and SIGHUP, which a terminal that is closed sends; must run inside the async runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hang_up = (!ignores(&status, Signal::HUP)).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: hang_up.transpose()?,
        })
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            Some(()) = recv(&mut self.hang_up) => {
                self.hang_up = None;
                Signal::HUP
            }
        }
    }
}

async fn recv(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}

/// Whether a process ignores a signal, by its status in procfs; one whose status can't be read ignores none.
fn ignores(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\tberth\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, Signal::HUP) && ignores(status, Signal::PIPE));
        assert!(!ignores(status, Signal::INT) && !ignores("", Signal::HUP));
    }
}
