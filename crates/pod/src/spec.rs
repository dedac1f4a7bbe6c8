//! What a client asked a pod to be, in types that cannot hold nonsense. Fields follow CRI `PodSandboxConfig`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_cgroup::{CgroupPath, Limits};
use berth_monitor::idmap::IdMaps;
use berth_monitor::plan::{Sharing, Sysctl};
use berth_net::PortMapping;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Who a pod is. Two requests with the same identity mean the same pod: a retry joins the work of the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodIdentity {
    /// Kubernetes' name.
    pub name: String,
    /// Kubernetes' namespace.
    pub namespace: String,
    /// Kubernetes' unique identifier.
    pub uid: String,
    /// How often it has been tried before.
    pub attempt: u32,
}

/// A pod as asked for. Source: CRI `PodSandboxConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Name, namespace, uid, attempt.
    pub identity: PodIdentity,
    /// At most 64 bytes; empty for the host's name in a pod with the host's network, else for the pod's name.
    pub hostname: String,
    /// The parent of every container's log path; `None` for no logs.
    pub log_directory: Option<PathBuf>,
    /// `None` for a copy of the host's `/etc/resolv.conf`.
    pub dns: Option<DnsSpec>,
    /// Returned as given.
    pub labels: BTreeMap<String, String>,
    /// Returned as given.
    pub annotations: BTreeMap<String, String>,
    /// A cgroup path or systemd slice; `None` for one below the agent's own root.
    #[serde(default, deserialize_with = "cgroup_parent")]
    pub cgroup_parent: Option<String>,
    /// Kernel parameters of the pod's own namespaces, already checked to be theirs.
    pub sysctls: Vec<Sysctl>,
    /// Ports of the host that lead to the pod; none with the host's network.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// The network namespace.
    pub net: Sharing,
    /// The IPC namespace.
    pub ipc: Sharing,
    /// What containers that ask for the pod's pid namespace get.
    pub pid: PodPid,
    /// The pod's own user namespace; `None` for the host's.
    #[serde(default)]
    pub user_namespace: Option<IdMaps>,
    /// Whether privileged containers may join.
    pub privileged: bool,
    /// What its containers need, and what it needs besides.
    #[serde(default)]
    pub resources: PodResources,
    /// The handler asked for, as given; empty or `OWN_HANDLER` for the built-in one.
    pub runtime_handler: String,
}

/// From a record: what can't be a cgroup's parent would leave a pod that nobody finds the processes of.
fn cgroup_parent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let parent = Option::<String>::deserialize(from)?;
    match parent.as_deref().map(CgroupPath::from_parent) {
        Some(Err(error)) => Err(D::Error::custom(format_args!("cgroup_parent: {error}"))),
        None | Some(Ok(_)) => Ok(parent),
    }
}

/// What a pod's containers are limited to together, and what the pod needs besides (a RuntimeClass' overhead).
///
/// Kept and shown, and not enforced: the limits of a pod are those of the cgroup that its kubelet makes. Sums over the
/// limited containers, as these are, would throttle the others. Source: CRI `LinuxPodSandboxConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodResources {
    /// CRI `overhead`.
    pub overhead: Limits,
    /// CRI `resources`.
    pub containers: Limits,
}

/// CRI `NamespaceMode` of a pod's pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPid {
    /// Each container its own.
    Container,
    /// One for all, with pause as its init.
    Pod,
    /// The host's.
    Node,
}

/// CRI `DNSConfig`, in resolv.conf(5)'s terms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSpec {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}
