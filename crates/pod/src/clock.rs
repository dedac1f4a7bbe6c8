//! The time as CRI gives it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch; 0 for a clock before it.
pub fn now_ns() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}
