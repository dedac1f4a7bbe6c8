//! All pods of the node: finds a pod's driver or starts one, and hands orders on.
//!
//! The one lock here guards two maps and is never held across an await. What a request began goes on when its client
//! hangs up; the same request again waits for the same outcome. A name is taken from the moment in which its driver
//! starts until the pod is removed, and no longer: what the kernel has yet to do has no name.

mod bypass;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use berth_cgroup::Limits;
use berth_container::spec::ContainerSpec;
use berth_monitor::id::{ContainerId, PodId};
use ipnet::IpNet;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::Instrument;

use crate::driver::{Driver, INBOX, Order, Reply};
use crate::error::{Error, Result};
use crate::events::{Events, ListenerId};
use crate::host::Host;
use crate::layers::{Walking, start_walking};
use crate::lifecycle::Again;
use crate::lifecycle::container::{self, Stage};
use crate::lifecycle::names::Names;
use crate::lifecycle::sandbox::{self, Contact, run_again};
use crate::link::Reach;
use crate::recover::{self, Records};
use crate::spares::Spares;
use crate::spec::{PodIdentity, PodResources, SandboxSpec};
use crate::steps::{Shown, UnderWay};
use crate::view::{ContainerView, Snapshot};

/// The pods of this node. A cheap handle.
#[derive(Debug, Clone)]
pub struct Pods(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<Host>,
    drivers: Mutex<Names<Handle>>,
    /// Of changes of the pod CIDR, one at a time.
    renumbering: Arc<Semaphore>,
    _walking: Walking,
}

/// How to reach a driver.
#[derive(Debug, Clone)]
struct Handle {
    orders: mpsc::Sender<Order>,
    spec: Arc<SandboxSpec>,
    made: watch::Receiver<Option<Made>>,
    reach: Arc<ArcSwap<Reach>>,
    under_way: Shown,
}

/// The outcome of making a pod, for all who asked.
type Made = std::result::Result<(), Arc<Error>>;

impl Pods {
    /// Finds every pod that an earlier agent left, running or not, and takes down what has no owner.
    ///
    /// # Errors
    /// The database can't be read. A single pod that can't be recovered is no error.
    pub async fn recover(host: Host, records: Records) -> Result<Self> {
        let host = Arc::new(host);
        let walking = start_walking(&host).map_err(Error::Spawn)?;
        let inner = Inner {
            host: host.clone(),
            drivers: Mutex::default(),
            renumbering: Arc::new(Semaphore::new(1)),
            _walking: walking,
        };
        let pods = Self(Arc::new(inner));
        for driver in recover::find_pods(&host, records).await? {
            pods.adopt(driver);
        }
        pods.remove_orphans().await;
        Ok(pods)
    }

