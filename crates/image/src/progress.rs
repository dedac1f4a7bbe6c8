//! How far the pulls under way have come. Counters that the pulls raise and anybody reads.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

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
    /// Compressed bytes of all its layers, also of those that need not be downloaded.
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

impl Counters {
    fn read(&self) -> PullProgress {
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
