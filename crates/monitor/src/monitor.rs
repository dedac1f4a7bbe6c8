//! The event loop of a pod's monitor: one epoll over connections, children, gates and output.
//!
//! ```text
//! listener ─┐                    ┌─ Launch, Start, Signal … ─▶ containers ─▶ children
//! clients ──┼─▶ epoll ─▶ token ──┤
//! gates ────┤                    ├─ Ready, Failed, end of stream ─▶ the answer to Launch or Start
//! pidfds ───┤                    └─ exit ─▶ rest of the output ─▶ exit record ─▶ event to all clients
//! outputs ──┘
//! ```
//! The loop never blocks but in `epoll_wait`: a client whose queue is full is disconnected (it connects again and gets
//! everything in the greeting), a container whose log fails is drained without a log. The one exception is the
//! log file itself: a dead disk below it stalls the pod that writes to it, and no other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_logs::Stream;
use berth_sys::clone::{Child, SingleThreaded};
use berth_sys::packet::{self, Packet};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::Deserialize;

use crate::container::{Container, Phase, ReplyTo};
use crate::fork::{self, Heard, hear, memfd_of, read_plan};
use crate::handshake::open_gate;
use crate::id::ContainerId;
use crate::launch::{START_ERROR_CODE, Stage, Streams};
use crate::output::{Buffers, Output, Pumped};
use crate::plan::{ExecPlan, LaunchPlan, PidNamespace, SandboxPlan};
use crate::poller::Poller;
use crate::protocol::{
    Answer, ContainerReport, Event, Exit, Failure, Hello, Message, Order, Request, ResolvedUser, SOCKET_NAME,
    VERSION, exit_record_path,
};
use crate::session::Session;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 8;

/// A reply, or why there is none yet.
type Outcome = Result<Option<Answer>, Failure>;

/// What a token of the epoll stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Listener,
    Client,
    Pause,
    Gate(ContainerId),
    Child(ContainerId),
    /// The container's output by its place in [`Container::outputs`].
    Output(ContainerId, usize),
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
    poller: Poller<Source>,
    listener: OwnedFd,
    clients: BTreeMap<u64, OwnedFd>,
    containers: BTreeMap<ContainerId, Container>,
    sessions: BTreeMap<u64, Session>,
    sessions_so_far: u64,
    buffers: Buffers,
    shut_down: bool,
}

impl Monitor {
    /// Joins the pod's cgroup, forks pause and waits until it rests, listens.
    ///
    /// # Errors
    /// What failed; pause has been killed then, and the cgroup holds only the caller.
    pub(crate) fn start(witness: SingleThreaded, plan: SandboxPlan) -> Result<Self, Failure> {
        let mut poller = Poller::new().map_err(other("create epoll"))?;
        let listener = packet::listen_in(&plan.directory, SOCKET_NAME, BACKLOG)
            .map_err(other("listen on the monitor's socket"))?;
        poller.watch(&listener, Source::Listener).map_err(other("watch the monitor's socket"))?;
        fork::join_cgroup(&plan.cgroup)?;
        let (pause, handles) = fork::fork_pause(&witness, &plan)?;
        if let Err(error) = poller.watch(&pause.pidfd, Source::Pause) {
            let _ = pidfd_send_signal(&pause.pidfd, Signal::KILL);
            return Err(other("watch pause")(error));
        }
        Ok(Self {
            witness,
            plan,
            pause: Some(pause),
            handles,
            poller,
            listener,
            clients: BTreeMap::new(),
            containers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            sessions_so_far: 0,
            buffers: Buffers::default(),
            shut_down: false,
        })
    }

    /// Serves until the agent shuts the pod down; returns the process's exit code.
    pub(crate) fn run(mut self, first_client: OwnedFd) -> i32 {
        self.greet(first_client);
        while !self.shut_down {
            let Ok(tokens) = self.poller.wait() else { return 1 };
            for token in tokens {
                // A source may have gone with an earlier event of the same batch.
                if let Some(source) = self.poller.source(token) {
                    self.handle(token, source);
                }
            }
        }
        0
    }

