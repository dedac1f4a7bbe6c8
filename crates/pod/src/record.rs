//! What the database keeps of pods and containers, apart from the live types, so that these may change freely.
//!
//! A record is written before the first kernel object of what it describes is made, in state `Making`, and deleted when
//! the last is gone: whatever a killed agent leaves behind has an owner on record. A pod's addresses are part of its
//! record, so a lease can't outlive it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_cgroup::Limits;
use berth_container::spec::ContainerSpec;
use berth_image::ImageId;
use berth_monitor::id::{ContainerId, PodId};
use berth_monitor::protocol::ResolvedUser;
use berth_net::{PodAddresses, ServedSubnets};
use berth_store::Record;
use serde::{Deserialize, Serialize};

use crate::lifecycle::container::Life;
use crate::spec::{PodResources, SandboxSpec};

/// A pod on record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: PodId,
    pub(crate) spec: SandboxSpec,
    pub(crate) phase: SandboxPhase,
    pub(crate) created_at_ns: i64,
    /// Leased as long as they stand here.
    pub(crate) addresses: PodAddresses,
    /// Since the last change of them; `None` in records that know of none.
    #[serde(default)]
    pub(crate) resources: Option<PodResources>,
}

/// How far a pod on record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SandboxPhase {
    /// Intent, or what is left after the removal: some of it may exist. An agent that finds this takes it down.
    Making,
    Ready,
    NotReady,
}

/// A container on record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    pub(crate) spec: ContainerSpec,
    pub(crate) image: ImageId,
    /// What the images of its volumes were found to be, by the volume's path in the request.
    #[serde(default)]
    pub(crate) volume_images: BTreeMap<PathBuf, ImageId>,
    #[serde(default)]
    pub(crate) state: Life,
    pub(crate) created_at_ns: i64,
    pub(crate) user: ResolvedUser,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) stop_signal: i32,
    /// What its cgroup is limited to now; `None` in records that know of no changes, where the spec says it.
    #[serde(default)]
    pub(crate) limits: Option<Limits>,
    /// What the workload began with; `None` in records that do not say.
    #[serde(default)]
    pub(crate) oom_score_adj: Option<i32>,
}

/// The pod CIDR that a client gave, and what it took the place of; absent if none was given. There is one record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub(crate) subnets: ServedSubnets,
}

impl Record for NetworkRecord {
    const TABLE: &'static str = "network";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        "pod-cidr".to_owned()
    }
}

impl Record for SandboxRecord {
    const TABLE: &'static str = "sandboxes";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.id.to_string()
    }
}

impl Record for ContainerRecord {
    const TABLE: &'static str = "containers";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.id.to_string()
    }
}
