//! The connection to one pod's monitor: requests out, answers and events in.
//!
//! One task reads; whoever asks waits for the answer with its number. A [`Link`] is a cheap handle. When the monitor is
//! gone every waiter is told, and the driver gets [`News::Gone`] as the last of its news.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_monitor::protocol::{
    Answer, ContainerReport, Event, Exit, Failure, Hello, Message, Order, Request, SOCKET_NAME, VERSION,
};
use berth_sys::packet::{self, Blocking, Packet};
use rustix::fs::{FileType, fstat};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::host::STAGE_LIMIT;

/// How long a monitor may take to greet: it greets before it does anything else.
const GREETING_LIMIT: Duration = Duration::from_secs(20);

/// What a driver hears unasked.
#[derive(Debug)]
pub(crate) enum News {
    /// A container has ended.
    Exited(berth_monitor::id::ContainerId, Exit),
    /// Pause has died.
    PauseExited,
    /// The monitor has died, or closed the connection.
    Gone,
}

/// A monitor's greeting with its descriptors.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) hello: Hello,
    pub(crate) containers: Vec<ContainerReport>,
    /// `[netlink socket, network namespace]` of a pod with its own network.
    pub(crate) handles: Vec<OwnedFd>,
}

/// A connection to a monitor.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: AsyncFd<OwnedFd>,
    next_request: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    gone: bool,
    answers: HashMap<u64, oneshot::Sender<std::result::Result<Answer, Failure>>>,
    sessions: HashMap<u64, oneshot::Sender<i32>>,
}

impl Link {
    /// Connects to the monitor of the pod with this directory.
    pub(crate) async fn connect(directory: &Path) -> Result<(Self, Greeting, mpsc::UnboundedReceiver<News>)> {
        let socket = packet::connect_in(directory, SOCKET_NAME, Blocking::No);
        let socket = socket.map_err(|errno| Error::file("connect to monitor in", directory)(errno.into()))?;
        Self::establish(socket).await
    }