    fn handle(&mut self, token: u64, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Client => self.serve(token),
            Source::Pause => self.pause_exited(),
            Source::Gate(container) => self.hear_container(&container),
            Source::Child(container) => self.reap_container(&container),
            Source::Output(container, channel) => self.pump(&container, channel),
            Source::SessionGate(session) => self.hear_session(session),
            Source::SessionChild(session) => self.reap_session(session),
        }
    }

    // Connections.

    fn accept(&mut self) {
        if let Ok(client) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            self.greet(client);
        }
    }

    /// Tells a new client everything, then listens to it.
    fn greet(&mut self, client: OwnedFd) {
        let hello = Message::Hello(Hello {
            version: VERSION,
            pod: self.plan.pod.clone(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            pause_pid: self.pause.as_ref().map(|pause| pause.pid.as_raw_nonzero().get()),
        });
        let reports: Vec<ContainerReport> =
            self.containers.iter().filter_map(|(id, container)| container.report(id)).collect();
        let Ok(reports) = memfd_of(&reports) else { return };
        let handles: Vec<BorrowedFd<'_>> =
            std::iter::once(&reports).chain(&self.handles).map(AsFd::as_fd).collect();
        if rustix::io::ioctl_fionbio(&client, true).is_err() || send(&client, &hello, &handles).is_err() {
            return;
        }
        if let Ok(token) = self.poller.watch(&client, Source::Client) {
            self.clients.insert(token, client);
        }
    }

    /// Reads and answers one request.
    fn serve(&mut self, client: u64) {
        let Some(socket) = self.clients.get(&client) else {
            return;
        };
        let packet = match packet::receive(socket) {
            Ok(Some(packet)) => packet,
            Err(Errno::AGAIN) => return,
            Ok(None) | Err(_) => return self.disconnect(client),
        };
        let (id, order) = match serde_json::from_slice(&packet.bytes) {
            Ok(Request { id, order }) => (id, order),
            Err(error) => return self.refuse(client, &packet.bytes, &error),
        };
        let reply = ReplyTo { client, request: id };
        match self.carry_out(order, packet, reply) {
            Ok(None) => {}
            Ok(Some(answer)) => self.reply(reply, Ok(answer)),
            Err(failure) => self.reply(reply, Err(failure)),
        }
    }

    /// Answers an order of a newer agent that this build does not know; what has not even a number ends the connection.
    fn refuse(&mut self, client: u64, request: &[u8], error: &serde_json::Error) {
        match serde_json::from_slice(request) {
            Ok(Numbered { id }) => {
                let detail = format!("the monitor does not know the order: {error}");
                self.reply(ReplyTo { client, request: id }, Err(Failure::Other { detail }));
            }
            Err(_) => self.disconnect(client),
        }
    }

    /// Forgets a client; its exec sessions have lost their only reader and are killed.
    fn disconnect(&mut self, client: u64) {
        self.poller.forget(|token, _| token == client);
        self.clients.remove(&client);
        for session in self.sessions.values().filter(|session| session.owner.client == client) {
            session.kill();
        }
    }

    fn reply(&mut self, to: ReplyTo, result: Result<Answer, Failure>) {
        self.send_to(to.client, &Message::Reply { id: to.request, result });
    }

    fn send_to(&mut self, client: u64, message: &Message) {
        let Some(socket) = self.clients.get(&client) else {
            return;
        };
        if send(socket, message, &[]).is_err() {
            self.disconnect(client);
        }
    }

    fn announce(&mut self, event: Event) {
        let message = Message::Event(event);
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        clients.into_iter().for_each(|client| self.send_to(client, &message));
    }

    // Requests.

    fn carry_out(&mut self, order: Order, packet: Packet, reply: ReplyTo) -> Outcome {
        match order {
            Order::Launch => self.launch(packet, reply),
            Order::Start { container } => self.start_container(&container, reply),
            Order::Signal { container, signal } => self.signal(&container, signal),
            Order::Kill { container } => self.kill(&container),
            Order::ReopenLog { container } => self.reopen_log(&container),
            Order::Forget { container } => self.forget(&container),
            Order::Exec => self.exec(packet, reply),
            Order::KillExec { session } => {
                self.kill_session(ReplyTo { client: reply.client, request: session })
            }
            Order::Shutdown => {
                self.shut_down();
                Ok(Some(Answer::Done))
            }
        }
    }

    fn launch(&mut self, packet: Packet, reply: ReplyTo) -> Outcome {
        let mut fds = packet.fds.into_iter();
        let plan: LaunchPlan = read_plan(fds.next())?;
        let id = plan.container.clone();
        if self.containers.contains_key(&id) {
            return Err(wrong_state("exists already"));
        }
        let pause = self.pause.as_ref().ok_or_else(|| wrong_state("has lost its pod's pause process"))?;
        let target = match &plan.pid_namespace {
            PidNamespace::Container(other) => Some(self.find(other)?.child.pidfd.as_fd()),
            PidNamespace::Pod => Some(pause.pidfd.as_fd()),
            PidNamespace::Own | PidNamespace::Host => None,
        };
        let container = fork::fork_container(&self.witness, &self.plan, plan, pause, target, reply)?;
        if let Err(error) = watch_container(&mut self.poller, &id, &container) {
            self.poller.forget(|_, source| source.is_of(&id));
            container.kill();
            return Err(other("watch the container's process")(error));
        }
        self.containers.insert(id, container);
        Ok(None)
    }

    fn start_container(&mut self, id: &ContainerId, reply: ReplyTo) -> Outcome {
        let container = self.find_mut(id)?;
        match (&container.phase, &container.gate) {
            (Phase::AtGate, Some(gate)) => {
                open_gate(gate).map_err(other("open the container's gate"))?;
                container.phase = Phase::Starting { reply, at_ns: now_ns() };
                Ok(None)
            }
            (Phase::AtGate, None) | (Phase::Failed { .. } | Phase::Exited { .. }, _) => {
                Err(wrong_state("has exited"))
            }
            (Phase::Launching { .. }, _) => Err(wrong_state("is being made")),
            (Phase::Starting { .. } | Phase::Running { .. }, _) => {
                Err(wrong_state("has been started already"))
            }
        }
    }

    fn signal(&mut self, id: &ContainerId, number: i32) -> Outcome {
        let container = self.find(id)?;
        if !container.is_alive() {
            return Err(wrong_state("has exited"));
        }
        berth_sys::clone::send_signal(&container.child.pidfd, number)
            .map_err(other("signal the container's process"))?;
        Ok(Some(Answer::Done))
    }

    fn kill(&mut self, id: &ContainerId) -> Outcome {
        let container = self.find(id)?;
        if container.is_alive() {
            container.kill();
        }
        Ok(Some(Answer::Done))
    }

    fn reopen_log(&mut self, id: &ContainerId) -> Outcome {
        let container = self.find_mut(id)?;
        if !container.is_alive() {
            return Err(wrong_state("has exited"));
        }
        if let Some(log) = &mut container.log {
            log.reopen().map_err(|error| Failure::Other { detail: error.to_string() })?;
        }
        Ok(Some(Answer::Done))
    }

    fn forget(&mut self, id: &ContainerId) -> Outcome {
        match self.containers.get_mut(id) {
            Some(container) if container.is_alive() => container.unwanted = true,
            _ => drop(self.containers.remove(id)),
        }
        Ok(Some(Answer::Done))
    }

    fn exec(&mut self, packet: Packet, reply: ReplyTo) -> Outcome {
        let mut fds = packet.fds.into_iter();
        let plan: ExecPlan = read_plan(fds.next())?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
            return Err(Failure::Other { detail: "the request brought no standard streams".to_owned() });
        };
        let container = self.find(&plan.container)?;
        if !matches!(container.phase, Phase::Running { .. }) {
            return Err(wrong_state("is not running"));
        }
        self.sessions_so_far += 1;
        let number = self.sessions_so_far;
        let streams = Streams { stdin, stdout, stderr };
        let id = plan.container.clone();
        let session = Session::fork(&self.witness, self.find(&id)?, plan, number, streams, reply)
            .map_err(|failure| self.unless_ended(&id, failure))?;
        let watched = watch_session(&mut self.poller, number, &session);
        if let Err(error) = watched {
            self.poller.forget(|_, source| source.is_of_session(number));
            session.kill();
            return Err(other("watch the session's process")(error));
        }
        self.sessions.insert(number, session);
        Ok(None)
    }

    fn kill_session(&mut self, owner: ReplyTo) -> Outcome {
        let session = self.sessions.values().find(|session| session.owner == owner);
        session.ok_or_else(|| Failure::Unknown { what: format!("exec session {}", owner.request) })?.kill();
        Ok(Some(Answer::Done))
    }

    fn shut_down(&mut self) {
        self.containers.values().filter(|container| container.is_alive()).for_each(Container::kill);
        if let Some(pause) = &self.pause {
            let _ = pidfd_send_signal(&pause.pidfd, Signal::KILL);
        }
        self.shut_down = true;
    }

    // News from children.

    /// Takes in everything that a child has said so far.
    fn hear_container(&mut self, id: &ContainerId) {
        loop {
            let Some(container) = self.containers.get_mut(id) else {
                return;
            };
            let Some(gate) = &container.gate else { return };
            match hear(gate) {
                Heard::Nothing => return,
                Heard::Ready { user, warnings, handles } => self.container_ready(id, user, warnings, handles),
                Heard::Failed(failure) => self.container_failed(id, failure),
                Heard::End => {
                    let phase = container.phase.clone();
                    self.close_gate(id);
                    // While it is being made or waits, the end means that the child has died: its pidfd brings the rest.
                    if let Phase::Starting { reply, at_ns } = phase {
                        self.container_runs(id, reply, at_ns);
                    }
                }
            }
        }
    }

    fn close_gate(&mut self, id: &ContainerId) {
        self.poller.forget(|_, source| *source == Source::Gate(id.clone()));
        if let Some(container) = self.containers.get_mut(id) {
            container.gate = None;
        }
    }

    fn container_runs(&mut self, id: &ContainerId, reply: ReplyTo, at_ns: i64) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.phase = Phase::Running { started_at_ns: at_ns };
        let pid = container.pid();
        self.reply(reply, Ok(Answer::Started { pid, at_ns }));
    }

    fn container_ready(
        &mut self,
        id: &ContainerId,
        user: ResolvedUser,
        warnings: Vec<String>,
        terminal: Vec<OwnedFd>,
    ) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Phase::Launching { reply } = container.phase else {
            return;
        };
        container.phase = Phase::AtGate;
        container.user = user.clone();
        if let Some(master) = terminal.into_iter().next() {
            let _ = rustix::io::ioctl_fionbio(&master, true);
            let _ = self.poller.watch(&master, Source::Output(id.clone(), 0));
            container.outputs = [Some(Output::new(master, Stream::Stdout, container.log_line_bytes)), None];
        }
        let pid = container.pid();
        self.reply(reply, Ok(Answer::Launched { pid, user, warnings }));
    }

    fn container_failed(&mut self, id: &ContainerId, failure: Failure) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if let Phase::Launching { reply } | Phase::Starting { reply, .. } = container.phase {
            container.phase = Phase::Failed { reply, failure };
        }
    }

    /// The first process has ended: its last words, its status, the news.
    fn reap_container(&mut self, id: &ContainerId) {
        // What it said before its end may wait in the same batch of events.
        self.hear_container(id);
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(code) = reap(&container.child) else {
            return;
        };
        self.poller.forget(|_, source| source.is_of(id));
        let oom_killed = container
            .oom_file
            .as_deref()
            .is_some_and(|file| berth_cgroup::read_oom_kills(file).is_ok_and(|n| n > 0));
        // Without a pid namespace of its own, others may have outlived the first process and hold its output open.
        if container.pid_namespace != PidNamespace::Own {
            let _ = berth_cgroup::kill_all(&container.cgroup);
        }
        let dropped_log_bytes = container.finish_output(&mut self.buffers);
        let mut exit = Exit { code, at_ns: now_ns(), oom_killed, start_error: None, dropped_log_bytes };
        let (started_at_ns, answer) = match container.phase.clone() {
            // It never reached its gate: there has been no container.
            Phase::Launching { reply } => return self.forget_failed(id, reply, died_early()),
            Phase::Failed { reply, failure } if failure.stage() != Some(Stage::Execute) => {
                return self.forget_failed(id, reply, failure);
            }
            Phase::Failed { reply, failure } => {
                exit.start_error = Some(failure.to_string());
                (None, Some((reply, failure)))
            }
            Phase::Starting { at_ns, .. } => (Some(at_ns), None),
            Phase::Running { started_at_ns } => (Some(started_at_ns), None),
            Phase::AtGate | Phase::Exited { .. } => (None, None),
        };
        container.phase = Phase::Exited { started_at_ns, exit: exit.clone() };
        if container.unwanted {
            self.containers.remove(id);
            return;
        }
        self.record_exit(id, &exit);
        self.announce(Event::ContainerExited { container: id.clone(), exit });
        if let Some((reply, failure)) = answer {
            self.reply(reply, Err(failure));
        }
    }

    fn forget_failed(&mut self, id: &ContainerId, reply: ReplyTo, failure: Failure) {
        self.containers.remove(id);
        self.reply(reply, Err(failure));
    }

    /// The record is for an agent that finds no monitor to ask; that it can't be written is no reason to stop.
    fn record_exit(&self, id: &ContainerId, exit: &Exit) {
        if let Ok(text) = serde_json::to_vec(exit) {
            let _ = std::fs::write(exit_record_path(&self.plan.directory, id), text);
        }
    }

    fn pump(&mut self, id: &ContainerId, channel: usize) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(slot) = container.outputs.get_mut(channel) else {
            return;
        };
        let Some(output) = slot else { return };
        if output.pump(container.log.as_mut(), &mut self.buffers) == Pumped::End {
            output.finish(container.log.as_mut(), &mut self.buffers);
            *slot = None;
            self.poller.forget(|_, source| *source == Source::Output(id.clone(), channel));
        }
    }

    fn pause_exited(&mut self) {
        self.poller.forget(|_, source| *source == Source::Pause);
        if let Some(pause) = self.pause.take() {
            let _ = reap(&pause);
        }
        self.containers.values().filter(|container| container.is_alive()).for_each(Container::kill);
        self.announce(Event::PauseExited);
    }

    fn hear_session(&mut self, number: u64) {
        loop {
            let Some(session) = self.sessions.get_mut(&number) else {
                return;
            };
            let Some(gate) = &session.gate else { return };
            match hear(gate) {
                Heard::Nothing => return,
                // A session has no start of its own: it goes on at once.
                Heard::Ready { .. } => drop(open_gate(gate)),
                Heard::Failed(failure) => {
                    let (owner, container) = (session.owner, session.container.clone());
                    session.answered = true;
                    let failure = self.unless_ended(&container, failure);
                    self.reply(owner, Err(failure));
                }
                Heard::End => {
                    session.gate = None;
                    let (owner, pid) = (session.owner, session.pid());
                    let first = !std::mem::replace(&mut session.answered, true);
                    self.poller.forget(|_, source| *source == Source::SessionGate(number));
                    if first {
                        self.reply(owner, Ok(Answer::Started { pid, at_ns: now_ns() }));
                    }
                }
            }
        }
    }

    /// What to say of an exec that failed: where its container has died meanwhile, that, and not what came of it.
    fn unless_ended(&self, id: &ContainerId, failure: Failure) -> Failure {
        // A process that is about to end has left its namespaces (ESRCH) before it can be waited for.
        let is_late = |errno: Option<i32>| errno == Some(Errno::SRCH.raw_os_error());
        let late = matches!(&failure, Failure::Launch { errno, .. } if is_late(*errno));
        let lives = |container: &Container| container.is_alive() && !has_ended(&container.child);
        match self.containers.get(id) {
            Some(container) if !late && lives(container) => failure,
            _ => wrong_state("has exited"),
        }
    }

    fn reap_session(&mut self, number: u64) {
        self.hear_session(number);
        let Some(session) = self.sessions.get(&number) else {
            return;
        };
        let Some(code) = reap(&session.child) else { return };
        self.poller.forget(|_, source| source.is_of_session(number));
        let Some(session) = self.sessions.remove(&number) else {
            return;
        };
        let owner = session.owner;
        session.end();
        self.send_to(owner.client, &Message::Event(Event::ExecExited { session: owner.request, code }));
    }

    fn find(&self, id: &ContainerId) -> Result<&Container, Failure> {
        self.containers.get(id).ok_or_else(|| unknown_container(id))
    }

    fn find_mut(&mut self, id: &ContainerId) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).ok_or_else(|| unknown_container(id))
    }
}

