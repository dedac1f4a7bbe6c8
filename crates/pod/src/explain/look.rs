//! The facts: everything that a judgement needs, as it is now. Each question has a deadline, and they are asked at the
//! same time. The kernel is asked on threads for blocking work; no volume is touched.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use berth_cgroup::{CgroupPath, Detail, Usage};
use berth_container::spec::VolumeSource;
use berth_image::{FailedPull, ImageStore};
use berth_monitor::id::{ContainerId, PodId};
use berth_monitor::plan::Sharing;
use berth_monitor::protocol::{Answer, Order};
use berth_net::PortState;
use berth_store::with_causes;
use futures_util::future::join_all;
use ipnet::IpNet;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use super::Checked;
use crate::error::{Error, Result};
use crate::host::{Host, blocking};
use crate::link::Link;
use crate::registry::Pods;
use crate::spec::SandboxSpec;
use crate::steps::UnderWay;
use crate::view::{ContainerState, ContainerView, PodState, PodView, Snapshot};
use crate::waiting::{Look, look_at, served_by_others, waiting};

/// How long an answer may take that takes a millisecond.
const LIMIT: Duration = Duration::from_secs(1);

/// How long looking at all pods may take, of which one takes a millisecond, too.
const PODS_LIMIT: Duration = Duration::from_secs(2);

/// What waits in the kernel at one moment may wait for a disk; after this time it is looked at again.
const SETTLE: Duration = Duration::from_millis(200);

/// A pod that something is known of.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) id: PodId,
    pub(super) spec: Arc<SandboxSpec>,
    /// `None` while it is being made.
    pub(super) view: Option<Arc<PodView>>,
    pub(super) under_way: Option<Arc<UnderWay>>,
}

/// What all pods depend on.
#[derive(Debug)]
pub(super) struct NodeFacts {
    pub(super) network: Checked,
    pub(super) storage: Checked,
    pub(super) exhausted: Option<IpNet>,
    /// How many pods have addresses.
    pub(super) leases: usize,
    /// Records that nobody understands, each with the reason.
    pub(super) unreadable: Checked<Vec<String>>,
    /// Pods whose create failed and that could not be taken down yet.
    pub(super) stuck: Vec<String>,
    pub(super) failed_pulls: Vec<FailedPull>,
}

/// One pod.
#[derive(Debug, Clone)]
pub(super) struct PodFacts {
    pub(super) known: Known,
    /// How long was waited for what the kernel tells of it, where that was not long enough.
    pub(super) overdue: Option<Duration>,
    pub(super) monitor: Option<MonitorFacts>,
    /// Why its monitor can't be asked, where there is one.
    pub(super) unreachable: Option<String>,
    pub(super) network: NetworkFacts,
    /// Of the pod's cgroup, which is the kubelet's where it has named one.
    pub(super) usage: Usage,
    pub(super) detail: Detail,
    /// Processes of no container that wait in the kernel: those by which containers are made.
    pub(super) waiting: Vec<Look>,
    pub(super) containers: Vec<ContainerFacts>,
}

/// A pod's monitor.
#[derive(Debug, Clone)]
pub(super) struct MonitorFacts {
    pub(super) look: Look,
    pub(super) answers: bool,
}

/// A pod's own network, as far as it was found to be wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct NetworkFacts {
    /// `None` for a pod without one, and where the kernel did not tell.
    pub(super) port: Option<Port>,
    /// Addresses that `eth0` should have.
    pub(super) missing: Vec<String>,
    /// The bridge that it should be in.
    pub(super) bridge: String,
}

/// The host's end of a pod's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Is(PortState),
    Gone,
}

/// One container.
#[derive(Debug, Clone)]
pub(super) struct ContainerFacts {
    pub(super) view: Arc<ContainerView>,
    /// Whether no later one has taken its place.
    pub(super) is_last: bool,
    pub(super) first: Option<Look>,
    pub(super) waiting: Vec<Look>,
    pub(super) usage: Usage,
    pub(super) detail: Detail,
    /// Bytes that its log has lost, and why.
    pub(super) lost_log: (u64, Option<String>),
    /// Its volumes on filesystems that somebody else serves.
    pub(super) volumes: Vec<String>,
}

