//! A stop of one container: who waits for it, and what is due when.
//!
//! Any number of requests wait for the same stop. The first one's signal is the only one; each may shorten the others'
//! patience, and none can make it longer. A kill that has not helped for [`DEATH_LIMIT`] never will: then they hear of
//! it, and a later request begins anew.
//!
//! Where no monitor tells of ends, ends are looked for: beside the patience every [`LOOK_PERIOD`], from the signal on,
//! and soon after the kill.

use std::time::{Duration, Instant};

use super::container::Stage;

/// How long processes that were killed may take to die before it is an error.
pub(crate) const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// What dies unseen takes no longer for it mostly.
pub(crate) const DYING_TIME: Duration = Duration::from_secs(1);

/// How often a container is looked at whose monitor does not answer.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Longer grace periods count as this: a clock can't add any number of seconds.
const MAX_GRACE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A stop that has been asked for; `W` is who waits.
#[derive(Debug)]
pub(crate) struct Stopping<W> {
    /// When patience ends: then it is killed, and after that given up.
    deadline: Instant,
    killed_at: Option<Instant>,
    /// When to look whether it has ended by itself, where no monitor tells of it.
    look_again: Option<Instant>,
    /// Whether it had no processes any more at the last look.
    was_empty: bool,
    waiters: Vec<W>,
}

/// What a request for a stop begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The container is asked to end.
    Signal,
    /// It has been asked already, or can't hear it, or is given no time for it.
    Nothing,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// To look whether it has processes; then [`Stopping::looked`].
    Look,
    /// To kill it; then [`Stopping::killed`].
    Kill,
    /// To look why the kill has not helped; then [`Stopping::lives_on`], if it has not ended.
    GiveUp,
}

/// Whether somebody will tell of the container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    Seen,
    Unseen,
}

impl<W> Stopping<W> {
    /// Has `waiter` wait for the end of a living container, which is killed after `grace`, or sooner.
    pub(crate) fn ask(
        slot: &mut Option<Self>,
        stage: Stage,
        grace: Duration,
        now: Instant,
        waiter: W,
    ) -> Opening {
        // A container at its gate has no workload that could hear a signal.
        let can_hear = stage == Stage::Running;
        let kill_at = now + if can_hear { grace.min(MAX_GRACE) } else { Duration::ZERO };
        if let Some(stopping) = slot {
            stopping.waiters.push(waiter);
            if stopping.killed_at.is_none() {
                stopping.deadline = stopping.deadline.min(kill_at);
            }
            return Opening::Nothing;
        }
        let waiters = vec![waiter];
        *slot =
            Some(Self { deadline: kill_at, killed_at: None, look_again: None, was_empty: false, waiters });
        if kill_at > now { Opening::Signal } else { Opening::Nothing }
    }

    /// When something is due, at the earliest.
    pub(crate) fn next(&self) -> Instant {
        self.look_again.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// What is due now.
    pub(crate) fn due(&mut self, sight: Sight, now: Instant) -> Option<Due> {
        if sight == Sight::Seen {
            self.look_again = None;
        }
        if self.look_again.is_some_and(|at| at <= now) {
            return Some(Due::Look);
        }
        let due = if self.killed_at.is_none() { Due::Kill } else { Due::GiveUp };
        (self.deadline <= now).then_some(due)
    }

    /// The signal went past the monitor, which may not tell of the end either.
    pub(crate) fn went_unheard(&mut self, now: Instant) {
        self.look_again = Some(now + LOOK_PERIOD);
    }

    /// Takes in what a look has found. True if the container has ended: one that writes down how it ended, without
    /// being heard, is given until the next look.
    #[must_use]
    pub(crate) fn looked(&mut self, is_empty: bool, now: Instant) -> bool {
        let has_ended = is_empty && self.was_empty;
        (self.was_empty, self.look_again) = (is_empty, Some(now + LOOK_PERIOD));
        has_ended
    }

    /// The kill has been sent.
    pub(crate) fn killed(&mut self, sight: Sight, now: Instant) {
        self.killed_at = Some(now);
        self.deadline = now + if sight == Sight::Seen { DEATH_LIMIT } else { DYING_TIME };
    }

    /// The container has survived its kill so far. Who is to hear that it always will: all, once it has had its time.
    #[must_use]
    pub(crate) fn lives_on(slot: &mut Option<Self>, now: Instant) -> Vec<W> {
        if let Some(stopping) = slot {
            stopping.deadline = stopping.killed_at.unwrap_or(now) + DEATH_LIMIT;
        }
        let given_up = slot.take_if(|stopping| stopping.deadline <= now);
        given_up.map(|stopping| stopping.waiters).unwrap_or_default()
    }

    /// Who is to hear that the container has ended, if it has.
    #[must_use]
    pub(crate) fn released(slot: &mut Option<Self>, stage: Stage) -> Vec<W> {
        let over = slot.take_if(|_| !matches!(stage, Stage::Created | Stage::Running));
        over.map(|stopping| stopping.waiters).unwrap_or_default()
    }
}
