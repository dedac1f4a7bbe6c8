//! Sandboxes that wait for a pod: their monitor, pause, namespaces and network are made before anybody asks, so that a
//! pod which comes has only to be told its name.
//!
//! ```text
//!   fill: lease, cgroup, monitor and pause, network ──▶ ready ──take──▶ occupy: files, hostname ──▶ a pod
//!     ▲                                                   └──clear, close, no address left──▶ taken down
//!     └── whenever a pod has been made
//! ```
//! A spare is a [`Driver`] without a pod, with the id that its pod will have: what it is made of carries that id already,
//! and taking it down is taking a pod down. It is not on record, and dies with the agent: its monitor leaves when the
//! agent hangs up, and what stays is found by its name when the next one starts.
//!
//! Only pods whose namespaces are as these can be made of one ([`kind_of`]). Monitor and pause wait in a cgroup of the
//! agent's own. If the pod's is another one they are moved there once it has been answered for, since the kernel waits
//! 10 ms and more before it moves a process; containers are born where they belong.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_fault::point;
use berth_monitor::id::PodId;
use berth_monitor::plan::Sharing;
use berth_monitor::protocol::Order as MonitorOrder;
use berth_store::{ErrorKind, with_causes};
use tokio::sync::{Mutex as TaskMutex, MutexGuard as TaskGuard, Notify};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::departures;
use crate::driver::{Driver, limited, passing};
use crate::error::{Error, Result};
use crate::files::hostname_of;
use crate::host::{Host, blocking};
use crate::lifecycle::stopping::DEATH_LIMIT;
use crate::registry::random_bytes;
use crate::sandbox::{PodCgroups, Purpose, make_cgroup, no_work};
use crate::spec::{PodIdentity, PodPid, SandboxSpec};
use crate::steps::{Steps, UnderWay, Work};

/// Between the calls that make one pod there is less.
const CALM: Duration = Duration::from_millis(10);

/// How long a spare waits for calm.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long a spare may take to become a pod. One that hangs is no reason for the pod to be late.
const OCCUPATION_LIMIT: Duration = Duration::from_secs(2);

/// Those that wait, and those on the way.
#[derive(Debug)]
pub(crate) struct Spares {
    /// How many wait at most.
    most: usize,
    state: Mutex<State>,
    /// Held by whoever makes one, and by whoever wants none to be made.
    making: TaskMutex<()>,
    /// Told of each step that something is done to a pod.
    stirred: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Driver>,
    /// Of those that are being made, too.
    ids: BTreeSet<PodId>,
    /// Those that are taken down.
    leaving: JoinSet<()>,
    /// What was asked for last; none before the first pod.
    kind: Option<Kind>,
    is_filling: bool,
    /// Whether somebody has asked for spares while some were being made.
    is_asked_again: bool,
    is_closed: bool,
}

/// What tells spares from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    /// Whether pause is the init of a pid namespace for all containers.
    shared_pid: bool,
}

/// What a spare for this pod would be like. `None` for a pod that is made from nothing: what it asks of its namespaces has
/// to be there before anything else is in them.
fn kind_of(spec: &SandboxSpec) -> Option<Kind> {
    let is_plain = spec.net == Sharing::Own
        && spec.ipc == Sharing::Own
        && spec.user_namespace.is_none()
        && spec.sysctls.is_empty();
    is_plain.then_some(Kind { shared_pid: spec.pid == PodPid::Pod })
}

