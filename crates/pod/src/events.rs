//! What happens to pods and containers, as a stream for any number of listeners (CRI `GetContainerEvents`).
//!
//! Every event carries the view of its pod as of that event, so that a status is never older than its news. A listener
//! that falls behind by more than [`KEPT`] events is told so and starts over from the full state: nothing is dropped in
//! silence.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::view::PodView;

/// Events kept for slow listeners.
const KEPT: usize = 1024;

/// One piece of news.
#[derive(Debug, Clone)]
pub struct PodEvent {
    /// The container, or the pod itself (CRI uses one field for both).
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
    /// The pod as it was then.
    pub pod: Arc<PodView>,
}

/// CRI `ContainerEventType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It has been made.
    Created,
    /// It runs.
    Started,
    /// It has ended.
    Stopped,
    /// It has been removed.
    Deleted,
}

/// The next thing that a listener hears.
#[derive(Debug)]
pub enum Heard {
    /// News.
    Event(PodEvent),
    /// This many events were missed: the current state has to be read anew.
    Missed(u64),
}

/// A listener.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<PodEvent>);

impl Events {
    /// Waits for the next; `None` when the agent stops.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(event) => Some(Heard::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Where drivers tell.
#[derive(Debug)]
pub(crate) struct EventFeed(broadcast::Sender<PodEvent>);

impl Default for EventFeed {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl EventFeed {
    /// Tells all listeners; that there are none is no error.
    pub(crate) fn tell(&self, id: impl Into<String>, kind: EventKind, pod: Arc<PodView>) {
        let _ = self.0.send(PodEvent { id: id.into(), kind, at_ns: crate::clock::now_ns(), pod });
    }

    /// A listener for all that comes from now on.
    pub(crate) fn subscribe(&self) -> Events {
        Events(self.0.subscribe())
    }
}
