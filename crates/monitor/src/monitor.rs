//! The event loop of a pod's monitor: one epoll over connections, children, gates and output.
//!
//! ```text
//! listener ─┐                    ┌─ Launch, Start, Signal … ─▶ containers ─▶ children
//! clients ──┼─▶ epoll ─▶ token ──┤
//! gates ────┤                    ├─ Ready, Failed, end of stream ─▶ the answer to Launch or Start
//! pidfds ───┤                    ├─ exit ─▶ rest of the output ─▶ exit record ─▶ event to all clients
//! outputs ──┤                    └─ the node ends ─▶ wait for the containers ─▶ leave
//! SIGTERM ──┘
//! ```
//! The loop never blocks but in `epoll_wait`: a client whose queue is full is disconnected (it connects again and gets
//! everything in the greeting), a container whose log fails is drained without a log. Three things do block: the birth
//! of pause, a kill on cgroup v1 (some milliseconds), and the log file itself, where a dead disk stalls the pod that
//! writes to it, and no other.
//!
//! The state and the loop are here; what is done to it lies below: `clients` (connections), `orders` (what the agent
//! wants), `containers`, `births` and `sessions` (what becomes of children), `attached`
//! (who watches), `errands` (hooks outside of containers), `attendants` (what other runtimes leave to be waited for), `leaving` (the end, and the node's),
//! `spare` (one that has no pod yet).

mod attached;
mod attendants;
mod births;
mod clients;
mod containers;
mod errands;
mod leaving;
mod orders;
mod sessions;
mod spare;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use berth_fault::point;
use berth_sys::clone::{Child, SingleThreaded};
use berth_sys::packet;
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::container::Container;
use crate::fork::{self, Resting};
use crate::id::ContainerId;
use crate::launch::START_ERROR_CODE;
use crate::output::Buffers;
use crate::plan::SandboxPlan;
use crate::poller::Poller;
use crate::protocol::{Answer, Failure, SOCKET_NAME};
use crate::session::Session;
use errands::Errand;
use leaving::Leaving;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 8;

/// A reply, or why there is none yet.
type Outcome = Result<Option<Answer>, Failure>;

/// What a token of the epoll stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Listener,
    /// Somebody has sent SIGTERM.
    Termination,
    Client,
    Pause,
    Gate(ContainerId),
    Child(ContainerId),
    /// The process that a container of a pod with a user namespace was born from.
    Midwife(ContainerId),
    /// A child that nobody waits for any more.
    Attendant(i32),
    /// The container's output by its place in [`Container::outputs`].
    Output(ContainerId, usize),
    /// What runs hooks.
    Errand(u64),
    SessionGate(u64),
    SessionChild(u64),
}

/// A pod's monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    witness: SingleThreaded,
    plan: SandboxPlan,
    pause: Option<Child>,
    /// `[netlink socket, network namespace]` of a pod with its own network, for every agent that connects.
    handles: Vec<OwnedFd>,
    /// The pod's own, through which volumes are shown.
    user_namespace: Option<OwnedFd>,
    poller: Poller<Source>,
    listener: OwnedFd,
    /// SIGTERM, to be read.
    termination: OwnedFd,
    /// Until when the listener is not watched, since nobody could be accepted.
    deaf_until: Option<Instant>,
    clients: BTreeMap<u64, OwnedFd>,
    /// Boxed: a node of the tree has room for eleven, and most pods have one.
    containers: BTreeMap<ContainerId, Box<Container>>,
    sessions: BTreeMap<u64, Session>,
    /// By their process ids: children on the way to their end.
    attendants: BTreeMap<i32, Child>,
    sessions_so_far: u64,
    errands: BTreeMap<u64, Errand>,
    errands_so_far: u64,
    buffers: Buffers,
    /// Since the last look, a container has come to run: what its launch has taken is not needed any more.
    has_launched: bool,
    /// Until when containers may end by themselves, since the node does.
    grace_until: Option<Instant>,
    leaving: Option<Leaving>,
}

