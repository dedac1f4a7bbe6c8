//! How far the pulls under way have come. Counters that the pulls raise, and that anybody reads; a pull that takes
//! long tells of them by itself.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often a pull that takes long is told of.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// One pull as it is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being pulled, normalised.
    pub reference: String,
    /// Layers in place.
    pub layers_done: u64,
    /// All its layers; 0 until the manifest is there.
    pub layers: u64,
    /// Compressed bytes that have arrived for it.
    pub bytes_done: u64,
    /// Compressed bytes of the layers that it fetches. Those that are here, or that another pull is fetching, are not
    /// among them.
    pub bytes: u64,
}

/// The counters of one pull.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    reference: String,
    pub(crate) layers_done: AtomicU64,
    pub(crate) layers: AtomicU64,
    pub(crate) bytes_done: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// All pulls under way; one disappears with the last holder of its counters.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Vec<Weak<Counters>>>);

impl Board {
    pub(crate) fn register(&self, reference: String) -> Arc<Counters> {
        let counters = Arc::new(Counters { reference, ..Counters::default() });
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.retain(|other| other.strong_count() > 0);
        board.push(Arc::downgrade(&counters));
        counters
    }

    pub(crate) fn read(&self) -> Vec<PullProgress> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.iter().filter_map(Weak::upgrade).map(|counters| counters.read()).collect()
    }
}

/// Does the work, and tells how far it is every few seconds for as long as it takes.
pub(crate) async fn telling<T>(
    work: impl Future<Output = T>,
    counters: &Counters,
    mut tell: impl FnMut(PullProgress),
) -> T {
    let mut work = pin!(work);
    let mut ticks = interval_at(Instant::now() + TELL_EVERY, TELL_EVERY);
    // A machine that slept makes up for nothing.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = ticks.tick() => tell(counters.read()),
        }
    }
}

impl Counters {
    pub(crate) fn read(&self) -> PullProgress {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PullProgress {
            reference: self.reference.clone(),
            layers_done: get(&self.layers_done),
            layers: get(&self.layers),
            bytes_done: get(&self.bytes_done),
            bytes: get(&self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_told_of_every_few_seconds_and_not_when_it_is_short() {
        let check = async |seconds: u64, lines: usize| {
            let counters = Board::default().register("r.example/x:latest".to_owned());
            let mut told = Vec::new();
            let work = async {
                counters.bytes_done.fetch_add(7, Ordering::Relaxed);
                let done = std::future::pending::<()>();
                let _ = tokio::time::timeout(Duration::from_secs(seconds), done).await;
            };
            telling(work, &counters, |progress| told.push(progress.bytes_done)).await;
            assert_eq!(told, vec![7; lines], "{seconds} s");
        };
        check(0, 0).await;
        check(4, 0).await;
        check(6, 1).await;
        check(59, 11).await;
    }

    #[test]
    fn a_pull_is_on_the_board_while_somebody_holds_it() {
        let board = Board::default();
        let (first, second) = (board.register("a".to_owned()), board.register("b".to_owned()));
        first.layers.store(3, Ordering::Relaxed);
        let shown = || board.read().into_iter().map(|pull| (pull.reference, pull.layers)).collect::<Vec<_>>();
        assert_eq!(shown(), [("a".to_owned(), 3), ("b".to_owned(), 0)]);
        drop(first);
        assert_eq!(shown(), [("b".to_owned(), 0)]);
        drop(second);
        assert!(shown().is_empty());
    }
}
