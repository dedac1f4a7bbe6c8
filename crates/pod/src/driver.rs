//! The task that owns one pod. What the states of the pod and its containers make of all that comes, `lifecycle` says.
//!
//! Three things move it: orders from requests, news from the monitor, and its own deadlines (a container that does not
//! end within its grace period, a network that has been taken down). Orders are carried out one after the other; what
//! takes a container's own time, its grace period, is not waited for inside an order: the driver notes who waits and
//! goes on. So a slow stop holds up nothing, not even in its own pod.
//!
//! The driver alone writes the pod's records and views; it holds no lock.
//!
//! How work passes a `point!`, at which a test can break it:
//!
//! | way | for work that | deadline | in the timeline |
//! | --- | --- | --- | --- |
//! | [`Driver::step`] | is a step of an order | a stage's | yes |
//! | [`Driver::blocking_step`] | is one, and blocks; it is awaited before it is undone | a stage's | yes |
//! | [`Driver::blocking_steps`] | is several of these | a stage's, for all | yes, each |
//! | [`Driver::whole_step`] | is one, ends by itself, and whose outcome has to be known | its own | yes |
//! | [`passing`] | is no step: what the pod does by itself, or past its end | its own | no |
//! | [`Point::pass`] | is a part of one of these, on a thread or in the monitor | theirs | no |

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use berth_cgroup::Limits;
use berth_container::spec::ContainerSpec;
use berth_fault::{Point, point};
use berth_monitor::id::{ContainerId, PodId};
use berth_net::PodAddresses;
use berth_store::{Change, with_causes};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::host::{Host, STAGE_LIMIT};
use crate::late::Late;
use crate::lifecycle::container;
use crate::lifecycle::sandbox::{Contact, Event};
use crate::link::{Connected, Link, News, Reach};
use crate::record::{SandboxPhase, SandboxRecord};
use crate::sandbox::KILL_ANSWER_LIMIT;
use crate::spec::{PodResources, SandboxSpec};
use crate::steps::{Shown, Steps, UnderWay};
use crate::timeline::Timeline;
use crate::view::{ContainerView, PodState, PodView};
use crate::waiting::{Condition, look_at};
use crate::workload::Workload;

/// Orders waiting for a driver; more than a client has in flight for one pod.
pub(crate) const INBOX: usize = 64;

/// What the timeline calls the end of a pod that nobody asked for.
pub(crate) const LOSS: &str = "keep the pod";

/// Where an answer goes; the asker may have left.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What a driver can be asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    Stop(Reply<()>),
    Remove(Reply<()>),
    Create(Box<ContainerSpec>, Reply<ContainerId>),
    Start(ContainerId, Reply<()>),
    StopContainer(ContainerId, Duration, Reply<()>),
    RemoveContainer(ContainerId, Reply<()>),
    ReopenLog(ContainerId, Reply<()>),
    UpdateContainer(ContainerId, Box<Limits>, Reply<()>),
    UpdateSandbox(Box<PodResources>, Reply<()>),
}

/// What becomes of a driver after an order.
enum Then {
    GoOn,
    /// The pod is gone; whoever asked for that is told when its name is free again.
    End(Reply<()>),
}

/// The monitor, while there is one.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) link: Link,
    pub(crate) news: mpsc::UnboundedReceiver<News>,
    pub(crate) pid: i32,
    pub(crate) pause_pid: Option<i32>,
}

impl Monitor {
    /// How long it is waited for when something is to end.
    pub(crate) fn patience(&self) -> Duration {
        if self.link.is_silent() { Duration::ZERO } else { KILL_ANSWER_LIMIT }
    }

    /// Whether it does not answer, for it is stopped by a signal or waits in the kernel: nothing that is amiss with it,
    /// and it may go on.
    pub(crate) fn is_held_up(&self) -> bool {
        self.link.is_silent() && self.stands_still()
    }

    /// Whether it could not answer just now.
    pub(crate) fn stands_still(&self) -> bool {
        let condition = u32::try_from(self.pid).map(|pid| look_at(pid).condition);
        matches!(condition, Ok(Condition::Stopped | Condition::Waits))
    }
}