/// Every pod that is published, or has a driver.
pub(super) fn known(
    snapshot: &Snapshot,
    at_work: Vec<(PodId, Arc<SandboxSpec>, Option<Arc<UnderWay>>)>,
) -> Vec<Known> {
    let with_view = |(id, spec, under_way)| {
        let view = snapshot.pods.get(&id).cloned();
        Known { id, spec, view, under_way }
    };
    let mut known: Vec<_> = at_work.into_iter().map(with_view).collect();
    known.sort_by(|one, other| one.id.cmp(&other.id));
    known
}

impl Known {
    /// Kubernetes' namespace and name.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.spec.identity.namespace, self.spec.identity.name)
    }

    /// Whether this, or one of its containers, has this name, id, or beginning of an id.
    pub(super) fn is_meant_by(&self, text: &str) -> bool {
        let begins = |id: &str| !text.is_empty() && id.starts_with(text);
        let mut containers = self.view.iter().flat_map(|view| view.containers.values());
        begins(self.id.as_str())
            || self.spec.identity.name == text
            || self.name() == text
            || containers.any(|container| begins(container.id.as_str()))
    }
}

/// Looks at what all pods depend on.
pub(super) async fn node(pods: &Pods) -> NodeFacts {
    let host = pods.host();
    let network = {
        let host = host.clone();
        async move { Ok(blocking(move || host.network.check()).await??) }
    };
    let (network, storage, unreadable) = tokio::join!(
        checked("look at the network", network),
        checked("write to the database", pods.check_storage()),
        checked("read the records", pods.unreadable_records()),
    );
    let (exhausted, leases) = {
        let pool = host.leases();
        (pool.exhausted(), pool.leases().count())
    };
    NodeFacts {
        network,
        storage,
        exhausted,
        leases,
        unreadable,
        stuck: host.departures.stuck().iter().map(ToString::to_string).collect(),
        failed_pulls: missed(host.images.failed_pulls(), &host.images, &pods.snapshot()),
    }
}

/// Those pulls that somebody may still miss: no container has been made since of the image with that name.
fn missed(failed: Vec<FailedPull>, images: &ImageStore, snapshot: &Snapshot) -> Vec<FailedPull> {
    let is_used_since = |pull: &FailedPull| {
        let Ok(Some(image)) = images.find(&pull.reference) else { return false };
        let failed_at = pull.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut containers = snapshot.pods.values().flat_map(|pod| pod.containers.values());
        containers.any(|one| {
            one.image == image.id && u128::try_from(one.created_at_ns).is_ok_and(|made| made > failed_at)
        })
    };
    failed.into_iter().filter(|pull| !is_used_since(pull)).collect()
}

async fn checked<T>(what: &str, check: impl Future<Output = Result<T>>) -> Checked<T> {
    match timeout(LIMIT, check).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err((error.kind(), with_causes(&error))),
        Err(_) => {
            let error = Error::TooLong { limit: LIMIT };
            Err((error.kind(), format!("{what}: {error}")))
        }
    }
}

/// Looks at pods and their containers.
pub(super) async fn pods(pods: &Pods, known: Vec<Known>) -> Vec<PodFacts> {
    let host = pods.host();
    let monitors = join_all(known.iter().map(|pod| ask_monitor(pods, pod)));
    let ports = async {
        let host = host.clone();
        let ports = timeout(LIMIT, blocking(move || host.network.ports_of_pods())).await;
        let ports = ports.ok().and_then(Result::ok).and_then(|ports| ports.ok());
        ports.map(|ports| ports.into_iter().map(|(link, state)| (link.pod_id, state)).collect())
    };
    let (monitors, ports) = tokio::join!(monitors, ports);
    let unasked = known.into_iter().zip(monitors).map(|(pod, asked)| {
        let (link, blockage) = (pods.link(&pod.id), pods.blockage(&pod.id));
        (unseen(pod, asked, blockage), link)
    });
    let (mut unseen, links): (Vec<_>, Vec<_>) = unasked.unzip();
    let (of, begun) = (host.clone(), unseen.clone().into_iter().zip(links).collect());
    let look = move |(pod, link): (PodFacts, Option<Link>)| see_pod(&of, pod, link.as_ref(), ports.as_ref());
    let mut found = each_within(PODS_LIMIT, begun, look).await;
    // What there is to say of the others without the kernel is said.
    found.extend(unseen.drain(found.len()..));
    confirm_waiting(&mut found).await;
    found
}

