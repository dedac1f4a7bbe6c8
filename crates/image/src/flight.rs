//! Work in flight that those who want the same thing join, instead of doing it twice.
//!
//! A flight lives as long as somebody waits for it: it is driven by whoever polls it and dropped with the last of
//! them. Work that must go on without them is spawned inside.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

use crate::{Error, Result};

type Outcome<V> = std::result::Result<V, Arc<Error>>;
type Work<V> = BoxFuture<'static, Outcome<V>>;

/// The flights of one kind of work, by what tells equal work.
pub(crate) struct Flights<K, V: Clone> {
    under_way: Mutex<HashMap<K, WeakShared<Work<V>>>>,
}

impl<K: Eq + Hash, V: Clone + Send + Sync + 'static> Flights<K, V> {
    pub(crate) fn new() -> Self {
        Self { under_way: Mutex::default() }
    }

    /// Joins the work under way for the key, or begins it.
    pub(crate) async fn join(
        &self,
        key: K,
        begin: impl FnOnce() -> BoxFuture<'static, Result<V>>,
    ) -> Result<V> {
        let flight = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            // Finished and abandoned flights are swept here, so that they cannot pile up.
            under_way.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
            match under_way.get(&key).and_then(WeakShared::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight: Shared<Work<V>> =
                        begin().map(|outcome| outcome.map_err(Arc::new)).boxed().shared();
                    if let Some(weak) = flight.downgrade() {
                        under_way.insert(key, weak);
                    }
                    flight
                }
            }
        };
        flight.await.map_err(|shared| Arc::try_unwrap(shared).unwrap_or_else(Error::Joined))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn equal_work_is_done_once_and_again_after_it_is_over() {
        let flights = Flights::<u8, u32>::new();
        let begun = Arc::new(AtomicU32::new(0));
        let begin = || {
            let begun = Arc::clone(&begun);
            async move {
                tokio::task::yield_now().await;
                Ok(begun.fetch_add(1, Ordering::Relaxed))
            }
            .boxed()
        };
        let (a, b) = tokio::join!(flights.join(1, begin), flights.join(1, begin));
        assert_eq!((a.unwrap(), b.unwrap()), (0, 0));
        assert_eq!(flights.join(1, begin).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_joined_flight_survives_the_one_who_began_it() {
        let flights = Flights::<u8, ()>::new();
        let (open, gate) = tokio::sync::oneshot::channel::<()>();
        let mut first =
            Box::pin(flights.join(1, || async { gate.await.map_err(|_| Error::Gone("gate")) }.boxed()));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(flights.join(1, || async { Err(Error::Gone("twice")) }.boxed()));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        open.send(()).unwrap();
        second.await.unwrap();
    }
}
