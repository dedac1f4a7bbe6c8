//! The inventory of an agent that runs: what is on record, and what only the agent knows besides.
//!
//! A pod is known by its driver, which is there before anything of the pod and goes after it, one that waits for its pod
//! among the spares and one that has been removed among the departures. So a record that has no
//! driver is left, too: of a pod whose taking down failed when the agent started, or written by somebody else.

use std::path::PathBuf;
use std::sync::Arc;

use berth_fault::point;

use super::look::object;
use super::owners::{Known, Rows, unreadable_rows};
use super::repair::{remove_from_host, repair, settled};
use super::{Cure, Grip, Item, Judged, Keeper, Kind, Owners, Places, Standing, inspect, judge, look};
use berth_monitor::id::ContainerId;
use berth_monitor::protocol::Order as MonitorOrder;
use berth_store::{SetAside, with_causes};

use crate::doubt::{self, Doubt};
use crate::driver::passing;
use crate::error::{Error, Result};
use crate::host::{Host, blocking};
use crate::pins::unpin_images;
use crate::recover::take_down_record;
use crate::registry::Pods;
use crate::sandbox::KILL_ANSWER_LIMIT;

/// A status names so many of what can't be read.
const MAX_NAMED: usize = 3;

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
        tokio::spawn(work).await.map_err(|_| Error::Abandoned)?
    }

    /// Removes a pod or container whose record can't be read, with everything that belongs to it; absent means done.
    pub(crate) async fn remove_doubted(&self, id: &str) -> Result<()> {
        let rows = Rows::read(&self.host().store).await?;
        let Some(label) = rows.doubts.iter().find(|doubt| doubt.may_be(id)).map(Doubt::label) else {
            return Ok(());
        };
        let (pods, id) = (self.clone(), id.to_owned());
        let work = async move {
            let host = pods.host().clone();
            let mut judged = pods.pass().await?;
            judged.retain(|found| {
                found.standing == Standing::Unreadable && found.owner.as_ref() == Some(&label)
            });
            let outcomes = pods.repair(&host, &judged).await?;
            let outcomes = settled(&judged, outcomes, &pods.pass().await?);
            let kept = |(found, outcome): &(&Judged, Option<String>)| {
                let outcome = outcome.as_deref().filter(|outcome| *outcome != super::REMOVED)?;
                Some(format!("{} {}: {outcome}", found.object.kind, found.object.name))
            };
            match judged.iter().zip(outcomes).find_map(|outcome| kept(&outcome)) {
                Some(what) => Err(Error::Kept { id, what }),
                None => Ok(()),
            }
        };
        tokio::spawn(work).await.map_err(|_| Error::Abandoned)?
    }

    /// Whether every record could be read when this agent started, or which could not. It is asked again and again, so no
    /// record is read for it: what somebody has spoiled since is for [`Self::unreadable_records`].
    ///
    /// # Errors
    /// Those that could not.
    pub async fn check_records(&self) -> Result<()> {
        let ruins = self.ruins().await?;
        let rows = self.host().store.set_aside().await?;
        if rows.is_empty() && ruins.is_empty() {
            return Ok(());
        }
        let shown = |row: &SetAside| format!("{}/{}: {}", row.table, row.key, row.reason);
        let all = rows.iter().map(shown).chain(ruins.iter().map(|path| path.display().to_string()));
        let some = all.take(MAX_NAMED).collect::<Vec<_>>().join(", ");
        Err(Error::SetAside { rows: rows.len(), ruins: ruins.len(), some })
    }

    /// The rows that nobody understands now, each with the reason, and the databases of which that holds.
    ///
    /// # Errors
    /// The database can't be read.
    pub(crate) async fn unreadable_records(&self) -> Result<Vec<String>> {
        let mut unreadable = unreadable_rows(&self.host().store).await?;
        let ruins = self.ruins().await?.into_iter();
        unreadable.extend(ruins.map(|path| format!("{}: of a ruined database", path.display())));
        Ok(unreadable)
    }

    async fn ruins(&self) -> Result<Vec<PathBuf>> {
        let root = self.host().settings.root.clone();
        blocking(move || berth_store::ruins(&root)).await
    }

    /// Pods on record without a driver take the way down of all pods; what has no record is taken away thing by thing.
    pub(super) async fn repair(&self, host: &Arc<Host>, judged: &[Judged]) -> Result<Vec<Option<String>>> {
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
        for doubt in
            rows.doubts.iter().filter(|doubt| judged.iter().any(|found| found.is_row_in_doubt(&doubt.key)))
        {
            self.have_forgotten(doubt, judged).await;
        }
        let outcomes = repair(&places(host), &Keeper::Agent(host.clone()), judged).await;
        let is_gone = |key: &str| judged.iter().any(|found| found.is_row_in_doubt(key));
        rows.doubts.iter().filter(|doubt| is_gone(&doubt.key)).for_each(|doubt| doubt::release(host, doubt));
        for container in rows.containers.iter().filter(|container| is_gone(container.id.as_str())) {
            unpin_images(&host.images, &container.spec, &container.id);
        }
        for (found, outcome) in judged.iter().zip(&outcomes).filter(|(found, _)| found.is_suspect()) {
            let (kind, outcome) = (found.object.kind, outcome.as_deref());
            tracing::warn!(%kind, name = found.object.name, outcome, "found without an owner");
        }
        Ok(outcomes)
    }

    /// Has the monitor of a pod that is known kill and forget a container in doubt: otherwise it records the end of it, for
    /// nobody. One that does not answer changes nothing.
    async fn have_forgotten(&self, doubt: &Doubt, judged: &[Judged]) {
        let Ok(container) = doubt.id.parse::<ContainerId>() else { return };
        let of_it =
            judged.iter().map(|found| found.object.name.as_str()).filter(|name| name.contains(&doubt.id));
        let ids = of_it.flat_map(|name| name.split('/')).chain(doubt.pod()).filter(|id| *id != doubt.id);
        let Some(link) = ids.filter_map(|id| id.parse().ok()).find_map(|pod| self.link(&pod)) else {
            return;
        };
        for order in [
            MonitorOrder::Kill { container: container.clone() },
            MonitorOrder::Forget { container: container.clone() },
        ] {
            let _ = link.ask_within(KILL_ANSWER_LIMIT, order, &[]).await;
        }
    }

    /// One look, judged.
    pub(super) async fn pass(&self) -> Result<Vec<Judged>> {
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
        blocking(move || {
            objects.extend(rows.doubted_cgroups(&places));
            judge(objects, &Owners::new(known, &rows, &places))
        })
        .await
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
