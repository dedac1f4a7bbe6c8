//! What all pods of a node share: stores, network, cgroups, directories, and the published view.
//!
//! No lock here is held across an await or a system call that can hang.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use berth_cgroup::{CgroupPath, Cgroups, Driver, Layout};
use berth_container::spec::ProfileSpec;
use berth_image::ImageStore;
use berth_monitor::id::{ContainerId, PodId};
use berth_net::{AddressPool, Network, PortClaims};
use berth_store::{Change, Durability, Store};

use crate::claims::Claims;
use crate::confinement::Confinement;
use crate::departures::Departures;
use crate::devices::DeviceSettings;
use crate::error::{Error, Result};
use crate::events::EventFeed;
use crate::foreign::ForeignHandler;
use crate::id_maps;
use crate::layers::Layers;
use crate::lookout::Lookout;
use crate::meters::Meters;
use crate::spares::Spares;
use crate::view::{PodView, Snapshot};
use crate::zygote::Zygote;

/// The longest that one step of a create or a stop may take: below the two minutes that a kubelet waits, so that it
/// hears which step it was.
pub(crate) const STAGE_LIMIT: Duration = berth_fault::limit(Duration::from_secs(60));

/// Where pods live on this node.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Durable state; containers' writable layers lie below it.
    pub root: PathBuf,
    /// Volatile state; sockets and small files of each pod lie below it.
    pub state: PathBuf,
    /// Parent of the pods that name no cgroup parent of their own.
    pub cgroup_root: CgroupPath,
    /// Who makes the parents of those that do.
    pub cgroup_driver: Driver,
    /// By their names: runtime handlers that are other runtimes.
    pub handlers: BTreeMap<String, ForeignHandler>,
    /// The program that becomes a zygote when its first argument says so.
    pub zygote_program: PathBuf,
    /// Whether containers get no directories of their own for what their images call volumes.
    pub ignore_image_volumes: bool,
    /// How devices are given out.
    pub devices: DeviceSettings,
    /// Longest text of one log record, in bytes; a longer line becomes several.
    pub log_line_bytes: usize,
    /// Most output of an exec session kept for each stream; what comes after is dropped (CRI: 16 MiB).
    pub exec_output_bytes: usize,
    /// How many sandboxes wait for pods that are asked for next.
    pub spare_sandboxes: usize,
    /// The system call filter of containers whose request says nothing of it.
    pub unset_seccomp: ProfileSpec,
}

/// The node, as drivers use it.
#[derive(Debug)]
pub struct Host {
    pub(crate) settings: HostSettings,
    pub(crate) store: Store,
    pub(crate) images: ImageStore,
    pub(crate) network: Network,
    pub(crate) cgroups: Cgroups,
    pub(crate) zygote: Zygote,
    /// The capabilities of this process, which no container can exceed.
    pub(crate) capabilities: u64,
    /// The lowest score for the out-of-memory killer that this process can give; `None` for any.
    pub(crate) least_oom_score: Option<i32>,
    pub(crate) confinement: Confinement,
    /// Whether pods can have user namespaces.
    pub(crate) maps_ids: bool,
    pub(crate) events: EventFeed,
    pub(crate) meters: Meters,
    pub(crate) layers: Layers,
    /// Held as long as this agent lives.
    _claims: Claims,
    leases: Mutex<AddressPool>,
    ports: Mutex<PortClaims>,
    pub(crate) departures: Departures,
    pub(crate) spares: Spares,
    pub(crate) lookout: Lookout,
    published: Arc<ArcSwap<Snapshot>>,
}

