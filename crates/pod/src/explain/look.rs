//! The facts: everything that a judgement needs, as it is now. Each question has a deadline, and they are asked at the
//! same time. The kernel is asked on threads for blocking work; no volume is touched.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::{CgroupPath, Detail, Usage};
use berth_container::spec::VolumeSource;
use berth_image::FailedPull;
use berth_monitor::id::{ContainerId, PodId};
use berth_monitor::plan::Sharing;
use berth_monitor::protocol::{Answer, Order};
use berth_net::PortState;
use berth_store::with_causes;
use futures_util::future::join_all;
use ipnet::IpNet;
use tokio::time::timeout;

use super::Checked;
use crate::driver::UnderWay;
use crate::error::{Error, Result};
use crate::host::{Host, blocking};
use crate::inventory::unreadable_rows;
use crate::link::Link;
use crate::registry::Pods;
use crate::spec::SandboxSpec;
use crate::view::{ContainerState, ContainerView, PodState, PodView, Snapshot};
use crate::waiting::{Look, look_at, served_by_others, waiting};

/// How long an answer may take that takes a millisecond.
const LIMIT: Duration = Duration::from_secs(1);

/// What waits in the kernel at one moment may wait for a disk; after this time it is looked at again.
const SETTLE: Duration = Duration::from_millis(200);

/// A pod that something is known of.
#[derive(Debug)]
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
    /// Records that nobody understands, each with the reason.
    pub(super) unreadable: Vec<String>,
    /// Pods whose create failed and that could not be taken down yet.
    pub(super) half_made: Vec<String>,
    pub(super) failed_pulls: Vec<FailedPull>,
}

/// One pod.
#[derive(Debug)]
pub(super) struct PodFacts {
    pub(super) known: Known,
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
#[derive(Debug)]
pub(super) struct MonitorFacts {
    pub(super) look: Look,
    pub(super) answers: bool,
}

/// A pod's own network, as far as it was found to be wrong.
#[derive(Debug, Default)]
pub(super) struct NetworkFacts {
    /// `None` for a pod without one, and where the kernel did not tell.
    pub(super) port: Option<Port>,
    /// Addresses that `eth0` should have.
    pub(super) missing: Vec<String>,
}

/// The host's end of a pod's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Is(PortState),
    Gone,
}

/// One container.
#[derive(Debug)]
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
        timeout(LIMIT, unreadable_rows(&host.store)),
    );
    NodeFacts {
        network,
        storage,
        exhausted: host.leases().exhausted(),
        unreadable: unreadable.ok().and_then(Result::ok).unwrap_or_default(),
        half_made: host.half_made().iter().map(ToString::to_string).collect(),
        failed_pulls: host.images.failed_pulls(),
    }
}

async fn checked(what: &str, check: impl Future<Output = Result<()>>) -> Checked {
    match timeout(LIMIT, check).await {
        Ok(Ok(())) => Ok(()),
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
    let links: Vec<_> = known.iter().map(|pod| (pods.link(&pod.id), pods.blockage(&pod.id))).collect();
    let (of, begun) = (host.clone(), known.len());
    let found = blocking(move || {
        let all = known.into_iter().zip(monitors).zip(links);
        all.map(|((pod, monitor), link)| look_at_pod(&of, pod, monitor, link, ports.as_ref()))
            .collect::<Vec<_>>()
    });
    let mut found = timeout(LIMIT * 2, found).await.ok().and_then(Result::ok).unwrap_or_default();
    if found.len() < begun {
        tracing::warn!("pods could not be looked at in time");
    }
    confirm_waiting(&mut found).await;
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

/// Blocks.
fn look_at_pod(
    host: &Host,
    known: Known,
    (monitor, mut logs): Asked,
    (link, unreachable): (Option<Link>, Option<String>),
    ports: Option<&HashMap<String, PortState>>,
) -> PodFacts {
    let containers: Vec<_> = known.view.iter().flat_map(|view| view.containers.values().cloned()).collect();
    let cgroup = known.view.as_ref().map(|view| view.cgroup.clone()).unwrap_or_default();
    let last = |container: &ContainerView| {
        let same = containers.iter().filter(|other| other.spec.name == container.spec.name);
        same.max_by_key(|other| (other.created_at_ns, other.spec.attempt)).map(|other| other.id.clone())
    };
    let of_container = |view: &Arc<ContainerView>| ContainerFacts {
        is_last: last(view).as_ref() == Some(&view.id),
        lost_log: logs.remove(&view.id).unwrap_or_default(),
        ..look_at_container(host, view.clone())
    };
    let containers: Vec<_> = containers.iter().map(of_container).collect();
    let in_containers: Vec<u32> = containers.iter().flat_map(|one| procs(host, &one.view.cgroup)).collect();
    let monitor_pid = monitor.as_ref().map(|monitor| monitor.look.pid);
    let mut pids = procs(host, &cgroup);
    pids.retain(|pid| !in_containers.contains(pid) && Some(*pid) != monitor_pid);
    let network = look_at_network(&known, link.as_ref(), ports);
    let (usage, detail) = used(host, &cgroup);
    PodFacts { known, monitor, unreachable, network, usage, detail, waiting: waiting(&pids), containers }
}

fn look_at_container(host: &Host, view: Arc<ContainerView>) -> ContainerFacts {
    let runs = is_running(&view);
    let hosts = view.spec.mounts.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Host { host_path } => Some(host_path.as_path()),
        VolumeSource::Image(_) => None,
    });
    let waiting = waiting(&procs(host, &view.cgroup));
    let volumes = if waiting.is_empty() { Vec::new() } else { served_by_others(hosts) };
    let (usage, detail) = if runs { used(host, &view.cgroup) } else { <_>::default() };
    let first = view.pid.filter(|_| runs).and_then(|pid| u32::try_from(pid).ok()).map(look_at);
    ContainerFacts { view, is_last: true, first, waiting, usage, detail, lost_log: (0, None), volumes }
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
    NetworkFacts { port, missing: own.as_ref().map(is_missing).unwrap_or_default() }
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
