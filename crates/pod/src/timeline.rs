//! What happened to a pod, step by step: the answer to "why is it in this state".

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

/// The most steps kept; the oldest go first.
const MAX_STEPS: usize = 64;

/// The steps of a pod's life so far, oldest first. Clones, of which every view of the pod has one, share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline(Vec<Arc<Step>>);

/// One finished step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which: `attach network`, `create container web`.
    pub stage: String,
    /// When it ended, in nanoseconds since the epoch.
    pub at_ns: i64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// Why it failed.
    pub error: Option<String>,
}

impl Timeline {
    /// Adds a step that has just ended.
    pub fn push(&mut self, stage: impl Into<String>, took: Duration, error: Option<String>) {
        self.enter(stage, crate::clock::now_ns(), took, error);
    }

    /// Adds a step that has ended then.
    pub fn enter(&mut self, stage: impl Into<String>, at_ns: i64, took: Duration, error: Option<String>) {
        if self.0.len() == MAX_STEPS {
            self.0.remove(0);
        }
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let step = Step { stage: stage.into(), at_ns, took_us, error };
        self.0.push(Arc::new(step));
    }

    /// Oldest first.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.0.iter().map(Arc::as_ref)
    }
}