impl Monitor {
    /// Joins the pod's cgroup, forks pause, with a [`bare`](mod@crate::bare) mount namespace if there is one, and waits
    /// until it rests, listens.
    ///
    /// # Errors
    /// What failed; pause has been killed then, and the cgroup holds only the caller.
    pub(crate) fn start(
        witness: SingleThreaded,
        plan: SandboxPlan,
        bare: Option<OwnedFd>,
    ) -> Result<Self, Failure> {
        point!("open the monitor's socket").pass()?;
        let mut poller = Poller::new().map_err(other("create epoll"))?;
        let listener = packet::listen_in(&plan.directory, SOCKET_NAME, BACKLOG)
            .map_err(other("listen on the monitor's socket"))?;
        poller.watch(&listener, Source::Listener).map_err(other("watch the monitor's socket"))?;
        let termination = berth_sys::termination::open().map_err(other("open SIGTERM"))?;
        poller.watch(&termination, Source::Termination).map_err(other("watch SIGTERM"))?;
        fork::join_cgroup(&plan.cgroup)?;
        let Resting { pause, handles, user_namespace } = fork::fork_pause(&witness, &plan, bare)?;
        if let Err(error) = poller.watch(&pause.pidfd, Source::Pause) {
            let _ = pidfd_send_signal(&pause.pidfd, Signal::KILL);
            return Err(other("watch pause")(error));
        }
        Ok(Self {
            witness,
            plan,
            pause: Some(pause),
            handles,
            user_namespace,
            poller,
            listener,
            termination,
            deaf_until: None,
            clients: BTreeMap::new(),
            containers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            attendants: BTreeMap::new(),
            sessions_so_far: 0,
            errands: BTreeMap::new(),
            errands_so_far: 0,
            buffers: Buffers::default(),
            has_launched: false,
            grace_until: None,
            leaving: None,
        })
    }

    /// Serves until the agent shuts the pod down, or the node is; returns the process's exit code.
    pub(crate) fn run(mut self, first_client: OwnedFd) -> i32 {
        self.greet(first_client);
        while !self.can_leave() {
            let Ok(tokens) = self.poller.wait(self.time_left()) else { return 1 };
            for token in tokens {
                // A source may have gone with an earlier event of the same batch.
                if let Some(source) = self.poller.source(token) {
                    self.handle(token, source);
                }
            }
            self.listen_again();
            self.buffers.give_back();
            self.give_back();
            self.end_with_the_node();
        }
        self.take_leave();
        0
    }

    fn handle(&mut self, token: u64, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Termination => self.heed_termination(),
            Source::Client => self.serve(token),
            Source::Pause => self.pause_exited(),
            Source::Gate(container) => self.hear_container(&container),
            Source::Child(container) => self.reap_container(&container),
            Source::Midwife(container) => self.reap_midwife(&container),
            Source::Attendant(pid) => self.reap_attendant(pid),
            Source::Output(container, channel) => self.pump(&container, channel),
            Source::Errand(number) => self.hear_errand(number),
            Source::SessionGate(session) => self.hear_session(session),
            Source::SessionChild(session) => self.reap_session(session),
        }
    }

    /// Gives memory back to the kernel that a launch has taken, when everybody has been told of its end.
    fn give_back(&mut self) {
        if std::mem::take(&mut self.has_launched) {
            berth_sys::heap::trim();
            berth_sys::stack::trim();
        }
    }

    fn find(&self, id: &ContainerId) -> Result<&Container, Failure> {
        self.containers.get(id).map(Box::as_ref).ok_or_else(|| unknown_container(id))
    }

    fn find_mut(&mut self, id: &ContainerId) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).map(Box::as_mut).ok_or_else(|| unknown_container(id))
    }
}

impl Source {
    fn is_of(&self, id: &ContainerId) -> bool {
        match self {
            Self::Gate(container)
            | Self::Child(container)
            | Self::Midwife(container)
            | Self::Output(container, _) => container == id,
            Self::Listener
            | Self::Termination
            | Self::Client
            | Self::Pause
            | Self::Attendant(_)
            | Self::Errand(_)
            | Self::SessionGate(_)
            | Self::SessionChild(_) => false,
        }
    }

    fn is_of_session(&self, number: u64) -> bool {
        *self == Self::SessionGate(number) || *self == Self::SessionChild(number)
    }
}

/// The exit code of a child that has ended: its own, or 128 plus the signal, as a shell reports it. `None` while it
/// lives.
fn reap(child: &Child) -> Option<i32> {
    let status =
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
    Some(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => START_ERROR_CODE,
    })
}

/// Whether a child has ended; it can still be reaped afterwards.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::PidFd(child.pidfd.as_fd()), options), Ok(None))
}

fn now_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

fn wrong_state(state: &str) -> Failure {
    Failure::WrongState { state: state.to_owned() }
}

fn unknown_container(id: &ContainerId) -> Failure {
    Failure::Unknown { what: format!("container {id}") }
}

fn died_early() -> Failure {
    Failure::Other { detail: "the container's process died before it was ready".to_owned() }
}

fn other(what: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure::Other { detail: format!("{what}: {}", std::io::Error::from(errno)) }
}
