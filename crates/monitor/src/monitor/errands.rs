//! Hooks that run outside of their containers: when the monitor sends somebody to run them, and what becomes of it (see
//! [`crate::hook::outside`]).
//!
//! Whoever waits for a container's step waits for its hooks as well: the launch for those before it goes on, the answer
//! to Start for poststart, that to Forget and to a failed Launch for poststop. The end of a container is told at once;
//! its poststop hooks come after poststart has been through. Forgetting a container calls off all but poststop, and so
//! does an end while it is made.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{Monitor, Source, now_ns, other};
use crate::container::ReplyTo;
use crate::fork::{Heard, fork_errand, hear};
use crate::handshake::open_gate;
use crate::hook::POINT_LIMIT;
use crate::hook::outside::{Call, Moment, OutsideHooks};
use crate::id::ContainerId;
use crate::protocol::{Answer, Event, Failure};

/// How long a start may take with all hooks, those in the container before it and those outside after it: less than the
/// agent waits for.
const START_LIMIT: Duration = Duration::from_secs(50);

/// Answers that wait.
type Replies = Vec<(ReplyTo, Result<Answer, Failure>)>;

/// A process that runs hooks, as the monitor holds it; as a child it is one of the attendants.
#[derive(Debug)]
pub(super) struct Errand {
    outside: OutsideHooks,
    moment: Moment,
    /// Letting go of it calls the errand off.
    leash: Option<OwnedFd>,
    /// Given when it is done.
    replies: Replies,
    /// The container has ended meanwhile.
    has_ended: bool,
}

impl Errand {
    fn is_of(&self, id: &ContainerId) -> bool {
        self.outside.container == *id
    }
}

impl Monitor {
    /// The container's child has come to where hooks outside may look at it, and waits.
    pub(super) fn container_awaits_hooks(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.is_seen_outside = true;
        let pid = Some(container.pid());
        match container.outside.clone().filter(|outside| outside.has(Moment::Create)) {
            Some(outside) => {
                self.send(outside, Call { moment: Moment::Create, pid, limit: POINT_LIMIT }, Vec::new());
            }
            None => self.let_go_on(id),
        }
    }

    /// The container's program runs; `answer` waits for what is to be run after it.
    pub(super) fn run_start_hooks(&mut self, id: &ContainerId, answer: (ReplyTo, Answer), at_ns: i64) {
        let (to, answer) = answer;
        let container = self.containers.get(id);
        let pid = container.map(|container| container.pid());
        let outside = container.and_then(|container| container.outside.clone());
        let Some(outside) = outside.filter(|outside| outside.has(Moment::Start)) else {
            return self.reply(to, Ok(answer));
        };
        let passed = Duration::from_nanos(u64::try_from(now_ns() - at_ns).unwrap_or(0));
        let limit = START_LIMIT.saturating_sub(passed).min(POINT_LIMIT);
        self.send(outside, Call { moment: Moment::Start, pid, limit }, vec![(to, Ok(answer))]);
    }

    /// Nothing of the container runs any more; `replies` wait for what is to be run after it.
    pub(super) fn run_stop_hooks(&mut self, outside: Option<OutsideHooks>, replies: Replies) {
        let Some(outside) = outside.filter(|outside| outside.has(Moment::Stop)) else {
            return self.give(replies);
        };
        match self.errands.values_mut().find(|errand| errand.is_of(&outside.container)) {
            Some(before) => {
                before.has_ended = true;
                before.replies.extend(replies);
            }
            None => self.send(outside, Call { moment: Moment::Stop, pid: None, limit: POINT_LIMIT }, replies),
        }
    }

    /// Ends what runs for a container that is not wanted any more, but for what follows its end.
    pub(super) fn call_off_hooks(&mut self, id: &ContainerId) {
        let is_meant = |errand: &Errand| errand.is_of(id) && errand.moment != Moment::Stop;
        let number = self.errands.iter().find(|(_, errand)| is_meant(errand)).map(|(number, _)| *number);
        if let Some(errand) = number.and_then(|number| self.take_errand(number)) {
            self.give(errand.replies);
            if errand.has_ended {
                self.run_stop_hooks(Some(errand.outside), Vec::new());
            }
        }
    }

    /// Has an answer wait for a container's last hooks; gives it back where none are at work.
    pub(super) fn await_stop_hooks(&mut self, id: &ContainerId, to: ReplyTo) -> Option<Answer> {
        match self.errands.values_mut().find(|errand| errand.is_of(id)) {
            Some(errand) => {
                errand.replies.push((to, Ok(Answer::Done)));
                None
            }
            None => Some(Answer::Done),
        }
    }

    /// Takes in what an errand has said.
    pub(super) fn hear_errand(&mut self, number: u64) {
        while let Some(errand) = self.errands.get(&number) {
            let Some(leash) = &errand.leash else { return };
            let outcome = match hear(leash) {
                Heard::Nothing => return,
                Heard::Failed(failure) if errand.moment != Moment::Create => {
                    let container = errand.outside.container.clone();
                    self.announce(Event::HookFailed { container, detail: failure.to_string() });
                    continue;
                }
                Heard::Failed(failure) => Err(failure),
                Heard::Ready { .. } => Ok(()),
                Heard::Born(_) | Heard::AwaitsHooks | Heard::End => Err(died()),
            };
            if let Some(errand) = self.take_errand(number) {
                self.settle(errand, outcome);
            }
        }
    }

    fn send(&mut self, outside: OutsideHooks, call: Call, replies: Replies) {
        let sent = fork_errand(&self.witness, &outside, call).and_then(|(child, leash)| {
            self.wait_for(child);
            self.errands_so_far += 1;
            self.poller.watch(&leash, Source::Errand(self.errands_so_far)).map(|_| leash)
        });
        let mut errand = Errand { outside, moment: call.moment, leash: None, replies, has_ended: false };
        match sent {
            Ok(leash) => {
                errand.leash = Some(leash);
                self.errands.insert(self.errands_so_far, errand);
            }
            Err(errno) => self.settle(errand, Err(other("send somebody to run hooks")(errno))),
        }
    }

    fn take_errand(&mut self, number: u64) -> Option<Errand> {
        self.poller.forget(|_, source| *source == Source::Errand(number));
        self.errands.remove(&number)
    }

    fn settle(&mut self, errand: Errand, outcome: Result<(), Failure>) {
        let id = errand.outside.container.clone();
        match (errand.moment, outcome) {
            (Moment::Create, Ok(())) => self.let_go_on(&id),
            (Moment::Create, Err(failure)) => {
                self.container_failed(&id, failure);
                // It waits for a word that does not come; its end brings the answer.
                self.containers.get(&id).into_iter().for_each(|container| container.kill());
            }
            (Moment::Start | Moment::Stop, Ok(())) => {}
            (Moment::Start | Moment::Stop, Err(failure)) => {
                self.announce(Event::HookFailed { container: id, detail: failure.to_string() });
            }
        }
        match errand.has_ended {
            true => self.run_stop_hooks(Some(errand.outside), errand.replies),
            false => self.give(errand.replies),
        }
    }

    /// A child that is gone does not hear it, and its pidfd brings the rest.
    fn let_go_on(&self, id: &ContainerId) {
        if let Some(gate) = self.containers.get(id).and_then(|container| container.gate.as_ref()) {
            let _ = open_gate(gate);
        }
    }

    fn give(&mut self, replies: Replies) {
        replies.into_iter().for_each(|(to, result)| self.reply(to, result));
    }
}

fn died() -> Failure {
    Failure::Other { detail: "the process that runs hooks died".to_owned() }
}