/// What a thread for blocking work finds out of one after the other, until the time is up; those that are missing are the
/// last ones. The thread ends with the one that it is at.
async fn each_within<T: Send + 'static, R: Send + 'static>(
    limit: Duration,
    all: Vec<T>,
    look: impl Fn(T) -> R + Send + 'static,
) -> Vec<R> {
    let (tell, mut told) = unbounded_channel();
    let looking = blocking(move || {
        for one in all {
            // Nobody hears when the time is up.
            if tell.send(look(one)).is_err() {
                break;
            }
        }
    });
    let mut found = Vec::new();
    let hearing = async {
        while let Some(one) = told.recv().await {
            found.push(one);
        }
    };
    let _ = timeout(limit, async { tokio::join!(looking, hearing) }).await;
    found
}

/// What a monitor answers to: whether it does, and by containers, what their logs have lost.
type Asked = (Option<MonitorFacts>, HashMap<ContainerId, (u64, Option<String>)>);

async fn ask_monitor(pods: &Pods, pod: &Known) -> Asked {
    let Some(view) = &pod.view else { return Asked::default() };
    let Some((link, pid)) = pods.link(&pod.id).zip(view.monitor_pid) else { return Asked::default() };
    let running = view.containers.values().filter(|container| is_running(container));
    let asked = join_all(running.map(|container| ask_for_log(&link, &container.id))).await;
    // Any answer will do, also that of a monitor that does not understand.
    let answers = match asked.is_empty() {
        true => {
            let nothing = Order::Detach { session: u64::MAX };
            !matches!(link.ask_within(LIMIT, nothing, &[]).await, Err(ref error) if is_silence(error))
        }
        false => asked.iter().any(Option::is_some),
    };
    let look = look_at(u32::try_from(pid).unwrap_or_default());
    (Some(MonitorFacts { look, answers }), asked.into_iter().flatten().collect())
}

async fn ask_for_log(link: &Link, id: &ContainerId) -> Option<(ContainerId, (u64, Option<String>))> {
    let order = Order::CheckLog { container: id.clone() };
    match link.ask_within(LIMIT, order, &[]).await {
        Ok(Answer::Log { dropped_bytes, error }) => Some((id.clone(), (dropped_bytes, error))),
        Err(error) if is_silence(&error) => None,
        Ok(_) | Err(_) => Some((id.clone(), (0, None))),
    }
}

fn is_silence(error: &Error) -> bool {
    matches!(error, Error::TooLong { .. } | Error::SilentMonitor { .. } | Error::MonitorGone)
}

fn is_running(container: &ContainerView) -> bool {
    matches!(container.state, ContainerState::Running { .. })
}

/// A pod of which the kernel has told nothing yet.
fn unseen(known: Known, (monitor, mut logs): Asked, unreachable: Option<String>) -> PodFacts {
    let views: Vec<_> = known.view.iter().flat_map(|view| view.containers.values().cloned()).collect();
    let last = |container: &ContainerView| {
        let same = views.iter().filter(|other| other.spec.name == container.spec.name);
        same.max_by_key(|other| (other.created_at_ns, other.spec.attempt)).map(|other| other.id.clone())
    };
    let of_container = |view: &Arc<ContainerView>| ContainerFacts {
        view: view.clone(),
        is_last: last(view).as_ref() == Some(&view.id),
        first: None,
        waiting: Vec::new(),
        usage: Usage::default(),
        detail: Detail::default(),
        lost_log: logs.remove(&view.id).unwrap_or_default(),
        volumes: Vec::new(),
    };
    let containers = views.iter().map(of_container).collect();
    PodFacts {
        known,
        overdue: Some(PODS_LIMIT),
        monitor,
        unreachable,
        network: NetworkFacts::default(),
        usage: Usage::default(),
        detail: Detail::default(),
        waiting: Vec::new(),
        containers,
    }
}

