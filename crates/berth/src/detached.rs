//! Directories of pods that `berth run --detach` has left to the agent: they go when their pod has been removed, by
//! whomever.
//!
//! One task of the agent listens for that, and looks once when the agent starts, for what has gone meanwhile.

use crate::run::run_dirs;
use berth_manifest::remove_detached;
use berth_pod::Pods;
use berth_pod::events::{EventKind, Heard};
use std::path::Path;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::warn;

/// Starts the task, which ends with the agent.
pub(crate) fn clear_after(pods: &Pods, state: &Path) -> JoinHandle<()> {
    let (pods, state) = (pods.clone(), state.to_owned());
    tokio::spawn(async move {
        let mut events = pods.subscribe(None);
        loop {
            clear(&pods, &state).await;
            while !may_tell_of_a_removal(&events.next().await) {}
        }
    })
}

/// Of a pod that has gone there is nothing left to show.
fn may_tell_of_a_removal(heard: &Heard) -> bool {
    match heard {
        Heard::Event(event) => event.kind == EventKind::Deleted && event.pod.is_none(),
        Heard::Resync(_) | Heard::Lost => true,
    }
}

async fn clear(pods: &Pods, state: &Path) {
    let (pods, dirs) = (pods.clone(), run_dirs(state));
    // Asked anew for each directory: to remove the one before may have taken minutes, in which pods have started.
    let is_there = move |uid: &str| pods.snapshot().pods.values().any(|pod| pod.spec.identity.uid == uid);
    let cleared = spawn_blocking(move || remove_detached(&dirs, is_there)).await;
    if let Ok(Err(error)) = cleared {
        let error = format!("{:#}", anyhow::Error::from(error));
        warn!(error, "directories of a removed pod stay");
    }
}
