//! ExecSync: a command in a running container, its output and exit code.
//!
//! It does not pass through the pod's driver, so probes run while a container is being made or stopped. Output comes
//! through pipes straight from the command to the agent. What a command leaves running in the background may hold
//! these pipes open; the call ends with the command all the same, after what was written up to then has been read.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use berth_monitor::id::ContainerId;
use berth_monitor::memfd_of;
use berth_monitor::plan::ExecPlan;
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::host::STAGE_LIMIT;
use crate::link::Link;

/// What a pipe holds where nobody has changed it. Source: pipe(7).
const PIPE_BYTES: usize = 64 * 1024;

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its output, cut at the limit of the settings.
    pub stdout: Vec<u8>,
    /// The same for standard error.
    pub stderr: Vec<u8>,
    /// 128 plus the signal for a command that was killed.
    pub exit_code: i32,
}

/// Runs `args` in a container; without `limit` it may take for ever.
pub(crate) async fn exec_sync(
    link: &Link,
    container: &ContainerId,
    args: Vec<String>,
    limit: Option<Duration>,
    max_bytes: usize,
) -> Result<ExecOutput> {
    let (mut stdout, stdout_writer) = output_pipe()?;
    let (mut stderr, stderr_writer) = output_pipe()?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(spawn_error)?;
    let plan = ExecPlan { container: container.clone(), args, tty: false };
    let plan = memfd_of(&plan).map_err(Error::Spawn)?;
    let fds = [plan.as_fd(), null.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
    let deadline = limit.and_then(|limit| tokio::time::Instant::now().checked_add(limit));
    let start_limit = limit.unwrap_or(STAGE_LIMIT).min(STAGE_LIMIT);
    let (session, exit) = link.exec(&fds, start_limit).await.map_err(|error| match (error, limit) {
        (Error::TooLong { .. }, Some(limit)) => Error::ExecTimeout { id: container.to_string(), limit },
        (error, _) => error,
    })?;
    // The command alone holds the write sides from here on.
    drop((stdout_writer, stderr_writer));

    let both = async {
        let (exited, error_exited) = (oneshot::channel(), oneshot::channel());
        let collect_both = async {
            tokio::join!(
                collect(&mut stdout, exited.1, max_bytes),
                collect(&mut stderr, error_exited.1, max_bytes)
            )
        };
        let code = async {
            let code = exit.await;
            let _ = exited.0.send(());
            let _ = error_exited.0.send(());
            code
        };
        let ((stdout, stderr), code) = tokio::join!(collect_both, code);
        let exit_code = code.map_err(|_| Error::MonitorGone)?;
        Ok(ExecOutput { stdout, stderr, exit_code })
    };
    let output = match deadline {
        None => both.await,
        Some(deadline) => match tokio::time::timeout_at(deadline, both).await {
            Ok(output) => output,
            Err(_) => {
                return Err(Error::ExecTimeout {
                    id: container.to_string(),
                    limit: limit.unwrap_or_default(),
                });
            }
        },
    };
    session.has_ended();
    output
}

/// Reads until the end, or until nothing more is there after the exit; keeps `max_bytes` and drops the rest.
async fn collect(
    reader: &mut pipe::Receiver,
    mut exited: oneshot::Receiver<()>,
    max_bytes: usize,
) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; PIPE_BYTES];
    loop {
        let read = tokio::select! {
            // The exit first: what the command left running may write for ever.
            biased;
            _ = &mut exited => break,
            read = reader.read(&mut buffer) => read,
        };
        match read {
            Ok(0) | Err(_) => return kept,
            Ok(length) => keep(&mut kept, &buffer[..length], max_bytes),
        }
    }
    // The pipe itself is asked, and not the reader, which knows of what was written only when the runtime has polled: the
    // exit, on another descriptor, may be known before. The buffer holds a whole pipe, so one read empties it, and a
    // process in the background that goes on writing can't keep this call.
    if let Ok(length) = rustix::io::read(&*reader, &mut buffer) {
        keep(&mut kept, &buffer[..length], max_bytes);
    }
    kept
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8], max_bytes: usize) {
    let room = max_bytes.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(spawn_error)?;
    rustix::io::ioctl_fionbio(&read, true).map_err(spawn_error)?;
    Ok((pipe::Receiver::from_owned_fd(read).map_err(Error::Spawn)?, write))
}

fn spawn_error(errno: rustix::io::Errno) -> Error {
    Error::Spawn(errno.into())
}