/// One pod's owner.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) host: Arc<Host>,
    pub(crate) id: PodId,
    pub(crate) spec: Arc<SandboxSpec>,
    pub(crate) created_at_ns: i64,
    pub(crate) phase: SandboxPhase,
    pub(crate) addresses: PodAddresses,
    pub(crate) resources: PodResources,
    pub(crate) timeline: Timeline,
    pub(crate) monitor: Option<Monitor>,
    /// When to look again for a monitor that could not be reached but has not died.
    pub(crate) reach_again: Option<Instant>,
    /// The greeting of a monitor that hangs, waited for beside all else.
    pub(crate) greeting: Option<AbortOnDropHandle<Result<Connected>>>,
    /// Boxed: a node of the tree has room for eleven, and most pods have one.
    pub(crate) containers: BTreeMap<ContainerId, Box<Workload>>,
    /// The removal of the host's side of the network, under way.
    pub(crate) detaching: Option<JoinHandle<Result<()>>>,
    /// The way of monitor and pause into the pod's cgroup, under way.
    pub(crate) moving: Option<JoinHandle<Result<()>>>,
    pub(crate) late: Late,
    /// For exec sessions, which do not pass through the driver.
    pub(crate) reach: Arc<ArcSwap<Reach>>,
    /// The step that is under way.
    pub(crate) under_way: Shown,
}

impl Driver {
    /// A driver for a pod of which nothing exists yet.
    pub(crate) fn new(host: Arc<Host>, id: PodId, spec: Arc<SandboxSpec>) -> Self {
        Self {
            host,
            id,
            resources: spec.resources.clone(),
            spec,
            created_at_ns: crate::clock::now_ns(),
            phase: SandboxPhase::Making,
            addresses: PodAddresses::default(),
            timeline: Timeline::default(),
            monitor: None,
            reach_again: None,
            greeting: None,
            containers: BTreeMap::new(),
            detaching: None,
            moving: None,
            late: Late::default(),
            reach: Arc::default(),
            under_way: Arc::default(),
        }
    }

    /// Gives a spare sandbox the pod that it is to be.
    pub(crate) fn occupied_by(self, spec: Arc<SandboxSpec>) -> Self {
        let resources = spec.resources.clone();
        let (created_at_ns, timeline) = (crate::clock::now_ns(), Timeline::default());
        Self { spec, resources, created_at_ns, timeline, ..self }
    }

