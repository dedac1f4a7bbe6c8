//! What an agent that runs takes away by itself, every few minutes: what nobody owns, with the judgement of a repair, but
//! only where that is sure.
//!
//! Sure is what carries the id of a pod or container that there is not, and what the image store or the network says once
//! more that it has no use for. A route is not (an operator may have given the bridge an address), nor a descriptor of the
//! agent's own. It has to have been so in the round before, too: what is being made or taken down lasts no such time.
//!
//! One task, outside of all drivers; a round costs some milliseconds on threads for blocking work, and another look when
//! something is suspect. Dropping it midway leaves what a repair would leave: the next round goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_store::with_causes;
use tokio::time::{MissedTickBehavior, interval_at};

use super::{Grip, Judged, Kind, REMOVED, Standing, Tie, inspect};
use crate::error::Result;
use crate::registry::Pods;

/// What tells a thing from all others.
type Key = (Standing, Kind, String);

impl Pods {
    /// Goes on for as long as it is polled.
    pub async fn tidy_every(&self, period: Duration) {
        // The start of the agent has been a round of its own.
        let mut rounds = interval_at(tokio::time::Instant::now() + period, period);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut suspects = BTreeSet::new();
        loop {
            rounds.tick().await;
            match self.tidy(&suspects).await {
                Ok(found) => suspects = found,
                Err(error) => tracing::warn!(error = with_causes(&error), "node not looked at"),
            }
        }
    }

    /// One round: takes away what is among the suspects of the round before, and returns those of this one.
    async fn tidy(&self, before: &BTreeSet<Key>) -> Result<BTreeSet<Key>> {
        let begun = Instant::now();
        let mut judged = inspect(|| self.pass()).await?;
        let looked_at = judged.len();
        judged.retain(is_sure);
        let suspects = judged.iter().map(Judged::key).collect();
        judged.retain(|found| before.contains(&found.key()));
        if judged.is_empty() {
            let elapsed_ms = begun.elapsed().as_millis();
            tracing::debug!(looked_at, elapsed_ms, "node looked at");
            return Ok(suspects);
        }
        let outcomes = self.repair(self.host(), &judged).await?;
        let removed = outcomes.iter().flatten().filter(|outcome| *outcome == REMOVED).count();
        let elapsed_ms = begun.elapsed().as_millis();
        tracing::info!(looked_at, left = judged.len(), removed, elapsed_ms, "node tidied");
        Ok(suspects)
    }
}

fn is_sure(found: &Judged) -> bool {
    let object = &found.object;
    let is_sure = match (&object.tie, &object.grip) {
        // Namespaces and sockets, which go with something else.
        (_, Grip::None) => false,
        (Tie::Id(_), _) | (Tie::Name, Grip::Stored(_) | Grip::Forward(_)) => object.kind != Kind::Descriptor,
        (Tie::Agent | Tie::IfKnown(_) | Tie::Name | Tie::Unreadable(_), _) => false,
    };
    is_sure && found.standing == Standing::Left
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Object;
    use super::*;

    #[test]
    fn only_what_is_left_for_sure_is_taken_away() {
        let check = |kind, tie, grip, standing, expected| {
            let object = Object { kind, name: "x".into(), tie, grip };
            let found = Judged { object, standing, owner: None };
            assert_eq!(is_sure(&found), expected, "{found:?}");
        };
        let (id, path) = (|| Tie::Id("a".repeat(64)), || Grip::Path(PathBuf::from("/x")));
        check(Kind::File, id(), path(), Standing::Left, true);
        check(Kind::File, id(), path(), Standing::Owned, false);
        check(Kind::File, id(), path(), Standing::Unreadable, false);
        check(Kind::Lease, id(), Grip::Lease("a".into()), Standing::Left, true);
        check(Kind::Layer, Tie::Name, Grip::Stored(PathBuf::from("/x")), Standing::Left, true);
        check(Kind::Route, Tie::Name, Grip::Subnet("10.0.0.0/8".parse().unwrap()), Standing::Left, false);
        check(Kind::Descriptor, id(), Grip::None, Standing::Left, false);
        check(Kind::Namespace, id(), Grip::None, Standing::Left, false);
    }
}