    /// Takes over a connected socket and awaits the greeting.
    pub(crate) async fn establish(
        socket: OwnedFd,
    ) -> Result<(Self, Greeting, mpsc::UnboundedReceiver<News>)> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that change their descriptor; OwnedFd never does"
        )]
        let socket = AsyncFd::new(socket).map_err(Error::Spawn)?;
        let greeting = timeout(GREETING_LIMIT, receive_greeting(&socket));
        let greeting = greeting.await.map_err(|_| Error::TooLong { limit: GREETING_LIMIT })??;
        let inner = Inner { socket, next_request: AtomicU64::new(1), waiting: Mutex::default() };
        let link = Self(Arc::new(inner));
        let (news, inbox) = mpsc::unbounded_channel();
        tokio::spawn(read_all(link.clone(), news));
        Ok((link, greeting, inbox))
    }

    /// Sends an order and awaits its answer, at most for a stage's time.
    pub(crate) async fn ask(&self, order: Order, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        self.ask_within(STAGE_LIMIT, order, fds).await
    }

    /// Sends an order and awaits its answer for so long.
    pub(crate) async fn ask_within(
        &self,
        limit: Duration,
        order: Order,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer> {
        let (sender, answer) = oneshot::channel();
        let id = self.register(|waiting, id| drop(waiting.answers.insert(id, sender)))?;
        // A monitor that hangs lets its queue fill up, so that sending waits too.
        let exchange = async {
            self.send(&Request { id, order }, fds).await?;
            answer.await.map_err(|_| Error::MonitorGone)
        };
        let answered = timeout(limit, exchange).await;
        self.waiting().answers.remove(&id);
        match answered {
            Ok(result) => result?.map_err(Error::Monitor),
            Err(_) => Err(Error::TooLong { limit }),
        }
    }

    /// Runs an exec session: answers once it runs, with a receiver for its exit code. Dropping the session kills it.
    pub(crate) async fn exec(
        &self,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(Session, oneshot::Receiver<i32>)> {
        let (answer_sender, answer) = oneshot::channel();
        let (exit_sender, exit) = oneshot::channel();
        let number = self.register(|waiting, id| {
            waiting.answers.insert(id, answer_sender);
            waiting.sessions.insert(id, exit_sender);
        })?;
        let mut session = Session { link: self.clone(), number, runs: true };
        let exchange = async {
            self.send(&Request { id: number, order: Order::Exec }, fds).await?;
            answer.await.map_err(|_| Error::MonitorGone)
        };
        match timeout(limit, exchange).await {
            Ok(Ok(Ok(_))) => Ok((session, exit)),
            Ok(Ok(Err(failure))) => {
                session.runs = false;
                Err(Error::Monitor(failure))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::TooLong { limit }),
        }
    }

    fn register(&self, enter: impl FnOnce(&mut Waiting, u64)) -> Result<u64> {
        let id = self.0.next_request.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.waiting();
        if waiting.gone {
            return Err(Error::MonitorGone);
        }
        enter(&mut waiting, id);
        Ok(id)
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = serde_json::to_vec(request).map_err(|_| Error::Abandoned)?;
        let sent =
            self.0.socket.async_io(Interest::WRITABLE, |socket| Ok(packet::send(socket, &bytes, fds)?)).await;
        sent.map_err(|_| Error::MonitorGone)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An exec session that someone waits for. When nobody does any more (a timeout, a client that has hung up), all of it is
/// killed.
#[derive(Debug)]
pub(crate) struct Session {
    link: Link,
    number: u64,
    runs: bool,
}

impl Session {
    /// Its command has ended by itself.
    pub(crate) fn has_ended(mut self) {
        self.runs = false;
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

async fn receive(socket: &AsyncFd<OwnedFd>) -> Option<Packet> {
    let received = socket.async_io(Interest::READABLE, |socket| Ok(packet::receive(socket)?)).await;
    received.ok().flatten()
}

async fn receive_greeting(socket: &AsyncFd<OwnedFd>) -> Result<Greeting> {
    let packet = receive(socket).await.ok_or(Error::MonitorGone)?;
    match serde_json::from_slice(&packet.bytes) {
        Ok(Message::Hello(hello)) if hello.version == VERSION => greeting(hello, packet.fds),
        Ok(Message::Reply { result: Err(failure), .. }) => Err(Error::Monitor(failure)),
        Ok(_) | Err(_) => {
            let detail = format!("the monitor speaks another version than {VERSION} of the protocol");
            Err(Error::Monitor(Failure::Other { detail }))
        }
    }
}

fn greeting(hello: Hello, mut fds: Vec<OwnedFd>) -> Result<Greeting> {
    // Reading anything but a file could wait for ever.
    let is_file = |fd: &OwnedFd| fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    if !fds.first().is_some_and(is_file) {
        return Err(Error::MonitorGone);
    }
    let handles = fds.split_off(1);
    let reports = fds.pop().map(std::fs::File::from).ok_or(Error::MonitorGone)?;
    let containers = serde_json::from_reader(std::io::BufReader::new(reports));
    let containers = containers.map_err(|error| {
        let detail = format!("read the monitor's reports: {error}");
        Error::Monitor(Failure::Other { detail })
    })?;
    Ok(Greeting { hello, containers, handles })
}

/// Distributes what a monitor sends, until it is gone.
async fn read_all(link: Link, news: mpsc::UnboundedSender<News>) {
    // The connection lives as long as the monitor: it ends with the shutdown that a stop or a removal asks for.
    while let Some(packet) = receive(&link.0.socket).await {
        match serde_json::from_slice(&packet.bytes) {
            Ok(Message::Reply { id, result }) => {
                if let Some(waiter) = link.waiting().answers.remove(&id) {
                    let _ = waiter.send(result);
                }
            }
            Ok(Message::Event(Event::ExecExited { session, code })) => {
                if let Some(waiter) = link.waiting().sessions.remove(&session) {
                    let _ = waiter.send(code);
                }
            }
            Ok(Message::Event(Event::ContainerExited { container, exit })) => {
                let _ = news.send(News::Exited(container, exit));
            }
            Ok(Message::Event(Event::PauseExited)) => {
                let _ = news.send(News::PauseExited);
            }
            Ok(Message::Hello(_)) => {}
            Err(error) => tracing::warn!(%error, "message of a monitor not understood"),
        }
    }
    let mut waiting = link.waiting();
    waiting.gone = true;
    waiting.answers.clear();
    waiting.sessions.clear();
    drop(waiting);
    let _ = news.send(News::Gone);
}
