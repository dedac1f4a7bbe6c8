//! What holds after a change, where zero meant "as it is"; and what to write for it.
//!
//! Memory and memory+swap are one pair: a container that may not swap (memory+swap is the memory) still may not
//! when its memory changes.

use super::{Limit, Limits};

impl Limits {
    /// The limits of a new container: one with a memory limit that says nothing of swap gets none, as with containerd.
    pub fn settled(self) -> Self {
        let memory_and_swap_bytes = self.memory_and_swap_bytes.or(self.memory_bytes);
        Self { memory_and_swap_bytes, ..self }
    }

    /// What holds after `change`.
    pub(crate) fn with(&self, change: &Self) -> Self {
        let (memory_bytes, memory_and_swap_bytes) = self.memory_with(change);
        let mut all = self.clone();
        all.hugepages_bytes.extend(change.hugepages_bytes.clone());
        all.unified.extend(change.unified.clone());
        Self {
            cpu_shares: change.cpu_shares.or(self.cpu_shares),
            cpu_quota_us: change.cpu_quota_us.or(self.cpu_quota_us),
            cpu_period_us: change.cpu_period_us.or(self.cpu_period_us),
            cpuset_cpus: change.cpuset_cpus.clone().or(all.cpuset_cpus),
            cpuset_mems: change.cpuset_mems.clone().or(all.cpuset_mems),
            memory_bytes,
            memory_and_swap_bytes,
            pids: change.pids.or(self.pids),
            ..all
        }
    }

    /// What is to be written for `change`: that, the other half of the memory pair, and again the files of version 2
    /// that were given exact values, which beat what the change would convert to them.
    pub(crate) fn effective(&self, change: &Self) -> Self {
        let changes_memory = change.memory_bytes.is_some() || change.memory_and_swap_bytes.is_some();
        let pair = if changes_memory { self.memory_with(change) } else { (None, None) };
        let mut unified = self.unified.clone();
        unified.extend(change.unified.clone());
        Self { memory_bytes: pair.0, memory_and_swap_bytes: pair.1, unified, ..change.clone() }
    }

    fn memory_with(&self, change: &Self) -> (Option<Limit>, Option<Limit>) {
        let memory = change.memory_bytes.or(self.memory_bytes);
        let may_swap = matches!((self.memory_bytes, self.memory_and_swap_bytes),
            (Some(Limit::At(memory)), Some(both)) if both != Limit::At(memory));
        let both = match (change.memory_and_swap_bytes, change.memory_bytes) {
            (Some(both), _) => Some(both),
            (None, Some(_)) if !may_swap => memory,
            (None, _) => self.memory_and_swap_bytes,
        };
        (memory, both)
    }
}

#[cfg(test)]
mod tests {
    use Limit::{At, Max};

    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let current = Limits {
            cpu_shares: Some(2),
            cpuset_cpus: Some("0".to_owned()),
            hugepages_bytes: [("2MB".to_owned(), 1)].into(),
            unified: [("cpu.weight".to_owned(), "7".to_owned())].into(),
            ..Limits::default()
        };
        assert_eq!(current.with(&Limits::default()), current);
        let change = Limits {
            cpu_quota_us: Some(Max),
            cpuset_cpus: Some("1".to_owned()),
            hugepages_bytes: [("1GB".to_owned(), 3)].into(),
            ..Limits::default()
        };
        let after = current.with(&change);
        assert_eq!(
            (after.cpu_shares, after.cpu_quota_us, after.cpuset_cpus.as_deref()),
            (Some(2), Some(Max), Some("1"))
        );
        assert_eq!(
            after.hugepages_bytes.into_iter().collect::<Vec<_>>(),
            [("1GB".to_owned(), 3), ("2MB".to_owned(), 1)]
        );
        let effective = current.effective(&change);
        assert_eq!((effective.cpu_shares, effective.memory_bytes), (None, None));
        assert_eq!(effective.unified, current.unified);
    }

    #[test]
    fn memory_and_swap_change_together() {
        let limits =
            |memory, both| Limits { memory_bytes: memory, memory_and_swap_bytes: both, ..Limits::default() };
        let check =
            |current: (Option<Limit>, Option<Limit>), change: (Option<Limit>, Option<Limit>), want| {
                let (current, change) = (limits(current.0, current.1), limits(change.0, change.1));
                assert_eq!(current.memory_with(&change), want, "{current:?} {change:?}");
            };
        // Without swap it stays without.
        check((Some(At(5)), Some(At(5))), (Some(At(9)), None), (Some(At(9)), Some(At(9))));
        check((None, None), (Some(At(9)), None), (Some(At(9)), Some(At(9))));
        check((Some(Max), Some(Max)), (Some(At(9)), None), (Some(At(9)), Some(At(9))));
        check((Some(At(5)), Some(At(5))), (Some(Max), None), (Some(Max), Some(Max)));
        // With swap the sum stays.
        check((Some(At(5)), Some(At(8))), (Some(At(6)), None), (Some(At(6)), Some(At(8))));
        check((Some(At(5)), Some(Max)), (Some(At(6)), None), (Some(At(6)), Some(Max)));
        check((Some(At(5)), Some(At(5))), (None, Some(At(8))), (Some(At(5)), Some(At(8))));
        assert_eq!(limits(Some(At(5)), None).settled(), limits(Some(At(5)), Some(At(5))));
        assert_eq!(limits(None, None).settled(), limits(None, None));
    }
}
