//! The time as CRI gives it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static LAST_NS: AtomicI64 = AtomicI64::new(0);

/// Nanoseconds since the epoch; 0 for a clock before it.
pub fn now_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// Nanoseconds since the epoch, later than in every answer before, also when the clock has been set back: events and
/// statuses that carry it can be put in order.
pub fn monotone_ns() -> i64 {
    let now_ns = now_ns();
    let later = |last_ns: i64| Some(now_ns.max(last_ns.saturating_add(1)));
    match LAST_NS.fetch_update(Ordering::AcqRel, Ordering::Acquire, later) {
        Ok(last_ns) | Err(last_ns) => now_ns.max(last_ns.saturating_add(1)),
    }
}
