//! Pods of a detached run leave together or not at all: who left alone would run on while the run fails for another, and
//! nobody would be told its id.
//!
//! ```text
//! Awaits(n) ─ a pod is up ─▶ Awaits(n - 1) ─ … ─ the last is up ─▶ Together
//!     └──────── one that waits is to stop ──▶ Never
//! ```
//! Both ends are final, and every pod meets the same one.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where the pods of a run wait for each other.
#[derive(Debug, Clone)]
pub(crate) struct Departure(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many pods are not up yet.
    Awaits(usize),
    Together,
    Never,
}

impl Departure {
    /// Of so many pods.
    pub(crate) fn of(pods: usize) -> Self {
        Self(Arc::new(watch::Sender::new(State::Awaits(pods))))
    }

    /// Says that a pod is up, and waits for the others; false when it is not to leave. A pod that is not up never calls
    /// this: whoever learns of its end cancels `stop`.
    pub(crate) async fn wait(&self, stop: &CancellationToken) -> bool {
        self.0.send_modify(|state| match *state {
            State::Awaits(_) if stop.is_cancelled() => *state = State::Never,
            State::Awaits(0 | 1) => *state = State::Together,
            State::Awaits(others) => *state = State::Awaits(others - 1),
            State::Together | State::Never => {}
        });
        let mut states = self.0.subscribe();
        tokio::select! {
            // The sender is ours, so this ends only with a state.
            _ = states.wait_for(|state| !matches!(state, State::Awaits(_))) => {}
            () = stop.cancelled() => self.0.send_modify(|state| {
                if matches!(state, State::Awaits(_)) {
                    *state = State::Never;
                }
            }),
        }
        *self.0.borrow() == State::Together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_leave_when_the_last_is_up() {
        let (departure, stop) = (Departure::of(2), CancellationToken::new());
        let first = departure.wait(&stop);
        tokio::pin!(first);
        assert!(asked_once(first.as_mut()).await.is_none(), "left alone");
        assert!(departure.wait(&stop).await);
        assert!(first.await);
    }

    #[tokio::test]
    async fn when_one_stops_none_leaves() {
        let (departure, stop) = (Departure::of(2), CancellationToken::new());
        stop.cancel();
        assert!(!departure.wait(&stop).await);
        assert!(!departure.wait(&CancellationToken::new()).await);
    }

    #[tokio::test]
    async fn who_may_leave_does_not_stay_for_a_later_stop() {
        let (departure, stop) = (Departure::of(1), CancellationToken::new());
        assert!(departure.wait(&stop).await);
        stop.cancel();
        assert!(departure.wait(&stop).await);
    }

    /// What a future says when it is asked once.
    async fn asked_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
