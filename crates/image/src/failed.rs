//! Pulls that failed lately, for whoever asks what is wrong with the node: a client that has been told forgets.
//!
//! A name is here from the pull that failed to one that does not. There are so many of them and no more; the oldest go.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use berth_store::with_causes;

use crate::Error;

/// More than a person reads.
const MOST: usize = 16;

/// Characters of a failure that are kept: places that were tried tell theirs one after the other.
const MOST_CHARS: usize = 1000;

/// An image that could not be pulled the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPull {
    /// As it was normalised.
    pub reference: String,
    /// How often, one time after the other.
    pub times: u32,
    /// When last.
    pub at: SystemTime,
    /// Why, the last time.
    pub error: String,
}

/// The newest last.
#[derive(Debug, Default)]
pub(crate) struct FailedPulls(Mutex<VecDeque<FailedPull>>);

impl FailedPulls {
    /// Takes in how a pull went.
    pub(crate) fn note<T>(&self, reference: &str, outcome: &Result<T, Error>) {
        let mut failed = self.failed();
        let place = failed.iter().position(|pull| pull.reference == reference);
        let before = place.and_then(|place| failed.remove(place)).map_or(0, |pull| pull.times);
        let Err(error) = outcome else { return };
        if failed.len() == MOST {
            failed.pop_front();
        }
        failed.push_back(FailedPull {
            reference: reference.to_owned(),
            times: before.saturating_add(1),
            at: SystemTime::now(),
            error: with_causes(error).chars().take(MOST_CHARS).collect(),
        });
    }

    pub(crate) fn all(&self) -> Vec<FailedPull> {
        self.failed().iter().cloned().collect()
    }

    fn failed(&self) -> MutexGuard<'_, VecDeque<FailedPull>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Result<(), Error> {
        Err(Error::Gone("pull image"))
    }

    fn told(failed: &FailedPulls) -> Vec<(String, u32)> {
        failed.all().into_iter().map(|pull| (pull.reference, pull.times)).collect()
    }

    #[test]
    fn a_name_is_forgotten_when_its_pull_succeeds() {
        let failed = FailedPulls::default();
        failed.note("a", &failure());
        failed.note("b", &failure());
        failed.note("a", &failure());
        assert_eq!(told(&failed), [("b".to_owned(), 1), ("a".to_owned(), 2)]);
        failed.note("a", &Ok(()));
        assert_eq!(told(&failed), [("b".to_owned(), 1)]);
    }

    #[test]
    fn the_oldest_of_many_go() {
        let failed = FailedPulls::default();
        for number in 0..MOST + 3 {
            failed.note(&number.to_string(), &failure());
        }
        assert_eq!(failed.all().len(), MOST);
        assert_eq!(told(&failed)[0], ("3".to_owned(), 1));
    }
}