    /// All pods at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.host.snapshot()
    }

    /// A listener for all that happens from now on. One that says who it is hears first what it has missed since it
    /// hung up, if that was not long ago.
    pub fn subscribe(&self, who: Option<ListenerId>) -> Events {
        self.0.host.events.subscribe(who)
    }

    /// Whether pods can have user namespaces on this node.
    pub fn has_user_namespaces(&self) -> bool {
        self.0.host.maps_ids
    }

    /// Who makes the cgroups of pods.
    pub fn cgroup_driver(&self) -> berth_cgroup::Driver {
        self.0.host.settings.cgroup_driver
    }

    /// The names of the runtime handlers that are other runtimes.
    pub fn foreign_handlers(&self) -> impl Iterator<Item = &str> {
        self.0.host.settings.handlers.keys().map(String::as_str)
    }

    /// Whether pods can be recorded, and their files be written, or why not.
    ///
    /// # Errors
    /// The reason.
    pub async fn check_storage(&self) -> Result<()> {
        crate::storage::check(&self.0.host).await
    }

    /// Whether pods can be attached to the network, or why not. What somebody else has taken away, as a firewall does
    /// that starts anew, is put back first: until someone asks, pods are without it.
    ///
    /// # Errors
    /// The reason.
    pub async fn check_network(&self) -> Result<()> {
        let host = self.0.host.clone();
        Ok(crate::host::blocking(move || host.network.check_and_restore()).await??)
    }

    /// Has new pods get their addresses from these subnets, now and after a restart; those that there are keep theirs.
    /// Giving the same again changes nothing.
    ///
    /// # Errors
    /// Invalid; or `WrongState` for one that overlaps with what pods or the host have. Nothing is changed then.
    pub async fn set_pod_cidr(&self, subnets: Vec<IpNet>) -> Result<()> {
        let turn = self.0.renumbering.clone().acquire_owned().await.map_err(|_| Error::Abandoned)?;
        let host = self.0.host.clone();
        // A task of its own: a client that hangs up must not leave half a change.
        let work = async move {
            let _turn = turn;
            crate::renumber::renumber(host, subnets).await
        };
        tokio::spawn(work).await.map_err(|_| Error::Abandoned)?
    }

    /// Gives back what waits for pods, and keeps no more of it: the agent is about to end.
    pub async fn close(&self) {
        self.0.host.spares.close().await;
    }

    /// Makes a pod and answers when it is ready. The same request again gets the same pod.
    ///
    /// # Errors
    /// The step that failed, with nothing left; `Exists` for a pod with this identity and another configuration, or one
    /// that has been stopped.
    pub async fn run_sandbox(&self, spec: SandboxSpec) -> Result<PodId> {
        let (id, handle) = self.find_or_start(spec.clone())?;
        let has_same_spec = *handle.spec == spec;
        if has_same_spec {
            let mut made = handle.made;
            match &*made.wait_for(Option::is_some).await.map_err(|_| Error::Abandoned)? {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(Error::Shared(error.clone())),
                None => return Err(Error::Abandoned),
            }
        }
        let state = self.snapshot().pods.get(&id).map(|pod| pod.state);
        match run_again(has_same_spec, state) {
            Again::Same => Ok(id),
            Again::Differs(difference) => Err(exists(&spec.identity, &id, difference)),
        }
    }

    /// Ends a pod's containers and namespaces; unknown means done.
    ///
    /// # Errors
    /// A process that does not die.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.order_pod(id, sandbox::Request::Stop, Order::Stop).await
    }

    /// Stops a pod and removes every trace of it; unknown means done.
    ///
    /// # Errors
    /// What could not be removed; calling again goes on.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        if known(self.snapshot().pod(id).cloned())?.is_none() {
            return self.remove_doubted(id).await;
        }
        self.order_pod(id, sandbox::Request::Remove, Order::Remove).await
    }

    /// Makes a container up to its start. The same request again gets the same container.
    ///
    /// # Errors
    /// The step that failed, with nothing left; `NotFound` for the pod or image.
    pub async fn create_container(&self, pod: &str, spec: ContainerSpec) -> Result<ContainerId> {
        let pod = self.snapshot().pod(pod)?.clone();
        let order = |reply| Order::Create(Box::new(spec), reply);
        self.order(&pod.id, order).await.unwrap_or_else(|| Err(Error::NoPod { id: pod.id.to_string() }))
    }

    /// Lets a created container run.
    ///
    /// # Errors
    /// `WrongState` unless it is created; the program that could not be executed, after which it counts as exited.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.order_container(id, container::Request::Start, Order::Start).await
    }

    /// Asks a container to stop, kills it after `grace`, and answers when it has ended; unknown means done.
    ///
    /// # Errors
    /// A process that does not die.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let order = |id, reply| Order::StopContainer(id, grace, reply);
        self.order_container(id, container::Request::Stop, order).await
    }

    /// Ends a container if it runs and removes every trace of it but its log; unknown means done.
    ///
    /// # Errors
    /// What could not be removed; calling again goes on.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        if known(self.container(id))?.is_none() {
            return self.remove_doubted(id).await;
        }
        self.order_container(id, container::Request::Remove, Order::RemoveContainer).await
    }

    /// Closes a running container's log and opens it anew by its name, with no byte lost.
    ///
    /// # Errors
    /// `WrongState` unless it runs; the file can't be opened, and the old one stays in use.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        self.order_container(id, container::Request::ReopenLog, Order::ReopenLog).await
    }

    /// Changes what `change` gives of a container's limits, all or nothing.
    ///
    /// # Errors
    /// `WrongState` for one that has ended and for memory that is in use; a value that the kernel refuses.
    pub async fn update_container(&self, id: &str, change: Limits) -> Result<()> {
        let order = |id, reply| Order::UpdateContainer(id, Box::new(change), reply);
        self.order_container(id, container::Request::Update, order).await
    }

    /// Notes what a pod needs from now on.
    ///
    /// # Errors
    /// The database refused.
    pub async fn update_sandbox(&self, id: &str, resources: PodResources) -> Result<()> {
        let order = |reply| Order::UpdateSandbox(Box::new(resources), reply);
        self.order_pod(id, sandbox::Request::Update, order).await
    }

    /// The ids of all pods of which something may exist, as text.
    pub(crate) fn known_ids(&self) -> BTreeSet<String> {
        // A spare that is taken is out of its place only while the drivers are locked; a pod that goes is among the
        // departures before its driver is forgotten.
        let mut ids: BTreeSet<String> = self.0.host.spares.ids();
        ids.extend(self.drivers().all().map(|(id, _)| id.to_string()));
        ids.extend(self.0.host.departures.all().iter().map(ToString::to_string));
        ids
    }

    /// Every pod that has a driver, with what it is called and what is being done to it.
    pub(crate) fn at_work(&self) -> Vec<(PodId, Arc<SandboxSpec>, Option<Arc<UnderWay>>)> {
        let drivers = self.drivers();
        let at_work =
            |(id, handle): (&PodId, &Handle)| (id.clone(), handle.spec.clone(), handle.under_way.load_full());
        drivers.all().map(at_work).collect()
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.0.host
    }

    fn container(&self, id: &str) -> Result<Arc<ContainerView>> {
        self.snapshot().container(id).cloned()
    }

    /// Gives a pod's driver an order. A pod that is gone, already or meanwhile, has its own answer.
    async fn order_pod(
        &self,
        id: &str,
        request: sandbox::Request,
        order: impl FnOnce(Reply<()>) -> Order,
    ) -> Result<()> {
        let is_done = sandbox::answer(request, None, Contact::Gone) == sandbox::Answer::Done;
        let if_gone = || if is_done { Ok(()) } else { Err(Error::NoPod { id: id.to_owned() }) };
        let Some(pod) = known(self.snapshot().pod(id).cloned())? else { return if_gone() };
        self.order(&pod.id, order).await.unwrap_or_else(if_gone)
    }

    /// Gives a container's driver an order. A container that is gone, already or meanwhile, has its own answer.
    async fn order_container(
        &self,
        id: &str,
        request: container::Request,
        order: impl FnOnce(ContainerId, Reply<()>) -> Order,
    ) -> Result<()> {
        let if_gone = || container::answer(request, Stage::Gone).admits(id).map(drop);
        let Some(container) = known(self.container(id))? else { return if_gone() };
        let order = |reply| order(container.id.clone(), reply);
        self.order(&container.pod, order).await.unwrap_or_else(if_gone)
    }

    /// Gives a driver an order and awaits the answer; `None` when the pod is gone.
    async fn order<T>(&self, pod: &PodId, order: impl FnOnce(Reply<T>) -> Order) -> Option<Result<T>> {
        let handle = self.handle(pod)?;
        let (reply, answer) = oneshot::channel();
        if handle.orders.send(order(reply)).await.is_ok()
            && let Ok(answer) = answer.await
        {
            return Some(answer);
        }
        // A driver that ended without having removed its pod is a defect, and no success.
        self.handle(pod).map(|_| Err(Error::Abandoned))
    }

    fn handle(&self, pod: &PodId) -> Option<Handle> {
        self.drivers().get(pod).cloned()
    }

    fn drivers(&self) -> MutexGuard<'_, Names<Handle>> {
        self.0.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_or_start(&self, spec: SandboxSpec) -> Result<(PodId, Handle)> {
        let mut drivers = self.drivers();
        if let Some((id, handle)) = drivers.find(&spec.identity) {
            return Ok((id.clone(), handle.clone()));
        }
        let host = &self.0.host;
        let driver = match host.spares.take(&spec) {
            Some(spare) => spare.occupied_by(Arc::new(spec)),
            None => Driver::new(host.clone(), PodId::from_random(random_bytes()?), Arc::new(spec)),
        };
        let id = driver.id.clone();
        let (made, outcome) = watch::channel(None);
        let (handle, orders) = handle_of(&driver, outcome);
        drivers.enter(&driver.spec.identity, &id, handle.clone());
        drop(drivers);
        spawn_driver(&id, self.clone().make_and_run(Box::new(driver), orders, made));
        Ok((id, handle))
    }

    /// Starts the driver of a pod that exists already.
    fn adopt(&self, driver: Driver) {
        let (_, outcome) = watch::channel(Some(Ok(())));
        let (handle, orders) = handle_of(&driver, outcome);
        self.drivers().enter(&driver.spec.identity, &driver.id, handle);
        spawn_driver(&driver.id.clone(), self.clone().run(Box::new(driver), orders));
    }

    async fn make_and_run(
        self,
        mut driver: Box<Driver>,
        orders: mpsc::Receiver<Order>,
        made: watch::Sender<Option<Made>>,
    ) {
        let (id, identity) = (driver.id.clone(), driver.spec.identity.clone());
        // Boxed, as all that a driver does once: see [`Driver::run`].
        match Box::pin(driver.make()).await {
            Ok(()) => {
                tracing::info!(pod.name = identity.name, pod.namespace = identity.namespace, "pod ready");
                made.send_replace(Some(Ok(())));
                Spares::fill(&self.0.host);
                Box::pin(self.run(driver, orders)).await;
            }
            Err(error) => {
                // The name is free before anyone hears, so that a retry starts anew.
                self.drivers().forget(&identity, &id);
                made.send_replace(Some(Err(Arc::new(error))));
                Box::pin(driver.finish_tear_down()).await;
            }
        }
    }

    async fn run(self, driver: Box<Driver>, mut orders: mpsc::Receiver<Order>) {
        let (id, identity) = (driver.id.clone(), driver.spec.identity.clone());
        if let Some((reply, driver)) = driver.run(&mut orders).await {
            // Before the inbox closes: who finds it closed looks whether the pod is still known.
            self.drivers().forget(&identity, &id);
            tracing::info!(pod.id = %id, "pod removed");
            let _ = reply.send(Ok(()));
            // Whoever else has asked something of the pod need not wait for what is left of it.
            drop(orders);
            Box::pin(driver.finish_tear_down()).await;
        }
    }
}

