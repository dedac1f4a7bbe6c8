//! The steps of a container's life, as its pod's driver takes them; `lifecycle` says which state allows what.
//!
//! Made: pin the image, plan (`planning`), record the intent, directories, cgroup with limits, launch up to the gate;
//! the record as created is the commit. Taken down by [`Driver::tear_container_down`], however far it came: processes,
//! cgroup, directories, and then the record and the pins.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use berth_cgroup::{Cgroup, CgroupPath, Limits};
use berth_container::spec::ContainerSpec;
use berth_fault::point;
use berth_monitor::id::ContainerId;
use berth_monitor::memfd_of;
use berth_monitor::plan::Rootfs;
use berth_monitor::protocol::{Answer, Order as MonitorOrder, ResolvedUser, exit_record_path};
use berth_store::{Change, ErrorKind, with_causes};

use crate::driver::{Driver, Reply, passing};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::host::blocking;
use crate::launching::launch;
use crate::lifecycle::Again;
use crate::lifecycle::container::{self, Event, Life, Request, Stage};
use crate::lifecycle::sandbox::{self, Contact};
use crate::lifecycle::stopping::{DEATH_LIMIT, Stopping};
use crate::link::Link;
use crate::pins::{PinnedImages, holders, pin_images, unpin_images};
use crate::record::ContainerRecord;
use crate::sandbox::remove_directory;
use crate::steps::Steps;
use crate::view::{ContainerState, ContainerView};

/// A container as its driver holds it.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) record: ContainerRecord,
    spec: Arc<ContainerSpec>,
    cgroup: CgroupPath,
    /// Its first process in the host's pid namespace.
    pub(crate) pid: Option<i32>,
    pub(crate) stopping: Option<Stopping<Reply<()>>>,
}

impl Workload {
    pub(crate) fn new(record: ContainerRecord, cgroup: CgroupPath, pid: Option<i32>) -> Self {
        let spec = Arc::new(record.spec.clone());
        Self { record, spec, cgroup, pid, stopping: None }
    }

    /// Whether its first process lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.record.state.is_alive()
    }

    /// When the driver has to look after it unasked.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.stopping.as_ref().map(Stopping::next)
    }

    /// As readers see it; `None` until it has been made.
    pub(crate) fn view(&self) -> Option<Arc<ContainerView>> {
        let record = &self.record;
        Some(Arc::new(ContainerView {
            id: record.id.clone(),
            pod: record.pod.clone(),
            spec: self.spec.clone(),
            image: record.image.clone(),
            volume_images: record.volume_images.clone(),
            state: record.state.seen()?.clone(),
            created_at_ns: record.created_at_ns,
            pid: self.pid.filter(|_| self.is_alive()),
            user: record.user.clone(),
            log_path: record.log_path.clone(),
            stop_signal: record.stop_signal,
            cgroup: self.cgroup.as_str().to_owned(),
            limits: self.limits(),
            oom_score_adj: record.oom_score_adj.or(record.spec.oom_score_adj),
        }))
    }

    /// What its cgroup is limited to.
    pub(crate) fn limits(&self) -> Limits {
        let record = &self.record;
        record.limits.clone().unwrap_or_else(|| record.spec.limits.clone().settled())
    }

    /// Takes in what has happened; returns who waited for it, to be told once it has been published. `None` if it is
    /// nothing new.
    pub(crate) fn take(&mut self, event: Event) -> Option<Vec<Reply<()>>> {
        let is_news = self.record.state.take(event);
        is_news.then(|| Stopping::released(&mut self.stopping, self.record.state.stage()))
    }
}

impl Driver {
    /// Makes a container up to its gate. On an error nothing of it is left.
    pub(crate) async fn create_container(&mut self, spec: ContainerSpec) -> Result<ContainerId> {
        let link = self.link_for(sandbox::Request::CreateContainer)?;
        self.tear_half_made_down().await?;
        if let Some(existing) = self.same_name(&spec) {
            return existing;
        }
        let id = ContainerId::from_random(crate::registry::random_bytes()?);
        let images = pin_images(&self.host.images, &spec, &id)?;
        let (name, holders) = (spec.name.clone(), holders(&spec, &id));
        let made = self.make_container(&id, spec, &images, &link).await;
        if let Err(error) = made {
            self.note_silence(&error);
            if let Err(left) = self.tear_container_down(&id).await {
                tracing::error!(container.id = %id, error = %with_causes(&left), "container half made");
            }
            // Without a record, taking it down knows nothing of them; one that is half made keeps them.
            if !self.containers.contains_key(&id) {
                holders.iter().for_each(|holder| self.host.images.unpin(holder));
            }
            self.publish();
            return Err(error);
        }
        self.publish();
        self.tell(id.to_string(), EventKind::Created);
        tracing::info!(pod.id = %self.id, container.id = %id, container.name = name, "container created");
        Ok(id)
    }