impl Host {
    /// Finds the cgroups and makes the directories; `network` is open, and its names are claimed. Blocks on small files
    /// only.
    ///
    /// # Errors
    /// No cgroup hierarchy, or a directory can't be made.
    pub fn new(
        settings: HostSettings,
        claims: Claims,
        store: Store,
        images: ImageStore,
        network: Network,
    ) -> Result<Self> {
        let cgroups = Cgroups::detect()?;
        if !cgroups.controls_devices() {
            tracing::warn!("devices can't be controlled here: containers go without CAP_MKNOD");
        }
        let (state, root) = (&settings.state, &settings.root);
        for directory in [state.join("pods"), root.join("pods"), root.join("containers")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(Error::file("create directory", directory))?;
        }
        let published = Arc::<ArcSwap<Snapshot>>::default();
        Ok(Self {
            leases: Mutex::new(AddressPool::new(&network.subnets())),
            ports: Mutex::default(),
            departures: Departures::default(),
            spares: Spares::new(settings.spare_sandboxes),
            lookout: Lookout::default(),
            zygote: Zygote::new(settings.zygote_program.clone()),
            capabilities: own_capabilities(),
            least_oom_score: least_oom_score(),
            confinement: Confinement::detect(settings.unset_seccomp.clone()),
            maps_ids: id_maps::are_supported(&settings.root),
            events: EventFeed::new(published.clone()),
            meters: Meters::new(cgroups.clone()),
            layers: Layers::default(),
            _claims: claims,
            published,
            settings,
            store,
            images,
            network,
            cgroups,
        })
    }

    /// A pod's directory in the volatile state.
    pub(crate) fn pod_directory(&self, pod: &PodId) -> PathBuf {
        self.settings.state.join("pods").join(pod.as_str())
    }

    /// A pod's directory in the durable state, for the files that its containers share: they can write to them, and
    /// must not be able to fill the memory that the volatile state takes.
    pub(crate) fn pod_files(&self, pod: &PodId) -> PathBuf {
        self.settings.root.join("pods").join(pod.as_str())
    }

    /// A container's directory in the durable state.
    pub(crate) fn container_directory(&self, container: &ContainerId) -> PathBuf {
        self.containers_directory().join(container.as_str())
    }

    /// The parent of all containers' directories.
    pub(crate) fn containers_directory(&self) -> PathBuf {
        self.settings.root.join("containers")
    }

    /// Whether all controllers are in one cgroup v2 hierarchy.
    pub(crate) fn is_unified(&self) -> bool {
        self.cgroups.layout() == Layout::Unified
    }

    /// The cgroup of a pod that names no parent, and of every sandbox that has no pod yet.
    pub(crate) fn own_cgroup(&self, pod: &PodId) -> Result<CgroupPath> {
        Ok(self.settings.cgroup_root.join(pod.as_str())?)
    }

    /// The address pool; held for a few instructions only.
    pub(crate) fn leases(&self) -> MutexGuard<'_, AddressPool> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which pod has which ports of the host; held for a few instructions only.
    pub(crate) fn ports(&self) -> MutexGuard<'_, PortClaims> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pods at this moment.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Shows `view` to all readers, in place of that pod's last.
    pub(crate) fn publish(&self, view: Arc<PodView>) {
        self.meters.forget_ended(&view);
        self.change_snapshot(|pods| {
            pods.insert(view.id.clone(), view.clone());
        });
    }

    /// Takes a pod out of what readers see.
    pub(crate) fn unpublish(&self, pod: &PodId) {
        let last = self.snapshot().pods.get(pod).cloned();
        self.change_snapshot(|pods| {
            pods.remove(pod);
        });
        if let Some(last) = last {
            self.meters.forget_pod(&last, &self.snapshot());
        }
    }

    fn change_snapshot(&self, change: impl Fn(&mut BTreeMap<PodId, Arc<PodView>>)) {
        self.published.rcu(|current| {
            let mut next = Snapshot::clone(current);
            change(&mut next.pods);
            next
        });
    }

    /// Writes a change of running state: it survives the death of any process, and needs no disk flush.
    pub(crate) async fn commit(&self, change: Change) -> Result<()> {
        Ok(self.store.commit(change, Durability::Process).await?)
    }

    /// The same, on the caller's thread, which blocks.
    pub(crate) fn commit_now(&self, change: Change) -> Result<()> {
        Ok(self.store.commit_now(change, Durability::Process)?)
    }
}

/// Runs blocking work that belongs to one pod on a thread for such.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Abandoned)
}

/// Scores below one's own take CAP_SYS_RESOURCE. Source: proc_pid_oom_score_adj(5).
fn least_oom_score() -> Option<i32> {
    const SYS_RESOURCE: u64 = 1 << 24;
    let own = || std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok();
    if own_capabilities() & SYS_RESOURCE == 0 { own() } else { None }
}

/// `CapEff` of this process. Source: proc_pid_status(5).
fn own_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}
