//! How long to wait before a container that ended is started again.
//!
//! Pure. As the kubelet: at once the first time, then 10 s, doubling up to 5 minutes; a container that ran for
//! 10 minutes begins anew.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// The waits of one container.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The wait after an exit of a container that had run for `ran`.
    pub(crate) fn after_exit(&mut self, ran: Duration) -> Duration {
        let wait = if ran >= FORGIVEN_AFTER { Duration::ZERO } else { self.next };
        self.next = if wait.is_zero() { FIRST } else { (wait * 2).min(LONGEST) };
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_the_longest_and_are_forgiven() {
        let mut backoff = Backoff::default();
        let mut after = |ran: u64| backoff.after_exit(Duration::from_secs(ran)).as_secs();
        let crashes: Vec<_> = (0..8).map(|_| after(1)).collect();
        assert_eq!(crashes, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!([after(600), after(599), after(0)], [0, 10, 20]);
    }
}