    /// Tries again to take down what an earlier create could neither finish nor undo; nobody else can see it.
    async fn tear_half_made_down(&mut self) -> Result<()> {
        let all = self.containers.keys().cloned();
        let half_made: Vec<ContainerId> = all.filter(|id| self.stage(id) == Stage::HalfMade).collect();
        for id in half_made {
            self.tear_container_down(&id).await?;
        }
        Ok(())
    }

    /// Takes down what the last agent could neither finish nor undo, unless its monitor may still be at it.
    pub(crate) async fn finish_half_made(&mut self) {
        if self.contact() == Contact::Blocked {
            return;
        }
        if let Err(error) = self.tear_half_made_down().await {
            tracing::error!(pod.id = %self.id, error = %with_causes(&error), "half-made container stays for now");
        }
    }

    async fn make_container(
        &mut self,
        id: &ContainerId,
        spec: ContainerSpec,
        images: &PinnedImages,
        link: &Link,
    ) -> Result<()> {
        let name = spec.name.clone();
        let host = self.host.clone();
        // Before anything is made.
        let planned = self.plan_container(id, &spec, images).await?;
        link.check_features(&planned.launch)?;

        let record = ContainerRecord {
            id: id.clone(),
            pod: self.id.clone(),
            spec,
            image: images.image.id.clone(),
            volume_images: images.volume_ids(),
            state: Life::default(),
            created_at_ns: crate::clock::now_ns(),
            user: ResolvedUser::default(),
            log_path: planned.launch.stdio.log.clone(),
            stop_signal: planned.stop_signal,
            limits: None,
            oom_score_adj: planned.launch.process.oom_score_adj,
        };
        let change = Change::new().put(&record)?;
        let limits = record.spec.limits.clone().settled();
        let path = self.container_cgroup(id)?.path().clone();
        self.containers.insert(id.clone(), Box::new(Workload::new(record, path.clone(), None)));

        let (rootfs, of, object) = (planned.launch.rootfs.clone(), host.clone(), name.clone());
        let device_rules = planned.device_rules;
        let prepare = move |steps: &mut Steps| {
            steps.step(point!("record intent of container"), &object, || of.commit_now(change))?;
            let directories = || make_directories(&rootfs);
            steps.step(point!("make directories of container"), &object, directories)?;
            let cgroup = || Ok(of.cgroups.create(&path)?);
            let cgroup = steps.step(point!("make cgroup of container"), &object, cgroup)?;
            let limit = || {
                if let Some(rules) = device_rules {
                    cgroup.allow_devices(&rules)?;
                }
                Ok(cgroup.apply(&limits)?)
            };
            steps.step(point!("limit container"), &object, limit)
        };
        let left_out = self.blocking_steps(prepare).await?;

        let plan = memfd_of(&planned.launch).map_err(Error::Spawn)?;
        let fds = [plan.as_fd()];
        let (cgroup, spec) = (self.container_cgroup(id)?, self.workload_mut(id)?.spec.clone());
        let launched = launch(link, &fds, cgroup, &spec);
        let launched = self.step(point!("launch container"), &name, launched).await?;
        let Answer::Launched { pid, user, warnings } = launched else {
            return Err(Error::MonitorGone);
        };
        for warning in left_out.into_iter().chain(warnings) {
            tracing::warn!(container.id = %id, warning, "container launched with a reservation");
        }

        // The commit: from here on the container exists, and no sooner; one that could not be recorded is half made.
        let mut record = self.workload_mut(id)?.record.clone();
        let _ = record.state.take(Event::Launched);
        record.user = user;
        let made = Change::new().put(&record)?;
        self.step(point!("record container"), &name, host.commit(made)).await?;
        let workload = self.workload_mut(id)?;
        (workload.pid, workload.record) = (Some(pid), record);
        Ok(())
    }

    /// Opens the gate. The answer does not wait for the record: the monitor knows, too, and tells the next agent.
    pub(crate) async fn start_container(&mut self, id: &ContainerId, reply: Reply<()>) {
        let started = self.open_gate(id).await;
        let is_news = matches!(started, Ok(true));
        if is_news {
            self.publish();
            self.tell(id.to_string(), EventKind::Started);
        }
        let _ = reply.send(started.map(drop));
        if is_news {
            self.save_container(id).await;
        }
    }