impl Spares {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default(), making: TaskMutex::default(), stirred: Notify::new() }
    }

    /// One that this pod can be made of, if there is any.
    pub(crate) fn take(&self, spec: &SandboxSpec) -> Option<Driver> {
        let kind = kind_of(spec)?;
        let mut state = self.state();
        state.kind = Some(kind);
        let fits = |spare: &Driver| kind_of(&spare.spec) == Some(kind) && spare.is_well();
        let place = state.ready.iter().position(fits)?;
        let spare = state.ready.swap_remove(place);
        state.ids.remove(&spare.id);
        Some(spare)
    }

    /// The ids of all, as text.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.state().ids.iter().map(ToString::to_string).collect()
    }

    /// Makes as many as there should be, one after the other, in the background. One that can't be made is no reason to
    /// try on: the next pod is.
    pub(crate) fn fill(host: &Arc<Host>) {
        if !host.spares.begin_to_fill() {
            return;
        }
        let host = host.clone();
        tokio::spawn(async move {
            while let Some(kind) = host.spares.lacking() {
                host.spares.calm().await;
                if let Err(error) = host.spares.add(&host, kind).await {
                    // Where addresses are short, that is as it should be.
                    if error.kind() == ErrorKind::Exhausted {
                        tracing::debug!(error = with_causes(&error), "no spare sandbox");
                    } else {
                        tracing::warn!(error = with_causes(&error), "spare sandbox not made");
                    }
                    if !host.spares.goes_on() {
                        break;
                    }
                }
            }
        });
    }

    /// Something is being done to a pod.
    pub(crate) fn stir(&self) {
        self.stirred.notify_waiters();
    }

    /// Waits until pods are left alone for a moment: what is made for the next one must not slow this one's containers
    /// down. On a node that is never calm, not for long.
    async fn calm(&self) {
        let calm = async { while timeout(CALM, self.stirred.notified()).await.is_ok() {} };
        let _ = timeout(PATIENCE, calm).await;
    }

    fn begin_to_fill(&self) -> bool {
        let mut state = self.state();
        state.is_asked_again |= state.is_filling;
        self.most > 0 && !state.is_closed && !std::mem::replace(&mut state.is_filling, true)
    }

    /// One could not be made: whether to try on, since another pod has come meanwhile.
    fn goes_on(&self) -> bool {
        let mut state = self.state();
        state.is_filling = std::mem::take(&mut state.is_asked_again);
        state.is_filling
    }

    /// The kind of which there are too few. With none, nobody is at it any more: whoever lacks one later begins anew.
    fn lacking(&self) -> Option<Kind> {
        let mut state = self.state();
        let lacking = state.drop_unfit().filter(|_| !state.is_closed && state.ready.len() < self.most);
        state.is_filling = lacking.is_some();
        state.is_asked_again = false;
        lacking
    }

    async fn add(&self, host: &Arc<Host>, kind: Kind) -> Result<()> {
        let _making = self.making.lock().await;
        if self.state().is_closed {
            return Ok(());
        }
        let id = PodId::from_random(random_bytes()?);
        self.state().ids.insert(id.clone());
        let mut spare = Driver::new(host.clone(), id, Arc::new(nobody(kind)));
        let made = spare.make_spare().await;
        let mut state = self.state();
        match made {
            Ok(()) => state.ready.push(spare),
            Err(_) => state.depart(spare),
        }
        made
    }

    /// Gives all addresses back that wait for pods, since one waits for them.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        for spare in std::mem::take(&mut state.ready) {
            state.depart(spare);
        }
    }

    /// Takes all down that wait or are on the way, and returns when they are gone, or are not after a while. While what it
    /// returns is held, none is made.
    pub(crate) async fn clear(&self) -> TaskGuard<'_, ()> {
        let none_is_made = self.making.lock().await;
        self.give_up();
        let mut leaving = std::mem::take(&mut self.state().leaving);
        let gone = async { while leaving.join_next().await.is_some() {} };
        if timeout(departures::PATIENCE, gone).await.is_err() {
            // Something of one stays against all efforts, and holds nobody else up.
            leaving.detach_all();
        }
        none_is_made
    }

    /// The same, and none is made any more. What does not go in time is left to the next agent.
    pub(crate) async fn close(&self) {
        self.state().is_closed = true;
        if timeout(DEATH_LIMIT, self.clear()).await.is_err() {
            tracing::warn!("spare sandboxes not taken down");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Those of another kind than is wanted go, and so do those that have died. Returns what is wanted.
    fn drop_unfit(&mut self) -> Option<Kind> {
        let kind = self.kind?;
        let unfit = |spare: &mut Driver| kind_of(&spare.spec) != Some(kind) || !spare.is_well();
        let unfit: Vec<_> = self.ready.extract_if(.., unfit).collect();
        for spare in unfit {
            self.depart(spare);
        }
        Some(kind)
    }

    /// Takes a spare down in the background.
    fn depart(&mut self, spare: Driver) {
        spare.host.departures.begin(&spare.id);
        self.ids.remove(&spare.id);
        while self.leaving.try_join_next().is_some() {}
        self.leaving.spawn(spare.finish_tear_down());
    }
}

/// The pod of a spare, until one comes.
fn nobody(Kind { shared_pid }: Kind) -> SandboxSpec {
    SandboxSpec {
        identity: PodIdentity {
            name: "spare".to_owned(),
            namespace: String::new(),
            uid: String::new(),
            attempt: 0,
        },
        hostname: String::new(),
        log_directory: None,
        dns: None,
        labels: Default::default(),
        annotations: Default::default(),
        cgroup_parent: None,
        sysctls: Vec::new(),
        ports: Vec::new(),
        net: Sharing::Own,
        ipc: Sharing::Own,
        pid: if shared_pid { PodPid::Pod } else { PodPid::Container },
        user_namespace: None,
        privileged: false,
        resources: Default::default(),
        runtime_handler: String::new(),
    }
}

impl Driver {
    /// Whether monitor and pause live, as far as is known.
    fn is_well(&self) -> bool {
        // Whatever they say unasked is that something has ended.
        self.monitor.as_ref().is_some_and(|monitor| monitor.news.is_empty() && !monitor.news.is_closed())
    }

    /// Makes a sandbox that waits for its pod. What is left of it on an error is to be taken down.
    async fn make_spare(&mut self) -> Result<()> {
        point!("make spare sandbox").pass_in_task().await?;
        {
            let mut leases = self.host.leases();
            self.addresses = leases.lease(self.id.as_str())?;
            if let Some(subnet) = leases.exhausted() {
                // The last ones are for those who ask.
                return Err(berth_net::Error::AddressesExhausted { subnet }.into());
            }
        }
        let directory = self.host.pod_directory(&self.id);
        let make: Work = Box::new(move |_| {
            std::fs::create_dir_all(&directory).map_err(Error::file("create directory", &directory))
        });
        let cgroups = self.cgroups()?;
        let attach = self.make_namespaces(&cgroups, Purpose::Spare, make).await?;
        self.blocking_steps(attach).await
    }

    /// Makes this spare the pod, beside what has to come first. One that is not fit for it any more is taken down, but for
    /// its addresses, and the pod gets another; what connects that to the network is left to be done.
    pub(crate) async fn occupy(&mut self, cgroups: &PodCgroups, first: Work) -> Result<Work> {
        let Err(error) = self.try_to_occupy(cgroups, first).await? else {
            self.begin_move(cgroups);
            return Ok(no_work());
        };
        tracing::warn!(pod.id = %self.id, error = %with_causes(&error), "spare sandbox of no use");
        self.note_silence(&error);
        self.take_network_and_monitor_down().await?;
        // They can't be used again: Linux 6.18 kills whoever is born into a cgroup (CLONE_INTO_CGROUP) whose processes were
        // once killed by `cgroup.kill`.
        self.remove_cgroups().await?;
        self.make_namespaces(cgroups, Purpose::Pod, no_work()).await
    }

    /// The monitor is told while the files are written and the link is looked at. The inner error is the spare's.
    async fn try_to_occupy(&mut self, cgroups: &PodCgroups, first: Work) -> Result<Result<()>> {
        let (host, name) = (self.host.clone(), self.host_interface()?);
        let own_cgroup = self.spec.cgroup_parent.is_some().then(|| cgroups.sandbox.clone());
        let prepare = move |steps: &mut Steps| {
            first(steps)?;
            if let Some(path) = own_cgroup {
                make_cgroup(steps, &host, &path)?;
            }
            let look = || Ok(host.network.check_attached(&name)?);
            Ok(steps.step(point!("look at the spare sandbox"), "", look))
        };
        let Some(link) = self.monitor.as_ref().map(|monitor| monitor.link.clone()) else {
            return Ok(Err(Error::MonitorGone));
        };
        let hostname = hostname_of(&self.spec);
        let step = point!("occupy the spare sandbox");
        let order = async {
            let told = UnderWay::begin(step, "");
            let order = link.ask_within(OCCUPATION_LIMIT, MonitorOrder::Occupy { hostname }, &[]);
            told.end(limited(passing(step, order)).await)
        };
        let (prepared, (done, occupied)) = tokio::join!(self.blocking_steps(prepare), order);
        done.enter(&mut self.timeline);
        Ok(prepared?.and(occupied.map(drop)))
    }

    /// Moves monitor and pause into the pod's cgroup, in the background, and removes the one in which they have waited. If
    /// the agent dies meanwhile, the next one goes on.
    pub(crate) fn begin_move(&mut self, cgroups: &PodCgroups) {
        let Some(monitor) = self.monitor.as_ref().filter(|_| self.spec.cgroup_parent.is_some()) else {
            return;
        };
        // The parent that the pod names may be the agent's own.
        let from = self.host.own_cgroup(&self.id).ok().filter(|from| *from != cgroups.own);
        let Some(from) = from else { return };
        let pids: Vec<_> = [Some(monitor.pid), monitor.pause_pid].into_iter().flatten().collect();
        let (host, to) = (self.host.clone(), cgroups.sandbox.clone());
        let work = move || {
            let from = host.cgroups.open(&from);
            let to = host.cgroups.open(&to);
            for pid in pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()) {
                to.adopt(pid)?;
            }
            // Who was born to the monitor meanwhile goes where it belongs by itself, or stays, as what runs for another
            // runtime does; then the cgroup goes with the pod.
            from.remove_if_empty()?;
            Ok(())
        };
        let moving = async move { blocking(work).await? };
        self.moving = Some(tokio::spawn(passing(point!("move monitor and pause"), moving)));
    }

    /// Goes on with a move that an earlier agent has begun.
    pub(crate) async fn go_on_moving(&mut self) {
        let (Ok(cgroups), Ok(waiting)) = (self.cgroups(), self.host.own_cgroup(&self.id)) else { return };
        let host = self.host.clone();
        let is_there = blocking(move || host.cgroups.open(&waiting).exists()).await;
        if is_there.is_ok_and(|is_there| is_there) {
            self.begin_move(&cgroups);
        }
    }

    /// Waits until nobody is being moved any more.
    pub(crate) async fn end_move(&mut self) {
        let Some(moving) = self.moving.take() else { return };
        if let Err(error) = moving.await.unwrap_or(Err(Error::Abandoned)) {
            tracing::warn!(pod.id = %self.id, error = %with_causes(&error), "monitor and pause not moved");
        }
    }
}
