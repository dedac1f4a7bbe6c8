//! Commands in a running container: with a client on their streams, or run to the end for their output.
//!
//! They do not pass through the pod's driver, so probes run while a container is being made or stopped. Bytes come
//! and go through pipes or a terminal straight between the command and the agent. What a command leaves running in the
//! background may hold these open; the session ends with the command all the same, after what was written up to then
//! has been read, and what was left runs on.
//!
//! A client that leaves before the end hangs up: its pipes are closed, and a terminal sends SIGHUP. Whatever of the
//! session is still there after a while is killed, so that nobody can leave commands behind unseen. (containerd and
//! CRI-O let it run for ever.)

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use berth_fault::point;
use berth_monitor::id::ContainerId;
use berth_monitor::memfd_of;
use berth_monitor::plan::ExecPlan;
use berth_monitor::protocol::Failure;
use tokio::io::{AsyncReadExt, Interest, copy, sink};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::driver::passing;
use crate::error::{Error, Result};
use crate::host::STAGE_LIMIT;
use crate::link::{Link, Session, Started};
use crate::process::{Input, Output, Process, Terminal, Wanted, null, pipe};

/// How long a command may take to end after its client has hung up.
const HANG_UP_GRACE: Duration = Duration::from_secs(10);

/// Bytes of output taken at once: what a pipe holds where nobody has changed it. Source: pipe(7).
const READ_BYTES: usize = 64 * 1024;

/// A command for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program, found as execvp(3) would, and its arguments.
    pub args: Vec<String>,
    /// Whether it gets a terminal, with output and errors in one.
    pub tty: bool,
    /// Its streams for the client; the others are `/dev/null`.
    pub wanted: Wanted,
}

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

/// Starts a command with a client on its streams.
pub(crate) async fn exec(link: &Link, container: &ContainerId, command: Command) -> Result<Process> {
    Ok(start(link, container, command, STAGE_LIMIT, HANG_UP_GRACE).await?.0)
}

/// Runs `args` in a container; without `limit` it may take for ever.
pub(crate) async fn exec_sync(
    link: &Link,
    container: &ContainerId,
    args: Vec<String>,
    limit: Option<Duration>,
    max_bytes: usize,
) -> Result<ExecOutput> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let start_limit = limit.unwrap_or(STAGE_LIMIT).min(STAGE_LIMIT);
    let wanted = Wanted { stdin: false, stdout: true, stderr: true };
    let command = Command { args, tty: false, wanted };
    let started = start(link, container, command, start_limit, Duration::ZERO).await;
    let (mut process, watch) = started.map_err(|error| match (error, limit) {
        (Error::TooLong { .. }, Some(limit)) => Error::ExecTimeout { id: container.to_string(), limit },
        (error, _) => error,
    })?;
    let all = async {
        let (stdout, stderr, code) = tokio::join!(
            collect(&mut process.stdout, max_bytes),
            collect(&mut process.stderr, max_bytes),
            &mut process.exit
        );
        Ok(ExecOutput { stdout, stderr, exit_code: code? })
    };
    let Some(deadline) = deadline else { return all.await };
    if let Ok(output) = timeout_at(deadline, all).await {
        return output;
    }
    // The answer comes when the session has been killed.
    drop(process);
    let _ = watch.await;
    Err(Error::ExecTimeout { id: container.to_string(), limit: limit.unwrap_or_default() })
}

/// Reads to the end; keeps `max_bytes` and drops the rest.
async fn collect(output: &mut Option<Output>, max_bytes: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(output) = output else { return kept };
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        let room = max_bytes.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    kept
}

/// The command's side of its three streams.
struct Ends([OwnedFd; 3]);