    /// Whether that is news.
    async fn open_gate(&mut self, id: &ContainerId) -> Result<bool> {
        let link = self.link_for(sandbox::Request::StartContainer)?;
        self.admit(Request::Start, id)?;
        let name = self.workload_mut(id)?.spec.name.clone();
        let order = MonitorOrder::Start { container: id.clone() };
        let started = self.step(point!("start container"), &name, link.ask(order, &[])).await;
        // A program that can't be executed has left an exit behind, which comes before the answer.
        let Answer::Started { at_ns, .. } = (match started {
            Ok(answer) => answer,
            Err(error) => {
                self.note_silence(&error);
                // Should the monitor get to it after all, the container must not run while it counts as not started.
                if error.kind() == ErrorKind::DeadlineExceeded {
                    self.kill(id).await;
                }
                self.hear_all().await;
                return Err(error);
            }
        }) else {
            return Err(Error::MonitorGone);
        };
        tracing::info!(pod.id = %self.id, container.id = %id, container.name = name, "container started");
        Ok(self.workload_mut(id)?.take(Event::Started { at_ns }).is_some())
    }

    /// Ends a container if it runs, and removes every trace of it; absent means done. The log belongs to the kubelet.
    pub(crate) async fn remove_container(&mut self, id: &ContainerId) -> Result<()> {
        if !self.admit(Request::Remove, id)? {
            return Ok(());
        }
        if self.containers.get(id).is_some_and(|workload| workload.is_alive()) {
            self.kill(id).await;
            self.await_end(id).await?;
        }
        self.tear_container_down(id).await?;
        self.publish();
        self.tell(id.to_string(), EventKind::Deleted);
        tracing::info!(pod.id = %self.id, container.id = %id, "container removed");
        Ok(())
    }

    /// Undoes [`Driver::make_container`], however far it came; absent means done.
    pub(crate) async fn tear_container_down(&mut self, id: &ContainerId) -> Result<()> {
        if let Some(monitor) = &self.monitor {
            let [kill, forget] = [
                MonitorOrder::Kill { container: id.clone() },
                MonitorOrder::Forget { container: id.clone() },
            ]
            .map(|order| monitor.link.ask_within(monitor.patience(), order, &[]));
            // Sent in this order; one that does not answer is waited for once.
            let (killed, _) = tokio::join!(biased; kill, forget);
            if let Err(error) = killed {
                self.note_silence(&error);
            }
        }
        let cgroup = self.container_cgroup(id)?;
        let directory = self.host.container_directory(id);
        let exit_record = exit_record_path(&self.host.pod_directory(&self.id), id);
        self.late.end(DEATH_LIMIT).await?;
        let remove = move || Ok(cgroup.remove(DEATH_LIMIT)?);
        self.blocking_step(point!("remove cgroup of container"), id.as_str(), remove).await?;
        self.forget_foreign(id).await;
        let remove = move || {
            let _ = std::fs::remove_file(exit_record);
            remove_directory(&directory)
        };
        self.blocking_step(point!("remove directory of container"), id.as_str(), remove).await?;
        let forget = Change::new().delete::<ContainerRecord>(id.to_string());
        let host = self.host.clone();
        self.step(point!("delete record of container"), id.as_str(), host.commit(forget)).await?;
        if let Some(workload) = self.containers.remove(id) {
            unpin_images(&self.host.images, &workload.spec, id);
        }
        Ok(())
    }

    /// Has the monitor close the log and open it anew by its name.
    pub(crate) async fn reopen_log(&mut self, id: &ContainerId) -> Result<()> {
        let link = self.link_for(sandbox::Request::ReopenLog)?;
        self.admit(Request::ReopenLog, id)?;
        link.ask(MonitorOrder::ReopenLog { container: id.clone() }, &[]).await.map(drop)
    }

    /// Takes in what has happened to a container: records it, publishes it, tells listeners, and then who waited for it.
    pub(crate) async fn take_in(&mut self, id: &ContainerId, event: Event) {
        let Some(workload) = self.containers.get_mut(id) else { return };
        let log_error = match &event {
            Event::Ended(exit) => exit.log_error.clone(),
            Event::Launched | Event::Started { .. } | Event::Lost { .. } => None,
        };
        let Some(waiters) = workload.take(event) else { return };
        let state = workload.record.state.seen().cloned();
        if let Some(ContainerState::Exited(ended)) = &state {
            if ended.lost_log_bytes > 0 {
                let (bytes, error) = (ended.lost_log_bytes, log_error);
                tracing::warn!(pod.id = %self.id, container.id = %id, bytes, error, "log could not be written");
            }
            tracing::info!(
                pod.id = %self.id, container.id = %id, exit.code = ended.exit_code, reason = ended.reason.as_str(),
                "container exited"
            );
        }
        self.save_container(id).await;
        if let Some(state) = state {
            self.tell(id.to_string(), EventKind::of(&state));
        }
        for waiter in waiters {
            let _ = waiter.send(Ok(()));
        }
    }

