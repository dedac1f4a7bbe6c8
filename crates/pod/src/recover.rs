//! What an agent finds when it starts: pods on record, their monitors, and things without an owner.
//!
//! Each pod on record is matched with its monitor, all at the same time. A monitor that answers tells everything that
//! happened meanwhile; where nobody listens, the pod is dead (killed, or the machine was started anew); one that hangs
//! is waited for while the agent serves (`contact`, `monitor_is_gone`). A pod that was only intended when the last agent
//! died is taken down; a container that was, by its pod's driver once the agent serves, since that may take time. Then
//! whatever carries our names in kernel and on disk, but belongs to no pod on record, is removed (`inventory`). A record
//! that can't be read is set aside, and what it may name is left as it is (`doubt`).

use std::sync::Arc;

use berth_fault::point;
use berth_monitor::id::ContainerId;
use berth_monitor::protocol::ContainerReport;
use berth_net::{Forward, Inherited, ServedSubnets};
use berth_store::{Loaded, Quarantined, Ruin, Store, with_causes};
use ipnet::IpNet;
use tokio::task::JoinSet;

use crate::doubt::{self, Doubt};
use crate::driver::{Driver, passing};
use crate::error::Result;
use crate::host::Host;
use crate::lifecycle::container::events_of;
use crate::pins::pin_again;
use crate::record::{ContainerRecord, NetworkRecord, SandboxPhase, SandboxRecord};
use crate::registry::spawn_driver;
use crate::workload::Workload;

/// What an earlier agent has recorded: read before the network is opened, which must not take anything from running
/// pods.
#[derive(Debug)]
pub struct Records {
    sandboxes: Vec<SandboxRecord>,
    containers: Vec<ContainerRecord>,
    subnets: ServedSubnets,
    doubts: Vec<Doubt>,
}

impl Records {
    /// Reads them all; those that are not understood are set aside.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn read(store: &Store) -> Result<Self> {
        if let Some(Ruin { path, reason, salvaged }) = store.ruin() {
            let path = path.display();
            tracing::error!(%path, reason, salvaged, "database ruined; it is set aside, and a new one begun");
        }
        let mut networks = loaded(store.load::<NetworkRecord>().await?);
        Ok(Self {
            sandboxes: loaded(store.load::<SandboxRecord>().await?),
            containers: loaded(store.load::<ContainerRecord>().await?),
            subnets: networks.pop().map(|record| record.subnets).unwrap_or_default(),
            // After all others: these may have been set aside just now.
            doubts: store.set_aside().await?.iter().filter_map(Doubt::of_row).collect(),
        })
    }

    /// What running pods have of the network, and the pod CIDR that was given.
    pub fn network(&self) -> Inherited {
        let ServedSubnets { current, mut retired } = self.subnets.clone();
        let leased = |subnet: &IpNet| {
            let of_pods = self.sandboxes.iter().flat_map(|pod| pod.addresses.iter());
            let in_doubt = self.doubts.iter().flat_map(|doubt| doubt.addresses().iter().collect::<Vec<_>>());
            of_pods.chain(in_doubt).any(|address| subnet.contains(&address))
        };
        retired.retain(leased);
        let ready = self.sandboxes.iter().filter(|pod| pod.phase == SandboxPhase::Ready);
        let forwards = ready.filter_map(|pod| {
            let forwards = Forward::all(&pod.spec.ports, &pod.addresses).ok()?;
            (!forwards.is_empty()).then(|| (pod.id.to_string(), forwards))
        });
        let in_doubt = self.doubts.iter().map(|doubt| (doubt.id.clone(), doubt.forwards()));
        let forwards = forwards.chain(in_doubt.filter(|(_, forwards)| !forwards.is_empty()));
        Inherited { pod_cidr: current, retired, forwards: forwards.collect() }
    }
}

