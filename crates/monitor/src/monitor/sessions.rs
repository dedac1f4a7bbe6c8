//! Exec sessions, from the order to their end.

use std::os::fd::AsFd;

use berth_sys::clone::Child;
use berth_sys::packet::Packet;
use rustix::io::Errno;

use super::{Monitor, Outcome, Source, has_ended, now_ns, other, reap, wrong_state};
use crate::container::{Container, Phase, ReplyTo};
use crate::fork::{Heard, hear, read_plan};
use crate::handshake::open_gate;
use crate::id::ContainerId;
use crate::plan::{ExecPlan, PidNamespace};
use crate::poller::Poller;
use crate::protocol::{Answer, Event, Failure, Message};
use crate::session::Session;
use crate::stage::Stage;
use crate::streams::Streams;

impl Monitor {
    pub(super) fn exec(&mut self, packet: Packet, reply: ReplyTo) -> Outcome {
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
            self.wait_for(session.child);
            return Err(other("watch the session's process")(error));
        }
        self.sessions.insert(number, session);
        Ok(None)
    }

    pub(super) fn kill_session(&mut self, owner: ReplyTo) -> Outcome {
        let session = self.sessions.values().find(|session| session.owner == owner);
        session.ok_or_else(|| Failure::Unknown { what: format!("exec session {}", owner.request) })?.kill();
        Ok(Some(Answer::Done))
    }

    pub(super) fn hear_session(&mut self, number: u64) {
        loop {
            let Some(session) = self.sessions.get_mut(&number) else {
                return;
            };
            let Some(gate) = &session.gate else { return };
            match hear(gate) {
                Heard::Nothing | Heard::Born(_) | Heard::AwaitsHooks => return,
                // A session has no start of its own: it goes on at once.
                Heard::Ready { handles, .. } => {
                    let _ = open_gate(gate);
                    session.terminal = handles.into_iter().next();
                }
                Heard::Failed(failure) => {
                    let (owner, container) = (session.owner, session.container.clone());
                    session.answered = true;
                    let failure = self.unless_ended(&container, failure);
                    self.reply(owner, Err(failure));
                }
                Heard::End => {
                    session.gate = None;
                    // The client alone holds it from here on: when it lets go, the session's terminal hangs up.
                    let terminal = session.terminal.take();
                    let (owner, pid) = (session.owner, session.pid());
                    let first = !std::mem::replace(&mut session.answered, true);
                    self.poller.forget(|_, source| *source == Source::SessionGate(number));
                    if first {
                        let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                        self.reply_with(owner, Answer::Started { pid, at_ns: now_ns() }, &fds);
                    }
                }
            }
        }
    }

    /// What to say of an exec that failed: where its container has died meanwhile, that, and not what came of it.
    pub(super) fn unless_ended(&self, id: &ContainerId, failure: Failure) -> Failure {
        let lives = |container: &Container| {
            container.is_alive() && !has_ended(&container.child) && !self.is_too_late(container, &failure)
        };
        match self.containers.get(id) {
            Some(container) if lives(container) => failure,
            _ => wrong_state("has exited"),
        }
    }

    /// Whether the kernel has said that the container ends, before that can be waited for.
    fn is_too_late(&self, container: &Container, failure: &Failure) -> bool {
        let Failure::Launch { stage, errno: Some(errno), .. } = failure else { return false };
        match Errno::from_raw_os_error(*errno) {
            // Its first process has left its namespaces.
            Errno::SRCH => true,
            // Or that of its pid namespace has, and kills the others, of which the container's may take its time.
            Errno::NOMEM => *stage == Stage::Fork && !self.has_births(container),
            _ => false,
        }
    }

    /// Whether processes can still be born in a container's pid namespace: no longer when its first process ends.
    /// Source: `pid_namespaces(7)`, "The namespace init process".
    fn has_births(&self, container: &Container) -> bool {
        let first = match &container.pid_namespace {
            PidNamespace::Host => return true,
            PidNamespace::Own => container.is_alive().then_some(&container.child),
            PidNamespace::Pod => self.pause.as_ref(),
            PidNamespace::Container(other) => {
                return self.containers.get(other).is_some_and(|other| self.has_births(other));
            }
        };
        first.is_some_and(has_namespaces)
    }

    pub(super) fn reap_session(&mut self, number: u64) {
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
        drop(session);
        self.send_to(owner.client, &Message::Event(Event::ExecExited { session: owner.request, code }));
    }
}

/// Whether a child has not begun to end: then it leaves its namespaces, before its pid namespace takes in nobody more.
fn has_namespaces(child: &Child) -> bool {
    std::fs::read_link(format!("/proc/{}/ns/mnt", child.pid.as_raw_nonzero())).is_ok()
}

fn watch_session(poller: &mut Poller<Source>, number: u64, session: &Session) -> Result<(), Errno> {
    poller.watch(&session.child.pidfd, Source::SessionChild(number))?;
    if let Some(gate) = &session.gate {
        poller.watch(gate, Source::SessionGate(number))?;
    }
    Ok(())
}
