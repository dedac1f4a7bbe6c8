//! Steps that went on past their limit. Work that blocks can't be called off: whoever takes down what it makes has to
//! await its end first, or it comes to be afterwards, when its addresses may be another pod's.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};

/// The blocking work of one pod that nobody waits for any more.
#[derive(Debug, Default)]
pub(crate) struct Late(Vec<JoinHandle<()>>);

impl Late {
    /// Does `work` on a thread for such; entered here until the end is known.
    pub(crate) async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, outcome) = oneshot::channel();
        self.0.push(spawn_blocking(move || drop(done.send(work()))));
        let result = outcome.await.unwrap_or(Err(Error::Abandoned));
        self.0.pop();
        result
    }

    /// Waits until all of it has ended.
    ///
    /// # Errors
    /// Some has not within the limit; it is waited for again the next time.
    pub(crate) async fn end(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while let Some(work) = self.0.last_mut() {
            // One that panicked has ended, too.
            let _ = timeout_at(deadline, work).await.map_err(|_| Error::TooLong { limit })?;
            self.0.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::timeout;

    use super::*;

    const BRIEFLY: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_awaited_before_it_is_undone() {
        let mut late = Late::default();
        let (release, released) = mpsc::channel::<()>();
        let (made, what_is_made) = mpsc::channel();
        let work = move || {
            released.recv().unwrap();
            made.send(()).unwrap();
            Ok(())
        };
        timeout(BRIEFLY, late.blocking(work)).await.unwrap_err();
        // Others come and go meanwhile.
        assert_eq!(late.blocking(|| Ok(7)).await.unwrap(), 7);
        assert!(matches!(late.end(BRIEFLY).await, Err(Error::TooLong { .. })));
        what_is_made.try_recv().unwrap_err();
        release.send(()).unwrap();
        late.end(Duration::from_secs(60)).await.unwrap();
        what_is_made.try_recv().unwrap();
        late.end(Duration::ZERO).await.unwrap();
    }
}
