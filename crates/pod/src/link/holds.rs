//! What goes on beside the driver: exec sessions, attached clients, and the pod's network for whoever connects into it.
//!
//! Each is held by a value; when that goes before the end, the monitor is told to let go too.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use berth_monitor::id::ContainerId;
use berth_monitor::protocol::{Answer, AttachEnd, Failure, Order};
use tokio::sync::oneshot;

use super::Link;
use crate::error::{Error, Result};
use crate::host::STAGE_LIMIT;

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) session: Session,
    /// Its exit code.
    pub(crate) exit: oneshot::Receiver<i32>,
    /// The master side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// An exec session that someone waits for. When nobody does any more (a timeout, a client that has hung up), all of it
/// is killed.
#[derive(Debug)]
pub(crate) struct Session {
    link: Link,
    number: u64,
    runs: bool,
}

/// A client that is attached.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Forgets the client when it goes.
    pub(crate) hold: Hold,
    /// Why there is no more to come.
    pub(crate) end: oneshot::Receiver<AttachEnd>,
    /// Whether the container has a terminal.
    pub(crate) tty: bool,
    /// Whether `handle` takes input.
    pub(crate) stdin: bool,
    /// The terminal's master side, or the write side of stdin.
    pub(crate) handle: Option<OwnedFd>,
}

/// An attached client's place at the monitor.
#[derive(Debug)]
pub(crate) struct Hold {
    link: Link,
    number: u64,
    ended: bool,
}

impl Link {
    /// Runs an exec session; answers once it runs. Dropping the session kills it.
    pub(crate) async fn exec(&self, fds: &[BorrowedFd<'_>], limit: Duration) -> Result<Started> {
        let (answer_sender, answer) = oneshot::channel();
        let (exit_sender, exit) = oneshot::channel();
        let number = self.register(|waiting, id| {
            waiting.answers.insert(id, answer_sender);
            waiting.sessions.insert(id, exit_sender);
        })?;
        let mut session = Session { link: self.clone(), number, runs: true };
        let request = self.request(number, Order::Exec);
        match self.exchange(limit, request, fds, answer).await {
            Ok((_, handles)) => Ok(Started { session, exit, terminal: handles.into_iter().next() }),
            Err(error) => {
                session.runs = !matches!(error, Error::Monitor(_));
                Err(error)
            }
        }
    }

    /// Attaches a client; `outputs` are the pipes for standard output and error, as far as they are wanted.
    pub(crate) async fn attach(
        &self,
        container: ContainerId,
        stdin: bool,
        outputs: [Option<BorrowedFd<'_>>; 2],
    ) -> Result<Attached> {
        let (answer_sender, answer) = oneshot::channel();
        let (end_sender, end) = oneshot::channel();
        let number = self.register(|waiting, id| {
            waiting.answers.insert(id, answer_sender);
            waiting.attached.insert(id, end_sender);
        })?;
        let mut hold = Hold { link: self.clone(), number, ended: false };
        let [stdout, stderr] = outputs.map(|output| output.is_some());
        let order = Order::Attach { container, stdin, stdout, stderr };
        let fds: Vec<_> = outputs.into_iter().flatten().collect();
        match self.exchange(STAGE_LIMIT, self.request(number, order), &fds, answer).await {
            Ok((Answer::Attached { tty, stdin }, handles)) => {
                Ok(Attached { hold, end, tty, stdin, handle: handles.into_iter().next() })
            }
            Ok(_) => {
                let detail = "the answer to an attach makes no sense".to_owned();
                Err(Error::Monitor(Failure::Other { detail }))
            }
            Err(error) => {
                hold.ended = matches!(error, Error::Monitor(_));
                Err(error)
            }
        }
    }

    /// A handle of the pod's network namespace; `None` for a pod in the host's.
    pub(crate) async fn open_network(&self) -> Result<Option<OwnedFd>> {
        let (sender, answer) = oneshot::channel();
        let id = self.register(|waiting, id| drop(waiting.answers.insert(id, sender)))?;
        let request = self.request(id, Order::OpenNetwork);
        let (_, handles) = self.exchange(STAGE_LIMIT, request, &[], answer).await?;
        Ok(handles.into_iter().next())
    }
}

impl Session {
    /// Its command has ended by itself.
    pub(crate) fn has_ended(mut self) {
        self.runs = false;
    }

    /// Kills all of it, and returns when that has been done.
    pub(crate) async fn kill(mut self) {
        self.runs = false;
        let _ = self.link.ask(Order::KillExec { session: self.number }, &[]).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut waiting = self.link.waiting();
        waiting.answers.remove(&self.number);
        waiting.sessions.remove(&self.number);
        drop(waiting);
        if self.runs {
            let (link, session) = (self.link.clone(), self.number);
            tokio::spawn(async move { link.ask(Order::KillExec { session }, &[]).await });
        }
    }
}

impl Hold {
    /// The monitor has let go of it by itself.
    pub(crate) fn has_ended(mut self) {
        self.ended = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut waiting = self.link.waiting();
        waiting.answers.remove(&self.number);
        waiting.attached.remove(&self.number);
        drop(waiting);
        if !self.ended {
            let (link, session) = (self.link.clone(), self.number);
            tokio::spawn(async move { link.ask(Order::Detach { session }, &[]).await });
        }
    }
}
