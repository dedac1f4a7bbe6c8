//! Puts the network back that somebody else takes away, as a firewall does that starts anew, whenever a pod has been made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use berth_store::with_causes;
use tokio::time::MissedTickBehavior;

use crate::host::{Host, blocking};

/// Between two looks at the network: each is at all addresses of the host, of which pods may have many.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Who looks after the network: nobody, somebody, or somebody who will have to look once more.
#[derive(Debug, Default)]
pub(crate) struct Lookout(AtomicU8);

impl Lookout {
    /// Asks for a look; whether the asker has to see to it.
    fn ask(&self) -> bool {
        let next = |looks: u8| Some((looks + 1).min(2));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) == Ok(0)
    }

    /// After a look: whether nobody has asked for another one.
    fn are_done(&self) -> bool {
        let next = |looks: u8| Some(looks.saturating_sub(1));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) != Ok(2)
    }
}

/// Puts back what somebody else has taken from all pods, without having the pod wait that is made now.
pub(crate) fn look_after_network(host: &Arc<Host>) {
    if !host.lookout.ask() {
        return;
    }
    let host = host.clone();
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(LOOK_PERIOD);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first comes at once.
        pace.tick().await;
        loop {
            let of = host.clone();
            if let Ok(Err(error)) = blocking(move || of.network.check_and_restore()).await {
                tracing::warn!(error = with_causes(&error), "pod network not put back");
            }
            pace.tick().await;
            if host.lookout.are_done() {
                break;
            }
        }
    });
}