/// Brings every pod on record up to date; published when this returns.
pub(crate) async fn find_pods(host: &Arc<Host>, records: Records) -> Result<Vec<Driver>> {
    let Records { sandboxes, mut containers, doubts, .. } = records;
    let mut recovering = JoinSet::new();
    for record in sandboxes {
        let of_pod = containers.extract_if(.., |container| container.pod == record.id).collect();
        recovering.spawn(recover_pod(host.clone(), record, of_pod));
    }
    let drivers = recovering.join_all().await;
    // Pods that are known come first.
    doubt::reserve(host, &doubts);
    for orphan in containers {
        if doubts.iter().any(|doubt| doubt.may_be(orphan.pod.as_str())) {
            pin_again(&host.images, &orphan);
            continue;
        }
        tracing::warn!(container.id = %orphan.id, "container without a pod on record; it is forgotten");
        host.commit(berth_store::Change::new().delete::<ContainerRecord>(orphan.id.to_string())).await?;
    }
    Ok(drivers.into_iter().flatten().collect())
}

fn loaded<R>(Loaded { records, quarantined }: Loaded<R>) -> Vec<R> {
    for Quarantined { table, key, reason, .. } in quarantined {
        tracing::error!(table, key, reason, "record not understood; it is set aside");
    }
    records
}

async fn recover_pod(
    host: Arc<Host>,
    record: SandboxRecord,
    containers: Vec<ContainerRecord>,
) -> Option<Driver> {
    let mut driver = Driver::new(host.clone(), record.id, Arc::new(record.spec));
    (driver.created_at_ns, driver.addresses) = (record.created_at_ns, record.addresses);
    if let Some(resources) = record.resources {
        driver.resources = resources;
    }
    if let Err(error) = host.leases().reserve(driver.id.as_str(), &driver.addresses) {
        tracing::warn!(pod.id = %driver.id, error = %with_causes(&error), "addresses on record can't be leased");
    }
    if record.phase == SandboxPhase::Ready
        && let Err(error) = host.ports().claim(driver.id.as_str(), &driver.spec.ports)
    {
        tracing::warn!(pod.id = %driver.id, error = %with_causes(&error), "host ports on record can't be claimed");
    }
    for record in containers {
        driver.recover_container(record).await;
    }
    driver.phase = record.phase;
    driver.monitor_is_gone().await;
    if record.phase == SandboxPhase::Making {
        take_down(driver).await;
        return None;
    }
    driver.go_on_moving().await;
    driver.save().await;
    tracing::info!(pod.id = %driver.id, ready = driver.phase == SandboxPhase::Ready, "pod found again");
    Some(driver)
}

/// Takes a pod down that is on record and has no driver, as one that was only intended.
pub(crate) async fn take_down_record(
    host: Arc<Host>,
    record: SandboxRecord,
    containers: Vec<ContainerRecord>,
) {
    recover_pod(host, SandboxRecord { phase: SandboxPhase::Making, ..record }, containers).await;
}

async fn take_down(mut driver: Driver) {
    let torn = passing(point!("take down what was intended"), driver.tear_down_with_containers()).await;
    if let Err(error) = torn {
        tracing::error!(pod.id = %driver.id, error = %with_causes(&error), "half-made pod stays for now");
        driver.host.departures.get_stuck(&driver.id);
        spawn_driver(&driver.id.clone(), driver.finish_tear_down());
    }
}

impl Driver {
    /// Takes a container over from its record.
    async fn recover_container(&mut self, record: ContainerRecord) {
        let id = record.id.clone();
        let Ok(cgroup) = self.cgroups().and_then(|cgroups| Ok(cgroups.base.join(id.as_str())?)) else {
            return;
        };
        pin_again(&self.host.images, &record);
        self.containers.insert(id, Box::new(Workload::new(record, cgroup, None)));
    }

    /// Brings the containers up to date with what their monitor says of them. One of which it knows nothing has been
    /// lost; one that was only intended is [`Driver::finish_half_made`]'s.
    pub(crate) async fn take_reports(&mut self, reports: &[ContainerReport]) {
        let ids: Vec<ContainerId> = self.containers.keys().cloned().collect();
        for id in ids {
            let Some(workload) = self.containers.get_mut(&id).filter(|workload| workload.is_alive()) else {
                continue;
            };
            let Some(report) = reports.iter().find(|report| report.container == id) else {
                self.lose_container(&id).await;
                continue;
            };
            workload.pid = Some(report.pid);
            for event in events_of(report) {
                self.take_in(&id, event).await;
            }
        }
    }
}
