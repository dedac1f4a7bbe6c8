//! The end of a monitor: its agent's order, or that of the node.
//!
//! A node that is shut down ends in systemd sending SIGTERM to all processes there are, and SIGKILL once 90 s have
//! passed with any of them left. So a monitor that ignored it would hold each shutdown up, and one that obeyed at once
//! would take the time to end from its containers, which die with it. It waits until they have ended, but no longer
//! than [`NODE_GRACE`], then kills what is left and goes. It does not pass the signal on: they have been sent it as
//! well, and many a program takes a second one for impatience.
//!
//! Only process 1 is heeded. Nothing but the agent's order ends a pod that the agent counts on: neither a stop of the
//! agent's unit, whose `KillMode` spares the monitors, nor a stray `kill` or `pkill`.

use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use super::Monitor;
use crate::container::{Container, Phase, ReplyTo};
use crate::protocol::Answer;

/// How long a monitor that is shut down waits for what is on its way to an end: less than the agent waits for its
/// answer.
const LEAVING_LIMIT: Duration = Duration::from_secs(4);

/// How long containers have to end when the node does. A kubelet that knows of the shutdown has ended them before.
const NODE_GRACE: Duration = Duration::from_secs(10);

/// The process whose SIGTERM is the node's end: init, also as `systemd-shutdown`.
const INIT: u32 = 1;

/// What a monitor that has been shut down waits for is bounded.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Who is told when it goes: all that have asked for it.
    replies: Vec<ReplyTo>,
    until: Instant,
}

impl Monitor {
    /// Kills all that there is. The answer comes once other runtimes have forgotten their containers: what lives in
    /// this pod's cgroup afterwards, the agent kills.
    pub(super) fn shut_down(&mut self, reply: Option<ReplyTo>) {
        self.containers
            .values()
            .filter(|container| container.is_alive())
            .for_each(|container| container.kill());
        if let Some(pause) = &self.pause {
            let _ = pidfd_send_signal(&pause.pidfd, Signal::KILL);
        }
        let begin = || Leaving { replies: Vec::new(), until: Instant::now() + LEAVING_LIMIT };
        self.leaving.get_or_insert_with(begin).replies.extend(reply);
    }

    /// Whether the monitor has been shut down, and nothing is left that would have been cut off.
    pub(super) fn can_leave(&self) -> bool {
        let is_at_work = |container: &Container| {
            (container.foreign.is_some() || container.outside.is_some()) && container.is_alive()
        };
        self.leaving.as_ref().is_some_and(|leaving| {
            Instant::now() >= leaving.until
                || self.attendants.is_empty()
                    && self.errands.is_empty()
                    && !self.containers.values().any(|container| is_at_work(container))
        })
    }

    pub(super) fn take_leave(&mut self) {
        for reply in self.leaving.take().into_iter().flat_map(|leaving| leaving.replies) {
            self.reply(reply, Ok(Answer::Done));
        }
    }

    /// How long to wait for news at most.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let end = self.leaving.as_ref().map(|leaving| leaving.until).or(self.grace_until);
        let until = end.into_iter().chain(self.deaf_until).chain(self.buffers.kept_until()).min();
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Takes in that somebody has sent SIGTERM.
    pub(super) fn heed_termination(&mut self) {
        if berth_sys::termination::take(&self.termination) != Ok(INIT) || self.grace_until.is_some() {
            return;
        }
        self.grace_until = Some(Instant::now() + NODE_GRACE);
        // Those have no workload that could end by itself.
        let waiting = self
            .containers
            .values()
            .filter(|container| matches!(container.phase, Phase::Launching { .. } | Phase::AtGate));
        waiting.for_each(|container| container.kill());
    }

    /// Shuts down once the node's end has left nothing to wait for.
    pub(super) fn end_with_the_node(&mut self) {
        let Some(until) = self.grace_until else { return };
        if self.leaving.is_none()
            && (Instant::now() >= until || !self.containers.values().any(|container| container.is_alive()))
        {
            self.shut_down(None);
        }
    }
}
