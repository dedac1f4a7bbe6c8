//! What pods and containers use: CPU, memory, disk, network.
//!
//! ```text
//!  Pods::container_usage ─▶ a thread for blocking work ─▶ meters (cgroup descriptors) ─▶ numbers with their time
//!  Pods::pod_usage       ─▶      one of a few           ├▶ the pod's netlink socket
//!  Pods::details         ─▶                             ├▶ layers (what the last walk found; never a walk)
//!                                                       └▶ processes (details only)
//! ```
//! Only what runs has usage: containers that are running, pods that are ready. Whatever goes away during a reading is
//! left out of the answer. A pod's CPU and memory are those of its own cgroup and no sum: they include pause and what
//! the kernel charges to the pod.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::{CgroupPath, Detail, Usage};
use berth_image::DiskUsage;
use berth_net::LinkUsage;
use berth_store::with_causes;
use rustix::fs::{major, minor, statvfs};
use tokio::time::timeout;

use crate::clock;
use crate::error::{Error, Result};
use crate::host::{Host, blocking};
use crate::lifecycle::container::{Answer, Request, answer};
use crate::registry::Pods;
use crate::view::{ContainerView, PodState, PodView, Snapshot};

pub use crate::layers::LayerUsage;
pub use crate::processes::ProcessUsage;
use crate::processes::look_at;

/// A reading takes milliseconds; what takes longer hangs.
const READING_LIMIT: Duration = Duration::from_secs(20);

/// What a running container uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// Whose usage it is.
    pub container: Arc<ContainerView>,
    /// When it was read, in nanoseconds since the epoch.
    pub at_ns: i64,
    /// CPU, memory, tasks and pressure.
    pub usage: Usage,
    /// Billionths of a core over the last while; `None` at the first reading.
    pub nano_cores: Option<u64>,
    /// Its writable layer, as of an earlier moment.
    pub layer: LayerUsage,
}

/// What a ready pod uses.
#[derive(Debug, Clone)]
pub struct PodUsage {
    /// Whose usage it is.
    pub pod: Arc<PodView>,
    /// When it was read, in nanoseconds since the epoch.
    pub at_ns: i64,
    /// CPU, memory, tasks and pressure of the pod's cgroup.
    pub usage: Usage,
    /// Billionths of a core over the last while; `None` at the first reading.
    pub nano_cores: Option<u64>,
    /// Its own interfaces; `None` for a pod with the host's network.
    pub links: Option<Vec<LinkUsage>>,
    /// Its running containers.
    pub containers: Vec<ContainerUsage>,
}

/// All that is known of a ready pod's usage.
#[derive(Debug, Clone)]
pub struct PodDetails {
    /// What is asked for all the time.
    pub usage: PodUsage,
    /// More about each of the running containers, in the same order.
    pub containers: Vec<ContainerDetails>,
}

/// All that is known of the usage of a node's pods.
#[derive(Debug, Clone, Default)]
pub struct NodeDetails {
    /// The ready pods.
    pub pods: Vec<PodDetails>,
    /// The filesystem with the writable layers.
    pub space: LayersSpace,
    /// The paths of the block devices that occur, by number; of those that have one.
    pub device_names: BTreeMap<(u32, u32), String>,
}

/// More about a running container.
#[derive(Debug, Clone, Default)]
pub struct ContainerDetails {
    /// From its cgroup.
    pub detail: Detail,
    /// From its processes.
    pub processes: ProcessUsage,
}

/// The filesystem that the writable layers are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayersSpace {
    /// The number of the device that it is on.
    pub device: (u32, u32),
    /// All of its bytes.
    pub bytes: u64,
    /// All of its inodes; 0 where there is no bound.
    pub inodes: u64,
    /// Those that are free.
    pub free_inodes: u64,
}

impl Pods {
    /// Reads what running containers use.
    ///
    /// # Errors
    /// The kernel does not answer in time.
    pub async fn container_usage(
        &self,
        wanted: impl Fn(&ContainerView) -> bool + Send + 'static,
    ) -> Result<Vec<ContainerUsage>> {
        self.read(move |host, snapshot, _| {
            let containers = snapshot.containers().filter(|container| wanted(container));
            containers.filter_map(|container| read_container(host, container)).collect()
        })
        .await
    }

    /// Reads what ready pods and their running containers use.
    ///
    /// # Errors
    /// The kernel does not answer in time.
    pub async fn pod_usage(
        &self,
        wanted: impl Fn(&PodView) -> bool + Send + 'static,
    ) -> Result<Vec<PodUsage>> {
        self.read(move |host, snapshot, pods| {
            let wanted = snapshot.pods.values().filter(|pod| wanted(pod));
            wanted.filter_map(|pod| read_pod(host, pods, pod)).collect()
        })
        .await
    }

