//! The connection to one pod's monitor: requests out, answers and events in.
//!
//! One task reads; whoever asks waits for the answer with its number. A [`Link`] is a cheap handle. When the monitor is
//! gone every waiter is told, and the driver gets [`News::Gone`] as the last of its news.

mod holds;

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_monitor::id::PodId;
use berth_monitor::plan::LaunchPlan;
use berth_monitor::protocol::{
    Answer, AttachEnd, ContainerReport, Event, Exit, Failure, Hello, Message, Opening, Order, Request,
    SOCKET_NAME, Versions,
};
use berth_net::PodLinks;
use berth_sys::packet::{self, Blocking, Packet};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::host::STAGE_LIMIT;
use crate::lifecycle::sandbox::{self, Contact};
use crate::view::PodState;
use crate::waiting::{Condition, look_at};

pub(crate) use holds::{Attached, Session, Started};

/// How long a monitor may take to greet: it greets before it does anything else.
const GREETING_LIMIT: Duration = berth_fault::limit(Duration::from_secs(20));

/// How long an answer may take: less than a stage, so that the error says who has not answered.
const ANSWER_LIMIT: Duration = Duration::from_secs(STAGE_LIMIT.as_secs() * 11 / 12);

/// What a driver hears unasked.
#[derive(Debug)]
pub(crate) enum News {
    /// A container has ended. Boxed, for the room that an inbox keeps for what may come.
    Exited(Box<(berth_monitor::id::ContainerId, Exit)>),
    /// Pause has died.
    PauseExited,
    /// The monitor has died, or closed the connection.
    Gone,
}

/// Whether a pod's monitor can be asked.
#[derive(Debug, Default)]
pub(crate) enum Reach {
    /// There is none.
    #[default]
    Gone,
    Open(Link),
    /// There is one, which hangs or can't be talked to; why.
    Blocked(String),
}

impl Reach {
    pub(crate) fn contact(&self) -> Contact {
        match self {
            Self::Gone => Contact::Gone,
            Self::Open(_) => Contact::Open,
            Self::Blocked(_) => Contact::Blocked,
        }
    }

    /// The connection for a request to a pod in this state, if that can be carried out; `refused` says what it means that
    /// it can't.
    pub(crate) fn link_for(
        &self,
        request: sandbox::Request,
        pod: &PodId,
        state: Option<PodState>,
        refused: impl FnOnce() -> Error,
    ) -> Result<Link> {
        match (sandbox::answer(request, state, self.contact()), self) {
            (sandbox::Answer::Do, Self::Open(link)) => Ok(link.clone()),
            (sandbox::Answer::OutOfReach, Self::Blocked(why)) => {
                Err(Error::OutOfReach { pod: pod.to_string(), why: why.clone() })
            }
            _ => Err(refused()),
        }
    }
}

/// A monitor that has been connected to and has not greeted yet. It is waited for on this one connection: each would take
/// one of the few places before its socket.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who listens.
    pid: i32,
    socket: OwnedFd,
}

/// A monitor's greeting with its descriptors.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// The version of the protocol that is spoken.
    version: Option<u32>,
    pub(crate) hello: Hello,
    pub(crate) containers: Vec<ContainerReport>,
    /// `[netlink socket, network namespace]` of a pod with its own network.
    pub(crate) handles: Vec<OwnedFd>,
}

/// A connection that has been greeted on, and what comes over it.
pub(crate) type Connected = (Link, Greeting, mpsc::UnboundedReceiver<News>);

/// A connection to a monitor.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pod: PodId,
    pid: i32,
    socket: AsyncFd<OwnedFd>,
    /// Of a pod with its own network; goes with the monitor.
    pod_links: Option<PodLinks>,
    /// What the monitor can carry out.
    features: Vec<String>,
    /// The version of the protocol that both speak.
    version: Option<u32>,
    next_request: AtomicU64,
    /// See [`Link::is_silent`].
    is_silent: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    gone: bool,
    answers: HashMap<u64, oneshot::Sender<Answered>>,
    sessions: HashMap<u64, oneshot::Sender<i32>>,
    attached: HashMap<u64, oneshot::Sender<AttachEnd>>,
}

/// An answer with the descriptors that came with it.
type Answered = std::result::Result<(Answer, Vec<OwnedFd>), Failure>;

impl Call {
    /// What it means that the monitor has not greeted for so long.
    pub(crate) fn silence(&self, pod: &PodId, limit: Duration) -> Error {
        silence(pod, self.pid, limit)
    }

    /// Awaits the greeting, however long that takes.
    pub(crate) async fn greeting(self) -> Result<Connected> {
        Link::greeted(self.socket).await
    }
}

