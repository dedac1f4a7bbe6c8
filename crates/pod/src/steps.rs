//! Steps that block, done one after the other on one thread for such: the task that waits for them is woken once for all of
//! them, not once for each. To wake a thread takes as long as many a step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use berth_fault::Point;
use berth_store::with_causes;

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

/// What has been done so far.
#[derive(Debug)]
pub(crate) struct Steps {
    shown: Shown,
    done: Vec<Done>,
}

/// A step that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    stage: String,
    took: Duration,
    error: Option<String>,
}

impl Steps {
    pub(crate) fn new(shown: Shown) -> Self {
        Self { shown, done: Vec::new() }
    }

    /// Does one step, and notes how it went; `object` is what it is done to, where that is not the pod.
    ///
    /// # Errors
    /// With the step's name.
    pub(crate) fn step<T>(
        &mut self,
        step: Point,
        object: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let under_way = begin(&self.shown, step, object);
        let result = step.pass().map_err(Error::from).and_then(|()| work());
        let (done, result) = end(&under_way, result);
        self.done.push(done);
        result
    }

    /// All that was done. Nothing is under way any more.
    pub(crate) fn into_done(self) -> Vec<Done> {
        self.shown.store(None);
        self.done
    }
}

impl Done {
    /// Enters it as the last of what has happened to the pod.
    pub(crate) fn enter(self, timeline: &mut Timeline) {
        timeline.push(self.stage, self.took, self.error);
    }
}

/// Shows that a step begins.
pub(crate) fn begin(shown: &Shown, step: Point, object: &str) -> Arc<UnderWay> {
    let stage = format!("{} {object}", step.name()).trim_end().to_owned();
    let under_way = Arc::new(UnderWay { stage, since: Instant::now() });
    shown.store(Some(under_way.clone()));
    under_way
}

/// What has become of a step, and its result, whose error tells which step it was.
pub(crate) fn end<T>(under_way: &UnderWay, result: Result<T>) -> (Done, Result<T>) {
    let (stage, took) = (under_way.stage.clone(), under_way.since.elapsed());
    let done =
        Done { stage: stage.clone(), took, error: result.as_ref().err().map(|error| with_causes(error)) };
    (done, result.map_err(|error| Error::Stage { stage, took, source: Box::new(error) }))
}