    /// Reads all that is known of what ready pods and their running containers use.
    ///
    /// # Errors
    /// The kernel, or the filesystem with the writable layers, does not answer, or not in time.
    pub async fn details(&self) -> Result<NodeDetails> {
        self.read(move |host, snapshot, pods| {
            let usages = snapshot.pods.values().filter_map(|pod| read_pod(host, pods, pod));
            let details = |usage: PodUsage| {
                let containers = usage.containers.iter().map(|one| read_details(host, &one.container));
                PodDetails { containers: containers.collect(), usage }
            };
            let (pods, space): (Vec<_>, _) = (usages.map(details).collect(), read_space(host)?);
            let used = pods.iter().flat_map(|pod| &pod.containers).flat_map(|one| &one.detail.devices);
            let numbers = used.map(|device| (device.major, device.minor)).chain([space.device]);
            let numbers: BTreeSet<_> = numbers.collect();
            let names = numbers.into_iter().filter_map(|number| Some((number, device_name(number)?)));
            Ok(NodeDetails { device_names: names.collect(), pods, space })
        })
        .await?
    }

    /// The directory that all writable layers lie below.
    pub fn layers_directory(&self) -> PathBuf {
        self.host().containers_directory()
    }

    /// What all containers' directories take, as the last walks found it, with the time of the earliest of these.
    pub fn layers_usage(&self) -> LayerUsage {
        let host = self.host();
        let nothing = LayerUsage::new(clock::now_ns(), DiskUsage::default());
        let snapshot = host.snapshot();
        snapshot.containers().map(|container| host.layers.of(container)).fold(nothing, |sum, one| {
            LayerUsage {
                at_ns: sum.at_ns.min(one.at_ns),
                layer: sum.layer.and(one.layer).and(one.besides),
                besides: sum.besides,
            }
        })
    }

    /// Reads on a thread where blocking does no harm, at most a few at a time.
    async fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce(&Host, &Snapshot, &Pods) -> T + Send + 'static,
    ) -> Result<T> {
        let too_long = |_| Error::TooLong { limit: READING_LIMIT };
        let permit = timeout(READING_LIMIT, self.host().meters.readings.clone().acquire_owned());
        let permit = permit.await.map_err(too_long)?.map_err(|_| Error::Abandoned)?;
        let pods = self.clone();
        let read = blocking(move || {
            // A reading that hangs keeps its place.
            let _permit = permit;
            let host = pods.host();
            let answer = reading(host, &host.snapshot(), &pods);
            host.meters.keep_only(&host.snapshot());
            answer
        });
        timeout(READING_LIMIT, read).await.map_err(too_long)?
    }
}

fn read_container(host: &Host, container: &Arc<ContainerView>) -> Option<ContainerUsage> {
    if answer(Request::Stats, container.state.stage()) != Answer::Do {
        return None;
    }
    let (usage, nano_cores) = host.meters.of(&container.cgroup)?.usage();
    (!usage.is_empty()).then(|| ContainerUsage {
        container: container.clone(),
        at_ns: clock::now_ns(),
        usage,
        nano_cores,
        layer: host.layers.of(container),
    })
}

fn read_pod(host: &Host, pods: &Pods, pod: &Arc<PodView>) -> Option<PodUsage> {
    if pod.state != PodState::Ready {
        return None;
    }
    let (usage, nano_cores) = host.meters.of(&pod.cgroup)?.usage();
    let link = pods.link(&pod.id);
    let links = link.as_ref().and_then(|link| link.pod_links()).and_then(|links| {
        let usage = links.usage();
        usage
            .inspect_err(|error| {
                tracing::warn!(pod.id = %pod.id, error = %with_causes(error), "network statistics not read");
            })
            .ok()
    });
    let containers = pod.containers.values().filter_map(|container| read_container(host, container));
    let containers = containers.collect();
    (!usage.is_empty()).then(|| PodUsage {
        pod: pod.clone(),
        at_ns: clock::now_ns(),
        usage,
        nano_cores,
        links,
        containers,
    })
}

fn read_details(host: &Host, container: &ContainerView) -> ContainerDetails {
    let detail = host.meters.of(&container.cgroup).map(|metered| metered.detail()).unwrap_or_default();
    let path = CgroupPath::new(&container.cgroup).ok();
    let pids = path.and_then(|path| host.cgroups.open(&path).procs().ok()).unwrap_or_default();
    ContainerDetails { detail, processes: look_at(&pids, container.pid) }
}

fn read_space(host: &Host) -> Result<LayersSpace> {
    let directory = host.containers_directory();
    let failed = |error: std::io::Error| Error::file("look at filesystem of", &directory)(error);
    let device = std::fs::metadata(&directory).map_err(failed)?.dev();
    let space = statvfs(&directory).map_err(|errno| failed(errno.into()))?;
    Ok(LayersSpace {
        device: (major(device), minor(device)),
        bytes: space.f_blocks.saturating_mul(space.f_frsize),
        inodes: space.f_files,
        free_inodes: space.f_ffree,
    })
}

/// A block device's path, like `/dev/sda`.
fn device_name((major, minor): (u32, u32)) -> Option<String> {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    text.lines().find_map(|line| Some(format!("/dev/{}", line.strip_prefix("DEVNAME=")?)))
}
