//! Places for sessions: each has one from its token to the end of its connection.
//!
//! There are so many for all, and of these so many for each container (exec and attach) or pod (its ports). So the
//! clients of one can use up its own share and no more, whether they stay for long or never come.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;

/// How many sessions there may be at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Of all.
    pub(crate) all: usize,
    /// Of one container or pod.
    pub(crate) of_one: usize,
}

/// The places for all sessions.
#[derive(Debug)]
pub(crate) struct Places {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

/// The place of one session; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    owner: Arc<str>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By the id of a container or pod; only those that have any.
    by_owner: HashMap<Arc<str>, usize>,
}

impl Places {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::default() }
    }

    /// A place for a session of this container or pod.
    ///
    /// # Errors
    /// It has all that one may have ([`Error::TooManySessionsOfOne`]), or there are none left
    /// ([`Error::TooManySessions`]).
    pub(crate) fn take(&self, owner: &str) -> Result<Place, Error> {
        let Bounds { all, of_one } = self.bounds;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_owner.get(owner).copied().unwrap_or_default();
        if own >= of_one {
            return Err(Error::TooManySessionsOfOne { owner: owner.to_owned(), limit: of_one });
        }
        if taken.all >= all {
            return Err(Error::TooManySessions { limit: all });
        }
        let owner: Arc<str> = owner.into();
        taken.all += 1;
        taken.by_owner.insert(Arc::clone(&owner), own + 1);
        Ok(Place { owner, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        match taken.by_owner.get_mut(&self.owner) {
            Some(own @ 2..) => *own -= 1,
            _ => drop(taken.by_owner.remove(&self.owner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uses_up_its_own_share_only_and_all_together_no_more_than_there_are() {
        let places = Places::new(Bounds { all: 5, of_one: 2 });
        let mut taken: Vec<_> = ["a", "a", "b"].map(|owner| places.take(owner).unwrap()).into();
        let refused = places.take("a").unwrap_err();
        assert!(
            matches!(&refused, Error::TooManySessionsOfOne { owner, limit: 2 } if owner == "a"),
            "{refused}"
        );
        taken.extend(["b", "c"].map(|owner| places.take(owner).unwrap()));
        let refused = places.take("d").unwrap_err();
        assert!(matches!(refused, Error::TooManySessions { limit: 5 }), "{refused}");
        drop(taken.remove(0));
        taken.push(places.take("a").unwrap());
        drop(taken);
        assert!(places.taken.lock().unwrap().by_owner.is_empty());
        assert_eq!(places.taken.lock().unwrap().all, 0);
    }
}