    /// Serves until the pod is removed; returns who asked for that, and the driver, which may have something to wait for
    /// ([`Driver::finish_tear_down`]). `None` when the agent stops: the pod lives on.
    pub(crate) async fn run(
        mut self: Box<Self>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Option<(Reply<()>, Box<Self>)> {
        // Boxed, what is done: a driver waits for most of its life, and would keep the room for it all that time.
        Box::pin(self.finish_half_made()).await;
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                // What has happened comes before what is to be done about it.
                biased;
                news = next_news(&mut self.monitor) => Box::pin(self.hear(news)).await,
                () = until(deadline) => Box::pin(self.meet_deadlines()).await,
                detached = finished(&mut self.detaching) => Box::pin(self.network_is_down(detached)).await,
                reached = finished(&mut self.greeting) => {
                    Box::pin(self.monitor_is_reached(reached)).await;
                    Box::pin(self.finish_half_made()).await;
                }
                order = orders.recv() => match Box::pin(self.obey(order?)).await {
                    Then::GoOn => {}
                    Then::End(reply) => return Some((reply, self)),
                },
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Then {
        match order {
            Order::Stop(reply) => drop(reply.send(self.stop().await)),
            Order::Remove(reply) => match self.remove().await {
                Ok(()) => return Then::End(reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Order::Create(spec, reply) => drop(reply.send(self.create_container(*spec).await)),
            Order::Start(id, reply) => self.start_container(&id, reply).await,
            Order::StopContainer(id, grace, reply) => self.stop_container(&id, grace, reply).await,
            Order::RemoveContainer(id, reply) => drop(reply.send(self.remove_container(&id).await)),
            Order::ReopenLog(id, reply) => drop(reply.send(self.reopen_log(&id).await)),
            Order::UpdateContainer(id, change, reply) => {
                drop(reply.send(self.update_container(&id, *change).await));
            }
            Order::UpdateSandbox(resources, reply) => drop(reply.send(self.update_sandbox(*resources).await)),
        }
        Then::GoOn
    }

    /// Takes in what the monitor says.
    pub(crate) async fn hear(&mut self, news: News) {
        match news {
            News::Exited(ended) => {
                let (container, exit) = *ended;
                self.take_in(&container, container::Event::Ended(exit)).await;
            }
            News::PauseExited => {
                tracing::warn!(pod.id = %self.id, "pause has died");
                self.timeline.push(LOSS, Duration::ZERO, Some("its pause process has died".to_owned()));
                if let Some(monitor) = &mut self.monitor {
                    monitor.pause_pid = None;
                }
                self.not_ready().await;
            }
            News::Gone => self.monitor_is_gone().await,
        }
    }

    /// Whoever undoes what has failed for want of an answer does not wait for another one.
    pub(crate) fn note_silence(&mut self, error: &Error) {
        if let Some(monitor) = self.monitor.as_ref().filter(|_| error.is_silence()) {
            monitor.link.note_silence();
        }
    }

    /// Takes in what the monitor has said up to now, without waiting.
    pub(crate) async fn hear_all(&mut self) {
        while let Some(news) = self.monitor.as_mut().and_then(|monitor| monitor.news.try_recv().ok()) {
            self.hear(news).await;
        }
    }

    /// The pod has lost what held it together: it is reported so, and kept until someone removes it.
    pub(crate) async fn not_ready(&mut self) {
        let phase = self.phase.after(Event::Lost);
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        if let Err(error) = self.close_ports().await {
            tracing::warn!(pod.id = %self.id, error = %with_causes(&error), "host ports not closed");
        }
        self.save().await;
        self.tell(self.id.to_string(), EventKind::Stopped);
    }

    /// Connects or disconnects the pod from its monitor, for exec sessions too.
    pub(crate) fn set_monitor(&mut self, monitor: Option<Monitor>) {
        (self.reach_again, self.greeting) = (None, None);
        let reach = monitor.as_ref().map_or(Reach::Gone, |monitor| Reach::Open(monitor.link.clone()));
        self.reach.store(Arc::new(reach));
        self.monitor = monitor;
    }

    /// There is a monitor, which hangs or can't be talked to, or the agent lacks something: it is tried again later, or
    /// `greeting` comes. The containers may be well, and are killed without it if they must.
    pub(crate) fn out_of_reach(&mut self, error: &Error) {
        let why = with_causes(error);
        // Told once, not with every try.
        if !matches!(&**self.reach.load(), Reach::Blocked(before) if *before == why) {
            tracing::warn!(pod.id = %self.id, error = why, "monitor can't be reached for now");
            self.timeline.push("reach the monitor", Duration::ZERO, Some(why.clone()));
        }
        self.set_monitor(None);
        self.reach.store(Arc::new(Reach::Blocked(why)));
    }

    /// Whether the monitor can be asked.
    pub(crate) fn contact(&self) -> Contact {
        self.reach.load().contact()
    }

    /// Records and publishes the pod as it is now. A database that refuses does not stop a pod: memory and kernel have
    /// the truth, and the next change tries again.
    pub(crate) async fn save(&mut self) {
        if let Err(error) = passing(point!("save the pod"), self.commit(Change::new())).await {
            tracing::error!(pod.id = %self.id, error = %with_causes(&error), "pod not recorded");
        }
        self.publish();
    }

    /// Writes the pod's record together with `change`.
    pub(crate) async fn commit(&self, change: Change) -> Result<()> {
        self.host.commit(change.put(&self.record())?).await
    }

    /// Shows the pod as it is now to all readers, if they may see it.
    pub(crate) fn publish(&self) {
        if let Some(state) = self.phase.seen() {
            self.host.publish(Arc::new(self.view(state)));
        }
    }

    /// Tells listeners, with the pod as it has just been published.
    pub(crate) fn tell(&self, id: String, kind: EventKind) {
        self.host.events.tell(id, kind, &self.id);
    }

    /// Runs one step under a stage's deadline, and notes how it went. `object` is what it is done to, where that
    /// is not the pod.
    pub(crate) async fn step<T>(
        &mut self,
        step: Point,
        object: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.note(step, object, limited(passing(step, work))).await
    }

    /// [`Driver::step`] for work that blocks, which goes on past the limit: see [`Late`].
    pub(crate) async fn blocking_step<T: Send + 'static>(
        &mut self,
        step: Point,
        object: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let object = object.to_owned();
        self.blocking_steps(move |steps| steps.step(step, &object, work)).await
    }

    /// Several steps that block, one after the other.
    pub(crate) async fn blocking_steps<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Steps) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.host.spares.stir();
        let steps = Steps::new(self.under_way.clone());
        let mut taken = steps.clone();
        let result = limited(self.late.blocking(move || work(&mut taken))).await;
        let (done, under_way) = steps.give_up();
        done.into_iter().for_each(|done| done.enter(&mut self.timeline));
        match under_way {
            Some(under_way) => self.noted(&under_way, result),
            None => result,
        }
    }

    /// [`Driver::step`] for work that goes on whether it is waited for or not, and whose outcome has to be known. What
    /// it does must end by itself.
    pub(crate) async fn whole_step<T>(
        &mut self,
        step: Point,
        object: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.note(step, object, passing(step, work)).await
    }

    async fn note<T>(
        &mut self,
        step: Point,
        object: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.host.spares.stir();
        let under_way = Arc::new(UnderWay::begin(step, object));
        self.under_way.store(Some(under_way.clone()));
        let result = work.await;
        self.under_way.store(None);
        self.noted(&under_way, result)
    }

    /// Enters what has become of a step.
    pub(crate) fn noted<T>(&mut self, under_way: &UnderWay, result: Result<T>) -> Result<T> {
        let (done, result) = under_way.end(result);
        done.enter(&mut self.timeline);
        result
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        SandboxRecord {
            id: self.id.clone(),
            spec: SandboxSpec::clone(&self.spec),
            phase: self.phase,
            created_at_ns: self.created_at_ns,
            addresses: self.addresses.clone(),
            resources: Some(self.resources.clone()),
        }
    }

    fn view(&self, state: PodState) -> PodView {
        let containers =
            self.containers.iter().filter_map(|(id, workload)| Some((id.clone(), workload.view()?)));
        PodView {
            id: self.id.clone(),
            spec: self.spec.clone(),
            state,
            created_at_ns: self.created_at_ns,
            addresses: match state {
                PodState::Ready => self.addresses.clone(),
                PodState::NotReady => PodAddresses::default(),
            },
            pause_pid: self.monitor.as_ref().and_then(|monitor| monitor.pause_pid),
            monitor_pid: self.monitor.as_ref().map(|monitor| monitor.pid),
            cgroup: self.cgroups().map(|cgroups| cgroups.base.as_str().to_owned()).unwrap_or_default(),
            resources: self.resources.clone(),
            host_interface: self.host_interface().ok().map(|name| name.as_str().to_owned()),
            containers: containers.collect::<BTreeMap<ContainerId, Arc<ContainerView>>>(),
            timeline: self.timeline.clone(),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.containers.values().filter_map(|workload| workload.deadline()).chain(self.reach_again).min()
    }

    async fn meet_deadlines(&mut self) {
        if self.reach_again.is_some_and(|at| at <= Instant::now()) {
            self.monitor_is_gone().await;
            self.finish_half_made().await;
        }
        self.meet_stops().await;
    }
}

/// Waits for `work` no longer than a stage may take.
pub(crate) async fn limited<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let too_long = |_| Err(Error::TooLong { limit: STAGE_LIMIT });
    tokio::time::timeout(STAGE_LIMIT, work).await.unwrap_or_else(too_long)
}

/// Does `work`, unless a test has it fail.
pub(crate) async fn passing<T>(step: Point, work: impl Future<Output = Result<T>>) -> Result<T> {
    step.pass_in_task().await?;
    work.await
}

async fn next_news(monitor: &mut Option<Monitor>) -> News {
    match monitor {
        Some(monitor) => monitor.news.recv().await.unwrap_or(News::Gone),
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

async fn finished<T, H>(task: &mut Option<H>) -> Result<T>
where
    H: Future<Output = std::result::Result<Result<T>, JoinError>> + Unpin,
{
    let Some(handle) = task else {
        return std::future::pending().await;
    };
    let result = handle.await.unwrap_or(Err(Error::Abandoned));
    *task = None;
    result
}
