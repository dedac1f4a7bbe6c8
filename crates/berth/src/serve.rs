//! `berth serve`: one agent until a signal asks it to stop. A second signal ends the waiting.

use crate::agent::Agent;
use crate::lifecycle::{StopSignals, notify_ready, notify_stopping};
use crate::memory;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use berth_sys::sched::take_short_turns;
use std::thread::available_parallelism;
use tokio::runtime::Builder;
use tracing::info;

/// The agent waits much more than it computes; each thread costs memory.
const MAX_WORKERS: usize = 4;

/// Serves to the end.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let workers = available_parallelism().map_or(2, usize::from).clamp(2, MAX_WORKERS);
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        // Where it can't have them, it answers a little later on a busy node.
        .on_thread_start(|| {
            let _ = take_short_turns();
        })
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(settings));
    // Blocking work of one pod, stuck in the kernel, must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(settings: &Settings) -> Result<()> {
    let mut signals = StopSignals::catch().context("catch signals")?;
    let mut agent = tokio::select! {
        started = Agent::start(settings) => started?,
        signal = signals.next() => bail!("start: interrupted by {signal:?}"),
    };
    notify_ready();
    tokio::select! {
        ended = agent.ended() => {
            ended?;
            bail!("serve: a part of the agent has ended by itself");
        }
        signal = signals.next() => info!(signal = ?signal, "agent stops"),
        never = memory::give_back() => match never {},
    }
    notify_stopping();
    tokio::select! {
        stopped = agent.stop() => stopped,
        signal = signals.next() => bail!("stop: interrupted by {signal:?}"),
    }
}