/// Runs a driver's task in the span of its pod, whoever's call or start began it.
pub(crate) fn spawn_driver(id: &PodId, life: impl Future<Output = ()> + Send + 'static) {
    let span = tracing::info_span!(parent: None, "pod", pod.id = %id);
    tokio::spawn(life.instrument(span));
}

fn handle_of(driver: &Driver, made: watch::Receiver<Option<Made>>) -> (Handle, mpsc::Receiver<Order>) {
    let (sender, orders) = mpsc::channel(INBOX);
    let handle = Handle {
        orders: sender,
        spec: driver.spec.clone(),
        made,
        reach: driver.reach.clone(),
        under_way: driver.under_way.clone(),
    };
    (handle, orders)
}

/// For a new identifier.
pub(crate) fn random_bytes() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(32) => Ok(bytes),
        Ok(_) => Err(Error::Abandoned),
        Err(errno) => Err(Error::Spawn(errno.into())),
    }
}

fn exists(identity: &PodIdentity, id: &PodId, difference: &'static str) -> Error {
    let PodIdentity { name, namespace, attempt, .. } = identity;
    Error::Exists {
        object: format!("pod sandbox {namespace}/{name} attempt {attempt}"),
        id: id.to_string(),
        difference,
    }
}

/// What is unknown is gone.
fn known<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(Error::NoPod { .. } | Error::NoContainer { .. }) => Ok(None),
        found => found.map(Some),
    }
}