impl Link {
    /// Connects to the monitor of the pod with this directory, which has not greeted yet then.
    pub(crate) fn call(directory: &Path) -> Result<Call> {
        let socket =
            packet::connect_in(directory, SOCKET_NAME, Blocking::No).map_err(|errno| match errno {
                // As many wait for it as may: it has greeted nobody for long.
                Errno::AGAIN => Error::TooLong { limit: GREETING_LIMIT },
                errno => Error::file("connect to monitor in", directory)(errno.into()),
            })?;
        let listener = socket_peercred(&socket).map_err(|errno| Error::Spawn(errno.into()))?;
        Ok(Call { pid: listener.pid.as_raw_nonzero().get(), socket })
    }

    /// Takes over a connected socket and awaits the greeting of a monitor that has just been started.
    pub(crate) async fn establish(socket: OwnedFd) -> Result<Connected> {
        let greeted = timeout(GREETING_LIMIT, Self::greeted(socket));
        greeted.await.unwrap_or(Err(Error::TooLong { limit: GREETING_LIMIT }))
    }

    async fn greeted(socket: OwnedFd) -> Result<Connected> {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that change their descriptor; OwnedFd never does"
        )]
        let socket = AsyncFd::new(socket).map_err(Error::Spawn)?;
        let greeting = receive_greeting(&socket).await?;
        // The original is used once more, to set the network up; nobody asks for statistics before that.
        let pod_socket = greeting.handles.first().and_then(|socket| socket.try_clone().ok());
        let pod_links = pod_socket.map(PodLinks::new);
        let inner = Inner {
            pod: greeting.hello.pod.clone(),
            pid: greeting.hello.pid,
            socket,
            pod_links,
            features: greeting.hello.features.clone(),
            version: greeting.version,
            next_request: AtomicU64::new(1),
            is_silent: AtomicBool::new(false),
            waiting: Mutex::default(),
        };
        let link = Self(Arc::new(inner));
        let (news, inbox) = mpsc::unbounded_channel();
        tokio::spawn(read_all(link.clone(), news));
        Ok((link, greeting, inbox))
    }

    /// The links of a pod with its own network.
    pub(crate) fn pod_links(&self) -> Option<&PodLinks> {
        self.0.pod_links.as_ref()
    }

    /// Whether it has left an order unanswered, and has said nothing since. The next one does not wait for it.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.is_silent.load(Ordering::Relaxed)
    }

    /// It has left an order unanswered.
    pub(crate) fn note_silence(&self) {
        self.0.is_silent.store(true, Ordering::Relaxed);
    }

    /// Refuses a plan that the monitor, which may be older than the agent, would carry out in part.
    pub(crate) fn check_features(&self, plan: &LaunchPlan) -> Result<()> {
        match missing(&self.0.features, plan) {
            Some(feature) => Err(Error::OldMonitor { feature }),
            None => Ok(()),
        }
    }

    /// Sends an order and awaits its answer, almost for a stage's time.
    pub(crate) async fn ask(&self, order: Order, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        self.ask_within(ANSWER_LIMIT, order, fds).await
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
        Ok(self.exchange(limit, self.request(id, order), fds, answer).await?.0)
    }

    /// Sends a request whose answer is waited for already.
    async fn exchange(
        &self,
        limit: Duration,
        request: Request,
        fds: &[BorrowedFd<'_>],
        answer: oneshot::Receiver<Answered>,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        // A monitor that hangs lets its queue fill up, so that sending waits too.
        let exchange = async {
            self.send(&request, fds).await?;
            answer.await.map_err(|_| Error::MonitorGone)
        };
        let answered = timeout(limit, exchange).await;
        self.waiting().answers.remove(&request.id);
        match answered {
            Ok(result) => result?.map_err(Error::Monitor),
            Err(_) => Err(silence(&self.0.pod, self.0.pid, limit)),
        }
    }

    /// A request of the next number, for [`Link::exchange`].
    fn request(&self, id: u64, order: Order) -> Request {
        Request { id, version: self.0.version, order }
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

/// What it means that there was no answer: mostly the child that was ordered has not come so far.
fn silence(pod: &PodId, pid: i32, limit: Duration) -> Error {
    let is_well = u32::try_from(pid).is_ok_and(|pid| look_at(pid).condition == Condition::Well);
    match is_well {
        true => Error::TooLong { limit },
        false => Error::SilentMonitor { pod: pod.to_string(), pid, limit },
    }
}

fn missing(known: &[String], plan: &LaunchPlan) -> Option<&'static str> {
    plan.features().find(|feature| !known.iter().any(|known| known == feature))
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> Option<Packet> {
    let received = socket.async_io(Interest::READABLE, |socket| Ok(packet::receive(socket)?)).await;
    received.ok().flatten()
}

async fn receive_greeting(socket: &AsyncFd<OwnedFd>) -> Result<Greeting> {
    let packet = receive(socket).await.ok_or(Error::MonitorGone)?;
    let mut version = None;
    if let Ok(opening) = serde_json::from_slice::<Opening>(&packet.bytes) {
        let (monitor, agent) = (opening.versions(), Versions::spoken());
        version = Some(monitor.common(agent).ok_or(Error::OtherProtocol { monitor, agent })?);
    }
    match serde_json::from_slice(&packet.bytes) {
        Ok(Message::Hello(hello)) => greeting(hello, version, packet.fds),
        Ok(Message::Reply { result: Err(failure), .. }) => Err(Error::Monitor(failure)),
        Ok(_) | Err(_) => {
            let detail = "the monitor's greeting is not understood".to_owned();
            Err(Error::Monitor(Failure::Other { detail }))
        }
    }
}

fn greeting(hello: Hello, version: Option<u32>, mut fds: Vec<OwnedFd>) -> Result<Greeting> {
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
    Ok(Greeting { version, hello, containers, handles })
}

/// Distributes what a monitor sends, until it is gone.
async fn read_all(link: Link, news: mpsc::UnboundedSender<News>) {
    // The connection lives as long as the monitor: it ends with the shutdown that a stop or a removal asks for.
    while let Some(packet) = receive(&link.0.socket).await {
        link.0.is_silent.store(false, Ordering::Relaxed);
        match serde_json::from_slice(&packet.bytes) {
            Ok(Message::Reply { id, result }) => {
                if let Some(waiter) = link.waiting().answers.remove(&id) {
                    let _ = waiter.send(result.map(|answer| (answer, packet.fds)));
                }
            }
            Ok(Message::Event(Event::ExecExited { session, code })) => {
                if let Some(waiter) = link.waiting().sessions.remove(&session) {
                    let _ = waiter.send(code);
                }
            }
            Ok(Message::Event(Event::AttachEnded { session, end })) => {
                if let Some(waiter) = link.waiting().attached.remove(&session) {
                    let _ = waiter.send(end);
                }
            }
            Ok(Message::Event(Event::ContainerExited { container, exit })) => {
                let _ = news.send(News::Exited(Box::new((container, exit))));
            }
            Ok(Message::Event(Event::HookFailed { container, detail })) => {
                tracing::warn!(container.id = %container, detail, "hook of a container failed");
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
    waiting.attached.clear();
    drop(waiting);
    let _ = news.send(News::Gone);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use berth_monitor::memfd_of;
    use berth_monitor::protocol::FEATURES;
    use rustix::event::{PollFd, PollFlags};
    use serde_json::json;

    use super::*;

    /// A connection to a monitor that can carry out only so much.
    async fn link_to(features: &[&str]) -> Link {
        let (ours, theirs) = packet::pair(Blocking::No).unwrap();
        let hello = Message::Hello(Hello {
            version: Versions::spoken().newest,
            oldest: None,
            pod: PodId::from_random([7; 32]),
            pid: 1,
            pause_pid: None,
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
        });
        let reports = memfd_of(&Vec::<ContainerReport>::new()).unwrap();
        packet::send(&theirs, &serde_json::to_vec(&hello).unwrap(), &[reports.as_fd()]).unwrap();
        Link::establish(ours).await.unwrap().0
    }

    fn plan_with_filter() -> LaunchPlan {
        let (path, none) = ("/x", json!(null));
        let sets = json!({ "bounding": 0, "effective": 0, "inheritable": 0, "ambient": 0 });
        let user =
            json!({ "user": { "Id": 0 }, "group": none, "supplemental": [], "merge_image_groups": false });
        let plan = json!({
            "container": "c".repeat(64), "pid_namespace": "Own", "cgroup_namespace": "Own",
            "cgroup": { "directory": none, "tasks": [] }, "oom_file": none,
            "rootfs": { "staging": path, "lower": [path], "upper": path, "work": path, "read_only": false },
            "mounts": [], "devices": [], "links": [], "masked_paths": [], "readonly_paths": [],
            "process": {
                "args": ["x"], "env": [], "cwd": path, "user": user, "capabilities": sets,
                "no_new_privileges": false, "oom_score_adj": none, "seccomp": [],
            },
            "stdio": { "stdin": false, "tty": false, "log": none },
        });
        serde_json::from_value(plan).unwrap()
    }

    #[tokio::test]
    async fn no_monitor_is_told_apart_from_one_that_hangs_up() {
        let directory = tempfile::tempdir().unwrap();
        let nobody = Link::call(directory.path()).unwrap_err();
        assert!(nobody.says_that_nobody_listens(), "{nobody:?}");
        let listener = packet::listen_in(directory.path(), SOCKET_NAME, 1).unwrap();
        // The listener does not block by itself.
        let accept = tokio::task::spawn_blocking(move || {
            let _ = rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], None);
            drop(rustix::net::accept(&listener));
        });
        let hung_up = Link::call(directory.path()).unwrap().greeting().await.unwrap_err();
        assert!(!hung_up.says_that_nobody_listens(), "{hung_up:?}");
        accept.await.unwrap();
        let dead = Link::call(directory.path()).unwrap_err();
        assert!(dead.says_that_nobody_listens(), "{dead:?}");
        assert!(!Error::TooLong { limit: GREETING_LIMIT }.says_that_nobody_listens());
    }

    #[tokio::test]
    async fn a_monitor_that_accepts_nobody_is_named_and_counts_as_silent_however_many_wait_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = packet::listen_in(directory.path(), SOCKET_NAME, 0).unwrap();
        let first = Link::call(directory.path()).unwrap();
        assert_eq!(u32::try_from(first.pid).unwrap(), std::process::id());
        let one_too_many = (0..8).find_map(|_| Link::call(directory.path()).err()).unwrap();
        assert!(matches!(one_too_many, Error::TooLong { .. }), "{one_too_many:?}");
    }

    #[tokio::test]
    async fn each_request_says_which_version_is_spoken() {
        let (ours, theirs) = packet::pair(Blocking::No).unwrap();
        let spoken = Versions::spoken().newest;
        let hello = json!({ "Hello": {
            "version": spoken + 1, "oldest": spoken, "pod": PodId::from_random([7; 32]), "pid": 1, "pause_pid": null,
        }});
        let reports = memfd_of(&Vec::<ContainerReport>::new()).unwrap();
        packet::send(&theirs, hello.to_string().as_bytes(), &[reports.as_fd()]).unwrap();
        let (link, ..) = Link::establish(ours).await.unwrap();
        link.ask_within(Duration::ZERO, Order::OpenNetwork, &[]).await.unwrap_err();
        let request = packet::receive(&theirs).unwrap().unwrap();
        let request: Request = serde_json::from_slice(&request.bytes).unwrap();
        assert_eq!(request.version, Some(spoken));
    }

    /// What becomes of a connection to somebody who says this.
    async fn told(said: &[serde_json::Value]) -> Result<Connected> {
        let (ours, theirs) = packet::pair(Blocking::No).unwrap();
        let reports = memfd_of(&Vec::<ContainerReport>::new()).unwrap();
        for message in said {
            packet::send(&theirs, message.to_string().as_bytes(), &[reports.as_fd()]).unwrap();
        }
        Link::establish(ours).await
    }

    #[tokio::test]
    async fn a_monitor_of_a_newer_build_is_driven_where_it_still_speaks_our_version() {
        let ours = Versions::spoken().newest;
        let hello = json!({ "Hello": {
            "version": ours + 1, "oldest": ours, "pod": PodId::from_random([7; 32]), "pid": 1,
            "pause_pid": null, "features": ["unheard-of"], "new": { "to": "us" },
        }});
        let news = [json!({ "Event": { "UnheardOf": {} } }), json!({ "Unheard": "of" })];
        let (_, greeting, mut inbox) =
            told(&[&[hello][..], &news, &[json!({ "Event": "PauseExited" })]].concat()).await.unwrap();
        assert_eq!(greeting.hello.version, ours + 1);
        assert!(matches!(inbox.recv().await, Some(News::PauseExited)));
    }

    #[tokio::test]
    async fn a_monitor_that_is_too_far_off_is_told_from_one_that_makes_no_sense() {
        let ours = Versions::spoken().newest;
        for opening in [json!({ "version": ours + 2, "oldest": ours + 1 }), json!({ "version": ours - 1 })] {
            let error = told(&[json!({ "Hello": opening })]).await.unwrap_err();
            assert!(matches!(error, Error::OtherProtocol { .. }), "{error}");
            assert!(error.to_string().contains(&format!("the agent version {ours}")), "{error}");
        }
        let error = told(&[json!({ "Hello": { "version": ours } })]).await.unwrap_err();
        assert!(error.to_string().contains("not understood"), "{error}");
    }

    #[tokio::test]
    async fn an_older_monitor_is_not_asked_for_what_it_would_leave_out() {
        let plan = plan_with_filter();
        let error = link_to(&[]).await.check_features(&plan).unwrap_err();
        assert!(matches!(error, Error::OldMonitor { feature: "seccomp" }), "{error}");
        link_to(&FEATURES).await.check_features(&plan).unwrap();
    }
}
