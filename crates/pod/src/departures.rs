//! Pods that nobody can ask for any more and of which something is left: removed ones, whose network the kernel lets go
//! of in its own time, and those that could not be taken down, which is tried again. Each has somebody who is at it, and
//! a record still, but for spares, which never had one.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_monitor::id::PodId;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long those that go are waited for; the kernel takes some 30 ms to let go of a network.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    pods: Mutex<BTreeMap<PodId, Departure>>,
    /// Told whenever a pod, removed or only stopped, has given its addresses back, and when nothing of one is left.
    freed: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Departure {
    /// It goes as it should.
    Leaving,
    /// Something stays against all efforts.
    Stuck,
}

impl Departures {
    /// A pod has been removed but for what the kernel still has to do.
    pub(crate) fn begin(&self, pod: &PodId) {
        self.pods().insert(pod.clone(), Departure::Leaving);
    }

    /// A pod could not be taken down.
    pub(crate) fn get_stuck(&self, pod: &PodId) {
        self.pods().insert(pod.clone(), Departure::Stuck);
    }

    /// Nothing of it is left.
    pub(crate) fn end(&self, pod: &PodId) {
        if self.pods().remove(pod) == Some(Departure::Stuck) {
            tracing::info!(pod.id = %pod, "half-made pod taken down");
        }
        self.freed.notify_waiters();
    }

    /// Waits until none is on its way any more, but not for long.
    pub(crate) async fn settle(&self) {
        let settled = async {
            loop {
                let mut freed = pin!(self.freed.notified());
                freed.as_mut().enable();
                if !self.any_leaves() {
                    return;
                }
                freed.await;
            }
        };
        let _ = timeout(PATIENCE, settled).await;
    }

    pub(crate) fn has(&self, pod: &PodId) -> bool {
        self.pods().contains_key(pod)
    }

    pub(crate) fn all(&self) -> Vec<PodId> {
        self.pods().keys().cloned().collect()
    }

    /// Those that could not be taken down yet.
    pub(crate) fn stuck(&self) -> Vec<PodId> {
        let pods = self.pods();
        let stuck = pods.iter().filter(|(_, departure)| **departure == Departure::Stuck);
        stuck.map(|(id, _)| id.clone()).collect()
    }

    /// Whether addresses will be free in a moment.
    pub(crate) fn any_leaves(&self) -> bool {
        self.pods().values().any(|departure| *departure == Departure::Leaving)
    }

    /// To be enabled before it is looked whether there is something to wait for.
    pub(crate) fn freed(&self) -> &Notify {
        &self.freed
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<PodId, Departure>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