impl Source {
    fn is_of(&self, id: &ContainerId) -> bool {
        match self {
            Self::Gate(container) | Self::Child(container) | Self::Output(container, _) => container == id,
            Self::Listener | Self::Client | Self::Pause | Self::SessionGate(_) | Self::SessionChild(_) => {
                false
            }
        }
    }

    fn is_of_session(&self, number: u64) -> bool {
        *self == Self::SessionGate(number) || *self == Self::SessionChild(number)
    }
}

fn watch_container(
    poller: &mut Poller<Source>,
    id: &ContainerId,
    container: &Container,
) -> Result<(), Errno> {
    poller.watch(&container.child.pidfd, Source::Child(id.clone()))?;
    if let Some(gate) = &container.gate {
        poller.watch(gate, Source::Gate(id.clone()))?;
    }
    for (channel, output) in container.outputs.iter().enumerate() {
        if let Some(output) = output {
            poller.watch(output.source(), Source::Output(id.clone(), channel))?;
        }
    }
    Ok(())
}

fn watch_session(poller: &mut Poller<Source>, number: u64, session: &Session) -> Result<(), Errno> {
    poller.watch(&session.child.pidfd, Source::SessionChild(number))?;
    if let Some(gate) = &session.gate {
        poller.watch(gate, Source::SessionGate(number))?;
    }
    Ok(())
}

/// What every request has, whatever it orders.
#[derive(Deserialize)]
struct Numbered {
    id: u64,
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

fn send(socket: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    packet::send(socket, &bytes, fds)
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
