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

/// How many intervals at most pass between two trims of an agent that is as large as it has to be.
const MAX_PAUSE: u32 = 15;

/// Does so for as long as it is awaited.
pub(crate) async fn give_back() -> Infallible {
    let mut heaps = Heaps { least_bytes: u64::MAX, pause: 0, wait: 0 };
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        heaps = spawn_blocking(move || heaps.settled()).await.unwrap_or(heaps);
    }
}

/// When to trim. An agent that is large because a flood goes on has nothing to give back, nor has one that has grown
/// for good: after each trim in vain the next one comes later, as every trim holds up whoever allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heaps {
    /// The least that the process has ever had.
    least_bytes: u64,
    /// Intervals between trims.
    pause: u32,
    /// Intervals until the next one.
    wait: u32,
}

impl Heaps {
    /// Trims if that is worth it.
    fn settled(mut self) -> Self {
        if let Some(before) = resident_bytes()
            && self.is_due(before)
        {
            berth_sys::heap::trim();
            self.trimmed(before, resident_bytes().unwrap_or(before));
        }
        self
    }

    fn is_due(&mut self, now: u64) -> bool {
        if now < self.least_bytes.saturating_add(WORTH_BYTES) {
            *self = Self { least_bytes: now.min(self.least_bytes), pause: 0, wait: 0 };
            return false;
        }
        let is_due = self.wait == 0;
        self.wait = self.wait.saturating_sub(1);
        is_due
    }

    fn trimmed(&mut self, before: u64, after: u64) {
        let has_helped = before.saturating_sub(after) >= WORTH_BYTES;
        self.pause = if has_helped { 0 } else { (self.pause * 2 + 1).min(MAX_PAUSE) };
        self.wait = self.pause;
        self.least_bytes = self.least_bytes.min(after);
    }
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
        let rest = Heaps { least_bytes: u64::MAX, pause: 0, wait: 0 }.settled();
        assert!(rest.least_bytes.abs_diff(now) < WORTH_BYTES, "{now} {rest:?}");
        let mut heaps = Heaps { least_bytes: 1 << 20, pause: 0, wait: 0 };
        assert!(!heaps.is_due(WORTH_BYTES) && heaps.is_due(1 + (1 << 20) + WORTH_BYTES));
        assert_eq!(heaps.least_bytes, 1 << 20);
    }

    #[test]
    fn trims_in_vain_become_rare_and_one_that_helps_ends_that() {
        let mut heaps = Heaps { least_bytes: 0, pause: 0, wait: 0 };
        let (grown, ticks) = (4 * WORTH_BYTES, 100);
        let mut trims = Vec::new();
        for tick in 0..ticks {
            if heaps.is_due(grown) {
                trims.push(tick);
                heaps.trimmed(grown, grown - 1);
            }
        }
        assert_eq!(trims, [0, 2, 6, 14, 30, 46, 62, 78, 94]);
        heaps.trimmed(grown, grown / 2);
        assert!(heaps.is_due(grown));
    }
}
