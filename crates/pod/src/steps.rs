//! Steps that block, done one after the other on one thread for such: the task that waits for them is woken once for all of
//! them, not once for each. To wake a thread takes as long as many a step.
//!
//! Who waits may give up, as the time for all of them is over. The step that is under way then goes on by itself (see
//! [`Late`](crate::late::Late)); none after it is begun, and nothing more is told of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use berth_fault::Point;
use berth_store::with_causes;

use crate::clock::now_ns;
use crate::error::{Error, Result};
use crate::timeline::Timeline;

/// A step that has not ended yet.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) stage: String,
    pub(crate) since: Instant,
}

/// Where whoever wonders why nothing happens finds the step that is under way.
pub(crate) type Shown = Arc<ArcSwapOption<UnderWay>>;

/// Work of several steps, as [`Driver::blocking_steps`](crate::driver::Driver::blocking_steps) does it.
pub(crate) type Work = Box<dyn FnOnce(&mut Steps) -> Result<()> + Send>;

/// The steps of one piece of work, as the thread takes them. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    shown: Shown,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Debug, Default)]
struct Progress {
    is_given_up: bool,
    done: Vec<Done>,
}

/// A step that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    stage: String,
    at_ns: i64,
    took: Duration,
    error: Option<String>,
}

impl Steps {
    pub(crate) fn new(shown: Shown) -> Self {
        Self { shown, progress: Arc::default() }
    }

    /// Does one step, and notes how it went; `object` is what it is done to, where that is not the pod.
    ///
    /// # Errors
    /// With the step's name; `Abandoned` if nobody waits any more.
    pub(crate) fn step<T>(
        &mut self,
        step: Point,
        object: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let under_way = Arc::new(UnderWay::begin(step, object));
        {
            let progress = self.progress();
            if progress.is_given_up {
                return Err(Error::Abandoned);
            }
            self.shown.store(Some(under_way.clone()));
        }
        let result = step.pass().map_err(Error::from).and_then(|()| work());
        let (done, result) = under_way.end(result);
        let mut progress = self.progress();
        if !progress.is_given_up {
            self.shown.store(None);
            progress.done.push(done);
        }
        result
    }

    /// Has no further step begin; what was done, and what is under way still.
    pub(crate) fn give_up(self) -> (Vec<Done>, Option<Arc<UnderWay>>) {
        let mut progress = self.progress();
        progress.is_given_up = true;
        (std::mem::take(&mut progress.done), self.shown.swap(None))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// A step that begins.
    pub(crate) fn begin(step: Point, object: &str) -> Self {
        let stage = format!("{} {object}", step.name()).trim_end().to_owned();
        Self { stage, since: Instant::now() }
    }

    /// What has become of the step, and its result, whose error tells which step it was.
    pub(crate) fn end<T>(&self, result: Result<T>) -> (Done, Result<T>) {
        let (stage, took) = (self.stage.clone(), self.since.elapsed());
        let error = result.as_ref().err().map(|error| with_causes(error));
        let done = Done { stage: stage.clone(), at_ns: now_ns(), took, error };
        (done, result.map_err(|error| Error::Stage { stage, took, source: Box::new(error) }))
    }
}

impl Done {
    /// Enters it as the last of what has happened to the pod.
    pub(crate) fn enter(self, timeline: &mut Timeline) {
        timeline.enter(self.stage, self.at_ns, self.took, self.error);
    }
}

#[cfg(test)]
mod tests {
    use berth_fault::point;

    use super::*;

    #[test]
    fn nothing_is_begun_and_nothing_told_once_nobody_waits() {
        let shown = Shown::default();
        let (mut steps, waiting) = (Steps::new(shown.clone()), Steps::new(shown.clone()));
        let waiting = Steps { progress: steps.progress.clone(), ..waiting };
        steps.step(point!("test: first"), "", || Ok(())).unwrap();
        let mut waiting = Some(waiting);
        let mut told = None;
        let second = steps.step(point!("test: second"), "web", || {
            told = waiting.take().map(Steps::give_up);
            Ok(7)
        });
        assert_eq!(second.unwrap(), 7);
        let (done, under_way) = told.unwrap();
        assert_eq!(done.iter().map(|done| done.stage.as_str()).collect::<Vec<_>>(), ["test: first"]);
        assert_eq!(under_way.unwrap().stage, "test: second web");
        let third = steps.step(point!("test: third"), "", || -> Result<()> { unreachable!("it is begun") });
        assert!(matches!(third, Err(Error::Abandoned)));
        assert!(shown.load().is_none() && steps.progress().done.is_empty());
    }
}
