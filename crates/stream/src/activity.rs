//! When a connection last carried data, to end those that carry none for hours. Frames that only keep a connection
//! alive do not count.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// When a connection last carried data.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<Instant>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Activity {
    /// Data has just passed.
    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until no data has passed for so long.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let deadline = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if deadline <= Instant::now() {
                return;
            }
            let _ = timeout_at(deadline, std::future::pending::<()>()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_piece_of_data_begins_the_time_anew() {
        let (activity, limit) = (Activity::default(), Duration::from_secs(10));
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(9)).await;
            activity.note();
        }
        let before = Instant::now();
        activity.idle(limit).await;
        assert!(before.elapsed() >= limit);
    }
}