/// Starts a command; the task that is returned ends with it, or when it was killed for want of a client.
async fn start(
    link: &Link,
    container: &ContainerId,
    command: Command,
    limit: Duration,
    grace: Duration,
) -> Result<(Process, JoinHandle<()>)> {
    let ended = CancellationToken::new();
    let (ends, mut streams) = match command.tty {
        true => (Ends([null()?, null()?, null()?]), Streams::default()),
        false => pipes(command.wanted, &ended)?,
    };
    let plan = ExecPlan { container: container.clone(), args: command.args, tty: command.tty };
    let plan = memfd_of(&plan).map_err(Error::Spawn)?;
    let [stdin, stdout, stderr] = &ends.0;
    let fds = [plan.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let Started { session, exit, terminal } = passing(point!("run command"), link.exec(&fds, limit)).await?;
    // The command alone holds its ends from here on.
    drop(ends);
    if command.tty {
        streams = terminal_streams(terminal, command.wanted)?;
    }
    let (sender, code) = oneshot::channel();
    let watch = tokio::spawn(watch(session, exit, sender, ended, grace));
    let Streams { stdin, stdout, stderr, terminal, unseen } = streams;
    let exit = Box::pin(async move {
        let _unseen = unseen;
        code.await.map_err(|_| Error::MonitorGone)
    });
    Ok((Process { stdin, stdout, stderr, terminal, exit, ends_with_stdin: false }, watch))
}

/// The client's side of the streams.
#[derive(Debug, Default)]
struct Streams {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Option<Terminal>,
    /// Reads a screen that nobody wants to see. Goes with the command and with the client, so that nothing of ours
    /// keeps the terminal from hanging up.
    unseen: Option<AbortOnDropHandle<()>>,
}

fn pipes(wanted: Wanted, ended: &CancellationToken) -> Result<(Ends, Streams)> {
    let (stdin_end, stdin) = match wanted.stdin {
        true => pipe().and_then(|(read, write)| Ok((read, Some(Input::pipe(write)?))))?,
        false => (null()?, None),
    };
    let output = |wanted| match wanted {
        true => pipe().and_then(|(read, write)| Ok((write, Some(Output::command(read, ended.clone())?)))),
        false => Ok((null()?, None)),
    };
    let ((stdout_end, stdout), (stderr_end, stderr)) = (output(wanted.stdout)?, output(wanted.stderr)?);
    Ok((Ends([stdin_end, stdout_end, stderr_end]), Streams { stdin, stdout, stderr, ..Streams::default() }))
}

fn terminal_streams(master: Option<OwnedFd>, wanted: Wanted) -> Result<Streams> {
    let master = master.ok_or_else(|| {
        let detail = "the pod's monitor is of an older version, which gives commands no terminal".to_owned();
        Error::Monitor(Failure::Other { detail })
    })?;
    let terminal = Terminal::new(master, Interest::READABLE | Interest::WRITABLE)?;
    // A command must not wait for somebody to look at its screen.
    let unseen = (!wanted.stdout).then(|| {
        let mut screen = Output::terminal(terminal.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = copy(&mut screen, &mut sink()).await;
        }))
    });
    Ok(Streams {
        stdin: wanted.stdin.then(|| Input::terminal(terminal.clone())),
        stdout: wanted.stdout.then(|| Output::terminal(terminal.clone())),
        stderr: None,
        terminal: Some(terminal),
        unseen,
    })
}

/// Passes the exit code on, or ends a command whose client has left.
async fn watch(
    session: Session,
    mut exit: oneshot::Receiver<i32>,
    mut client: oneshot::Sender<i32>,
    ended: CancellationToken,
    grace: Duration,
) {
    let exited = tokio::select! {
        exited = &mut exit => Some(exited),
        () = client.closed() => timeout(grace, exit).await.ok(),
    };
    ended.cancel();
    match exited {
        Some(Ok(code)) => {
            session.has_ended();
            let _ = client.send(code);
        }
        // The monitor is gone, and the session with it.
        Some(Err(_)) => session.has_ended(),
        None => session.kill().await,
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

    use super::*;

    #[tokio::test]
    async fn a_terminal_hangs_up_with_its_client_although_nobody_looks_at_its_screen() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        let wanted = Wanted { stdin: true, stdout: false, stderr: false };
        let streams = terminal_streams(Some(master), wanted).unwrap();
        // The reader is at work when it is dropped.
        tokio::task::yield_now().await;
        drop(streams);
        let hung_up = timeout(Duration::from_secs(10), async {
            let mut polled = [PollFd::new(&slave, PollFlags::empty())];
            while poll(&mut polled, Some(&Timespec::default())).unwrap() == 0 {
                tokio::task::yield_now().await;
            }
            polled[0].revents()
        });
        assert!(hung_up.await.unwrap().contains(PollFlags::HUP));
    }
}
