//! What readers see: immutable values, swapped whole at each change.
//!
//! List, Status and every check of a state are answered from a [`Snapshot`] with no lock, no disk and no system call.
//! A snapshot is consistent: a pod and its containers are those of one moment.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use berth_cgroup::Limits;
use berth_container::spec::ContainerSpec;
use berth_image::ImageId;
use berth_monitor::id::{ContainerId, PodId};
use berth_monitor::protocol::ResolvedUser;
use berth_net::PodAddresses;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{PodResources, SandboxSpec};
use crate::timeline::Timeline;

/// All pods at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By id.
    pub pods: BTreeMap<PodId, Arc<PodView>>,
}

/// One pod.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Its id.
    pub id: PodId,
    /// What was asked for.
    pub spec: Arc<SandboxSpec>,
    /// Ready or not.
    pub state: PodState,
    /// Nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Its own addresses; empty with the host's network and after the stop.
    pub addresses: PodAddresses,
    /// Pause, while it lives: the process whose namespaces are the pod's.
    pub pause_pid: Option<i32>,
    /// The monitor, while it lives.
    pub monitor_pid: Option<i32>,
    /// The pod's cgroup, as a path in the hierarchy.
    pub cgroup: String,
    /// What it was last said to need.
    pub resources: PodResources,
    /// The host's side of its veth pair.
    pub host_interface: Option<String>,
    /// By id.
    pub containers: BTreeMap<ContainerId, Arc<ContainerView>>,
    /// What happened so far and how long it took.
    pub timeline: Timeline,
}

/// CRI `PodSandboxState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    /// Containers can be made.
    Ready,
    /// Stopped, or its pause or monitor has died.
    NotReady,
}

/// One container.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// What was asked for.
    pub spec: Arc<ContainerSpec>,
    /// The image that it runs.
    pub image: ImageId,
    /// What the images of its volumes were found to be, by the volume's path in the request.
    pub volume_images: BTreeMap<PathBuf, ImageId>,
    /// How far it has come.
    pub state: ContainerState,
    /// Nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Its first process in the host's pid namespace, while it lives.
    pub pid: Option<i32>,
    /// Who it runs as.
    pub user: ResolvedUser,
    /// The whole path of its log.
    pub log_path: Option<PathBuf>,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Its cgroup, as a path in the hierarchy.
    pub cgroup: String,
    /// What its cgroup is limited to.
    pub limits: Limits,
    /// The score that its workload began with.
    pub oom_score_adj: Option<i32>,
}

/// CRI `ContainerState`, with what is known in each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// It stands at its gate.
    Created,
    /// It runs.
    Running {
        /// Nanoseconds since the epoch.
        started_at_ns: i64,
    },
    /// It has ended.
    Exited(Ended),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Nanoseconds since the epoch; `None` if it never ran.
    pub started_at_ns: Option<i64>,
    /// Nanoseconds since the epoch.
    pub finished_at_ns: i64,
    /// The exit code; 255 where it could not be learned.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `Unknown`: what `kubectl describe` shows.
    pub reason: Reason,
    /// One line for people; may be empty.
    pub message: String,
    /// Bytes of log records that could not be written.
    #[serde(default)]
    pub lost_log_bytes: u64,
}

/// Why a container ended, in the words that users of containerd know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Exit code 0.
    Completed,
    /// Any other exit code.
    Error,
    /// The kernel killed it for want of memory.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// Its program could not be executed.
    StartError,
    /// Its monitor died with it, or the machine did.
    Unknown,
}

impl Reason {
    /// As CRI `ContainerStatus.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

impl Snapshot {
    /// The pod with this id, or with this beginning of one.
    ///
    /// # Errors
    /// `NoPod`, or `AmbiguousId` for a beginning of several.
    pub fn pod(&self, id: &str) -> Result<&Arc<PodView>> {
        only(beginning_with(&self.pods, id), id, no_pod)
    }

    /// The container with this id, or with this beginning of one.
    ///
    /// # Errors
    /// `NoContainer`, or `AmbiguousId` for a beginning of several.
    pub fn container(&self, id: &str) -> Result<&Arc<ContainerView>> {
        only(self.pods.values().flat_map(|pod| beginning_with(&pod.containers, id)), id, no_container)
    }

    /// All containers of all pods.
    pub fn containers(&self) -> impl Iterator<Item = &Arc<ContainerView>> {
        self.pods.values().flat_map(|pod| pod.containers.values())
    }
}

/// What has an id that begins like this. Nothing begins with an empty text: a client that sends none has forgotten it.
fn beginning_with<'a, K: Ord + Borrow<str>, V>(
    all: &'a BTreeMap<K, V>,
    id: &str,
) -> impl Iterator<Item = &'a V> {
    let from_there_on = all.range::<str, _>((Bound::Included(id), Bound::Unbounded));
    let begins = move |(key, _): &(&K, &V)| !id.is_empty() && (*key).borrow().starts_with(id);
    from_there_on.take_while(begins).map(|(_, value)| value)
}

/// The one that was found; a whole id is no other's beginning.
fn only<T>(mut found: impl Iterator<Item = T>, id: &str, none: fn(&str) -> Error) -> Result<T> {
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(none(id)),
        (Some(_), Some(_)) => Err(Error::AmbiguousId { id: id.to_owned() }),
    }
}

fn no_pod(id: &str) -> Error {
    Error::NoPod { id: id.to_owned() }
}

fn no_container(id: &str) -> Error {
    Error::NoContainer { id: id.to_owned() }
}
