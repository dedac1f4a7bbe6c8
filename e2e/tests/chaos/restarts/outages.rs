//! When there was no agent: the only excuse that a call has for failing, and how to tell it.

use std::cell::Cell;
use std::error::Error as _;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_e2e::Cri;
use berth_e2e::cri::Answer;
use tonic::{Code, Status};

/// What all who use the agent know of it, and what they have against it.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// There is none, or it does not answer yet.
    is_away: bool,
    back_since: Option<Instant>,
    /// The test is over.
    is_over: bool,
    /// Calls that failed for want of an agent.
    excused: usize,
    problems: Vec<String>,
}

impl Outages {
    /// From now on there may be no agent.
    pub(crate) fn begin(&self) {
        self.state().is_away = true;
    }

    /// There is one, which answers.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        (state.is_away, state.back_since) = (false, Some(Instant::now()));
    }

    /// Notes that something is not as it should be.
    pub(crate) fn complain(&self, problem: String) {
        self.state().problems.push(problem);
    }

    /// What has been noted so far.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.state().problems.clone()
    }

    pub(crate) fn excused(&self) -> usize {
        self.state().excused
    }

    /// Nobody uses the agent from now on.
    pub(crate) fn finish(&self) {
        self.state().is_over = true;
        self.ended.notify_all();
    }

    /// Lets time pass, the pace of whoever calls; whether the test goes on.
    pub(crate) fn pace(&self, time: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(self.state(), time, |state| !state.is_over);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who uses the agent, over a connection that comes back by itself.
#[derive(Debug)]
pub(crate) struct User<'a> {
    cri: Cri,
    outages: &'a Outages,
    /// The last time that its connection was good, or known to be broken: between its calls it does not look.
    heard: Cell<Instant>,
}

impl<'a> User<'a> {
    pub(crate) fn new(cri: Cri, outages: &'a Outages) -> Self {
        Self { cri, outages, heard: Cell::new(Instant::now()) }
    }

    /// Makes a call; none where there was no agent for it. What else it fails for is noted.
    pub(crate) fn call<T>(&self, name: &str, call: impl FnOnce(&Cri) -> Answer<T>) -> Option<T> {
        let begun = Instant::now();
        let answer = call(&self.cri);
        let good_since = self.heard.replace(begun);
        let status = match answer {
            Ok(answer) => return Some(answer),
            Err(status) => status,
        };
        let mut state = self.outages.state();
        let was_away = state.is_away || state.back_since.is_some_and(|back| back >= good_since);
        if was_away && is_of_the_wire(&status) {
            state.excused += 1;
        } else {
            let (waited, there) = (begun.elapsed(), if was_away { "no" } else { "an" });
            state.problems.push(format!("{name}, after {waited:?}, with {there} agent there: {status:?}"));
        }
        None
    }
}

/// Whether nobody has answered: what an agent answers has no cause on this side. One that is there and takes too long is no
/// better than one that answers wrongly.
fn is_of_the_wire(status: &Status) -> bool {
    let timed_out = status.code() == Code::DeadlineExceeded || status.message().contains("Timeout expired");
    status.source().is_some() && !timed_out
}