    /// Without a monitor, no container can be said to run.
    pub(crate) async fn lose_containers(&mut self) {
        let alive: Vec<ContainerId> =
            self.containers.iter().filter(|(_, w)| w.is_alive()).map(|(id, _)| id.clone()).collect();
        for id in alive {
            self.lose_container(&id).await;
        }
    }

    /// Kills what may be left of a container; what it left as its exit record is all that can be known of its end.
    pub(crate) async fn lose_container(&mut self, id: &ContainerId) {
        if let Ok(cgroup) = self.container_cgroup(id) {
            let _ = blocking(move || berth_cgroup::kill_all(&cgroup.entry())).await;
        }
        let record = std::fs::read(exit_record_path(&self.host.pod_directory(&self.id), id)).ok();
        let exit = record.and_then(|text| serde_json::from_slice(&text).ok());
        let how = match self.contact() {
            Contact::Open | Contact::Blocked => "its end was not seen: the pod's monitor does not answer",
            Contact::Gone => "the container ended together with its monitor",
        };
        let lost = || Event::Lost { at_ns: crate::clock::now_ns(), how };
        self.take_in(id, exit.map_or_else(lost, Event::Ended)).await;
    }

    /// Records and publishes a container as it is now; see [`Driver::save`].
    pub(crate) async fn save_container(&mut self, id: &ContainerId) {
        let Some(workload) = self.containers.get(id) else {
            return;
        };
        let change = Change::new().put(&workload.record).map_err(Error::from);
        let saved = match change {
            Ok(change) => passing(point!("save the container"), self.host.commit(change)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = saved {
            tracing::error!(container.id = %id, error = %with_causes(&error), "container not recorded");
        }
        self.publish();
    }

    /// The connection to the monitor, for a request that this pod allows.
    fn link_for(&self, request: sandbox::Request) -> Result<Link> {
        let not_ready =
            || Error::WrongState { object: format!("pod sandbox {}", self.id), state: "is not ready" };
        self.reach.load().link_for(request, &self.id, self.phase.seen(), not_ready)
    }

    /// Whether there is something to do for what is asked of a container, whose state allows it.
    pub(crate) fn admit(&self, request: Request, id: &ContainerId) -> Result<bool> {
        container::answer(request, self.stage(id)).admits(id.as_str())
    }

    pub(crate) fn stage(&self, id: &ContainerId) -> Stage {
        self.containers.get(id).map_or(Stage::Gone, |workload| workload.record.state.stage())
    }

    pub(crate) fn container_cgroup(&self, id: &ContainerId) -> Result<Cgroup> {
        Ok(self.host.cgroups.open(&self.cgroups()?.base.join(id.as_str())?))
    }

    pub(crate) fn workload_mut(&mut self, id: &ContainerId) -> Result<&mut Workload> {
        let found = self.containers.get_mut(id).map(Box::as_mut);
        found.ok_or_else(|| Error::NoContainer { id: id.to_string() })
    }

    /// A container with the same name and attempt: the same request again gets it, another one is refused.
    fn same_name(&self, spec: &ContainerSpec) -> Option<Result<ContainerId>> {
        let same =
            |workload: &Workload| workload.spec.name == spec.name && workload.spec.attempt == spec.attempt;
        let existing = self.containers.values().find(|workload| same(workload))?;
        let again = container::create_again(*existing.spec == *spec, existing.record.state.stage());
        let Again::Differs(difference) = again else { return Some(Ok(existing.record.id.clone())) };
        let object = format!("container {:?} attempt {}", spec.name, spec.attempt);
        Some(Err(Error::Exists { object, id: existing.record.id.to_string(), difference }))
    }
}

fn make_directories(rootfs: &Rootfs) -> Result<()> {
    for directory in [&rootfs.staging, &rootfs.upper, &rootfs.work] {
        std::fs::create_dir_all(directory).map_err(Error::file("create directory", directory))?;
    }
    Ok(())
}
