//! The inventory of an agent that runs: what is on record, and what only the agent knows besides.
//!
//! A pod is known by its driver, which is there before anything of the pod and goes after it. So a record that has no
//! driver is left, too: of a pod whose taking down failed when the agent started, or written by somebody else.

use std::sync::Arc;

use berth_fault::point;

use super::look::object;
use super::owners::{Known, Rows};
use super::repair::{remove_from_host, repair, settled};
use super::{Cure, Grip, Item, Judged, Keeper, Kind, Owners, Places, Standing, inspect, judge, look};
use berth_store::with_causes;

use crate::driver::passing;
use crate::error::Result;
use crate::host::{Host, blocking};
use crate::recover::take_down_record;
use crate::registry::Pods;

impl Pods {
    /// Everything that this agent and its pods consist of; with a repair, what was done about what nobody owns.
    ///
    /// # Errors
    /// Something can't be looked at.
    pub async fn inventory(&self, cure: Cure) -> Result<Vec<Item>> {
        // A task of its own: a client that hangs up must not leave half a repair.
        let pods = self.clone();
        let work = async move {
            let host = pods.host().clone();
            let looking = &pods;
            let judged = inspect(|| looking.pass()).await?;
            let outcomes = match cure {
                Cure::Report => vec![None; judged.len()],
                Cure::Repair => {
                    let outcomes = pods.repair(&host, &judged).await?;
                    settled(&judged, outcomes, &looking.pass().await?)
                }
            };
            Ok(judged.iter().zip(outcomes).map(|(found, outcome)| found.item(outcome)).collect())
        };
        tokio::spawn(work).await.map_err(|_| crate::error::Error::Abandoned)?
    }

    /// Pods on record without a driver take the way down of all pods; what has no record is taken away thing by thing.
    async fn repair(&self, host: &Arc<Host>, judged: &[Judged]) -> Result<Vec<Option<String>>> {
        let is_left = |id: &str| {
            let is_its_row =
                |grip: &Grip| matches!(grip, Grip::Row(row) if row.table == "sandboxes" && row.key == id);
            judged.iter().any(|found| found.standing == Standing::Left && is_its_row(&found.object.grip))
        };
        let rows = Rows::read(&host.store).await?;
        for record in rows.sandboxes.into_iter().filter(|record| is_left(record.id.as_str())) {
            let of_pod = rows.containers.iter().filter(|container| container.pod == record.id);
            let of_pod = of_pod.cloned().collect();
            take_down_record(host.clone(), record, of_pod).await;
        }
        let outcomes = repair(&places(host), &Keeper::Agent(host.clone()), judged).await;
        for (found, outcome) in judged.iter().zip(&outcomes).filter(|(found, _)| found.is_suspect()) {
            let (kind, outcome) = (found.object.kind, outcome.as_deref());
            tracing::warn!(%kind, name = found.object.name, outcome, "found without an owner");
        }
        Ok(outcomes)
    }

    /// One look, judged.
    async fn pass(&self) -> Result<Vec<Judged>> {
        let host = self.host().clone();
        let places = places(&host);
        let looked = places.clone();
        let mut objects = blocking(move || look(&looked)).await??;
        for (owner, addresses) in host.leases().leases() {
            let name = format!("{addresses} of {owner}");
            objects.push(object(
                Kind::Lease,
                &name,
                super::Tie::Id(owner.to_owned()),
                Grip::Lease(owner.to_owned()),
            ));
        }
        // After the objects, as the module's documentation has it.
        let snapshot = self.snapshot();
        let known = Known {
            pods: self.known_ids(),
            containers: snapshot.containers().map(|container| container.id.to_string()).collect(),
            subnets: host.network.served().all(),
            stored: host.images.needs(),
        };
        let mut rows = Rows::read(&host.store).await?;
        objects.append(&mut rows.objects);
        blocking(move || judge(objects, &Owners::new(known, &rows, &places))).await
    }

    /// Removes what belongs to no pod, neither known nor on record, before anything new is made.
    pub(crate) async fn remove_orphans(&self) {
        match passing(point!("remove what has no owner"), self.try_remove_orphans()).await {
            Ok(()) => {}
            Err(error) => tracing::error!(error = with_causes(&error), "orphans not removed"),
        }
    }

    async fn try_remove_orphans(&self) -> Result<()> {
        let host = self.host();
        let places = places(host);
        let looked = places.clone();
        let objects = blocking(move || look(&looked)).await??;
        let rows = Rows::read(&host.store).await?;
        // A record whose pod could not be taken down keeps its things for the next try.
        let mut pods = self.known_ids();
        pods.extend(rows.sandboxes.iter().map(|record| record.id.to_string()));
        let known = Known { pods, ..Known::default() };
        blocking(move || {
            let owners = Owners::new(known, &rows, &places);
            let of_pods =
                |found: &Judged| found.standing == Standing::Left && found.object.kind <= Kind::File;
            let with_ids = |found: &Judged| matches!(found.object.tie, super::Tie::Id(_));
            for found in judge(objects, &owners).iter().filter(|found| of_pods(found) && with_ids(found)) {
                let removed = remove_from_host(&places, &found.object);
                let error = removed.as_ref().err().map(|error| with_causes(error));
                let (kind, name) = (found.object.kind, &found.object.name);
                tracing::warn!(%kind, name, removed = removed.is_ok(), error, "found without an owner");
            }
        })
        .await
    }
}

fn places(host: &Host) -> Places {
    Places {
        root: host.settings.root.clone(),
        state: host.settings.state.clone(),
        cgroup_root: host.settings.cgroup_root.clone(),
        cgroups: host.cgroups.clone(),
        survey: host.network.survey(),
        agent: i32::try_from(std::process::id()).ok(),
    }
}