/// Blocks.
fn see_pod(
    host: &Host,
    mut pod: PodFacts,
    link: Option<&Link>,
    ports: Option<&HashMap<String, PortState>>,
) -> PodFacts {
    pod.containers.iter_mut().for_each(|container| see_container(host, container));
    let cgroup = pod.known.view.as_ref().map(|view| view.cgroup.clone()).unwrap_or_default();
    let of_containers = pod.containers.iter().flat_map(|one| procs(host, &one.view.cgroup));
    let monitor_pid = pod.monitor.as_ref().map(|monitor| monitor.look.pid);
    let known: Vec<u32> = of_containers.chain(monitor_pid).collect();
    let mut pids = procs(host, &cgroup);
    pids.retain(|pid| !known.contains(pid));
    pod.waiting = waiting(&pids);
    pod.network = NetworkFacts {
        bridge: host.network.bridge().to_string(),
        ..look_at_network(&pod.known, link, ports)
    };
    (pod.usage, pod.detail) = used(host, &cgroup);
    pod.overdue = None;
    pod
}

fn see_container(host: &Host, container: &mut ContainerFacts) {
    let view = &container.view;
    let runs = is_running(view);
    let hosts = view.spec.mounts.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Host { host_path } => Some(host_path.as_path()),
        VolumeSource::Image(_) => None,
    });
    container.waiting = waiting(&procs(host, &view.cgroup));
    if !container.waiting.is_empty() {
        container.volumes = served_by_others(hosts);
    }
    if runs {
        (container.usage, container.detail) = used(host, &view.cgroup);
        container.first = view.pid.and_then(|pid| u32::try_from(pid).ok()).map(look_at);
    }
}

fn look_at_network(
    known: &Known,
    link: Option<&Link>,
    ports: Option<&HashMap<String, PortState>>,
) -> NetworkFacts {
    let is_ready = |view: &&Arc<PodView>| view.state == PodState::Ready;
    let Some(view) = known.view.as_ref().filter(is_ready).filter(|_| known.spec.net == Sharing::Own) else {
        return NetworkFacts::default();
    };
    let port = ports.map(|ports| ports.get(known.id.as_str()).map_or(Port::Gone, |state| Port::Is(*state)));
    let own = link.and_then(|link| link.pod_links()?.addresses().ok());
    let is_missing = |own: &Vec<_>| {
        let missing = view.addresses.iter().filter(|address| !own.contains(address));
        missing.map(|address| address.to_string()).collect()
    };
    let missing = own.as_ref().map(is_missing).unwrap_or_default();
    NetworkFacts { port, missing, ..NetworkFacts::default() }
}

fn procs(host: &Host, cgroup: &str) -> Vec<u32> {
    let path = CgroupPath::new(cgroup).ok();
    path.and_then(|path| host.cgroups.open(&path).procs().ok()).unwrap_or_default()
}

fn used(host: &Host, cgroup: &str) -> (Usage, Detail) {
    host.meters.read_once(cgroup).unwrap_or_default()
}

/// Looks again at what waits in the kernel: what has moved on was only waiting for a disk.
async fn confirm_waiting(pods: &mut [PodFacts]) {
    let waits = |pod: &PodFacts| {
        !pod.waiting.is_empty() || pod.containers.iter().any(|container| !container.waiting.is_empty())
    };
    if !pods.iter().any(waits) {
        return;
    }
    settle().await;
    let still_waits = |look: &mut Look| look_at(look.pid) == *look;
    for pod in pods {
        pod.waiting.retain_mut(still_waits);
        for container in &mut pod.containers {
            container.waiting.retain_mut(still_waits);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no event to wait for: what hangs stays as it is")]
async fn settle() {
    tokio::time::sleep(SETTLE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_takes_no_finding_from_those_before_it() {
        let (done, hang) = std::sync::mpsc::channel::<()>();
        let look = move |number: u32| {
            // Ends when the test does.
            if number == 3 && hang.recv().is_err() {
                return 0;
            }
            number * 10
        };
        assert_eq!(each_within(Duration::from_secs(1), vec![1, 2, 3, 4], look).await, [10, 20]);
        drop(done);
        assert_eq!(each_within(PODS_LIMIT, vec![1, 2], |number: u32| number).await, [1, 2]);
    }
}
