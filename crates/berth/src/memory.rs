//! Gives memory back that the agent no longer uses.
//!
//! A flood of streams or some pulls at once take hundreds of megabytes for a while. When they have ended, glibc keeps most
//! of that: it only ever cuts its heaps at the end, where something small lives on. So an agent that is larger than it was
//! at rest has its heaps trimmed from time to time.

use std::convert::Infallible;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// How long memory may be kept for whoever needs it next.
const INTERVAL: Duration = Duration::from_secs(30);

/// How much more than at rest the agent may have without being trimmed.
const WORTH_BYTES: u64 = 16 << 20;

/// Does so for as long as it is awaited.
pub(crate) async fn give_back() -> Infallible {
    let mut least_bytes = u64::MAX;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        least_bytes = spawn_blocking(move || settle(least_bytes)).await.unwrap_or(least_bytes);
    }
}

/// Trims if that is worth it, and answers with the least that the process has ever had.
fn settle(least_bytes: u64) -> u64 {
    let Some(before) = resident_bytes() else { return least_bytes };
    if before < least_bytes.saturating_add(WORTH_BYTES) {
        return before.min(least_bytes);
    }
    berth_sys::heap::trim();
    resident_bytes().map_or(least_bytes, |after| after.min(least_bytes))
}

/// What the process has in memory. Source: proc_pid_statm(5).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_that_is_worth_it_is_trimmed() {
        let now = resident_bytes().unwrap();
        assert!(now > 1 << 20);
        // At rest, what there is now is remembered; after that, the least that there ever was.
        let rest = settle(u64::MAX);
        assert!(rest.abs_diff(now) < WORTH_BYTES, "{now} {rest}");
        assert_eq!(settle(1 << 20), 1 << 20);
    }
}
