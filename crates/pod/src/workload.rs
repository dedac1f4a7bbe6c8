//! The steps of a container's life, as its pod's driver takes them.
//!
//! ```text
//!   Create            Start              the process ends
//!  ────────▶ Created ──────▶ Running ───────────────────────▶ Exited ──Remove──▶ (gone)
//!               └── Stop, Remove ────────────────────────────────▶┘
//! ```
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
use berth_monitor::protocol::{Answer, Exit, Order as MonitorOrder, ResolvedUser, exit_record_path};
use berth_store::{Change, ErrorKind, with_causes};

use crate::driver::{Driver, Reply, passing};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::host::blocking;
use crate::launching::launch;
use crate::link::{Link, Reach};
use crate::pins::{PinnedImages, holders, pin_images, unpin_images};
use crate::record::{ContainerRecord, SandboxPhase};
use crate::sandbox::{DEATH_LIMIT, remove_directory};
use crate::stop::Stopping;
use crate::view::{ContainerState, ContainerView, Ended, Reason};

/// The exit code of a container whose own could not be learned, as containerd gives it.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// A container as its driver holds it.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) record: ContainerRecord,
    spec: Arc<ContainerSpec>,
    cgroup: CgroupPath,
    /// Its first process in the host's pid namespace.
    pub(crate) pid: Option<i32>,
    pub(crate) stopping: Option<Stopping>,
}

impl Workload {
    pub(crate) fn new(record: ContainerRecord, cgroup: CgroupPath, pid: Option<i32>) -> Self {
        let spec = Arc::new(record.spec.clone());
        Self { record, spec, cgroup, pid, stopping: None }
    }

    /// Whether its first process lives.
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.record.state, Some(ContainerState::Created | ContainerState::Running { .. }))
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
            state: record.state.clone()?,
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

    /// Takes in the end; returns who waits for it, to be told once it has been published.
    #[must_use]
    pub(crate) fn end(&mut self, ended: Ended) -> Vec<Reply<()>> {
        self.record.state = Some(ContainerState::Exited(ended));
        self.stopping.take().map(|stopping| stopping.waiters).unwrap_or_default()
    }

    pub(crate) fn started_at_ns(&self) -> Option<i64> {
        match self.record.state {
            Some(ContainerState::Running { started_at_ns }) => Some(started_at_ns),
            None | Some(ContainerState::Created | ContainerState::Exited(_)) => None,
        }
    }
}

impl Driver {
    /// Makes a container up to its gate. On an error nothing of it is left.
    pub(crate) async fn create_container(&mut self, spec: ContainerSpec) -> Result<ContainerId> {
        let link = self.ready_link()?;
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
        let half_made =
            |(id, workload): (&ContainerId, &Workload)| workload.record.state.is_none().then(|| id.clone());
        let ids: Vec<ContainerId> = self.containers.iter().filter_map(half_made).collect();
        for id in ids {
            self.tear_container_down(&id).await?;
        }
        Ok(())
    }

    /// Takes down what the last agent could neither finish nor undo, unless its monitor may still be at it.
    pub(crate) async fn finish_half_made(&mut self) {
        if self.is_out_of_reach() {
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
            state: None,
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
        self.containers.insert(id.clone(), Workload::new(record, path.clone(), None));
        self.step(point!("record intent of container"), &name, host.commit(change)).await?;

        let (rootfs, for_cgroup) = (planned.launch.rootfs.clone(), host.clone());
        let device_rules = planned.device_rules;
        let prepare = move || {
            make_directories(&rootfs)?;
            point!("make cgroup of container").pass()?;
            let cgroup = for_cgroup.cgroups.create(&path)?;
            point!("limit container").pass()?;
            if let Some(rules) = device_rules {
                cgroup.allow_devices(&rules)?;
            }
            Ok(cgroup.apply(&limits)?)
        };
        let step = point!("make directories and cgroup of container");
        let left_out = self.blocking_step(step, &name, prepare).await?;

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
        (record.user, record.state) = (user, Some(ContainerState::Created));
        let made = Change::new().put(&record)?;
        self.step(point!("record container"), &name, host.commit(made)).await?;
        let workload = self.workload_mut(id)?;
        (workload.pid, workload.record) = (Some(pid), record);
        Ok(())
    }

    /// Opens the gate.
    pub(crate) async fn start_container(&mut self, id: &ContainerId) -> Result<()> {
        let link = self.ready_link()?;
        let workload = self.workload_mut(id)?;
        match &workload.record.state {
            Some(ContainerState::Created) => {}
            Some(ContainerState::Running { .. }) => return Err(wrong_state(id, "is running already")),
            None | Some(ContainerState::Exited(_)) => return Err(wrong_state(id, "has exited")),
        }
        let name = workload.spec.name.clone();
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
        let workload = self.workload_mut(id)?;
        workload.record.state = Some(ContainerState::Running { started_at_ns: at_ns });
        self.save_container(id).await;
        self.tell(id.to_string(), EventKind::Started);
        tracing::info!(pod.id = %self.id, container.id = %id, container.name = name, "container started");
        Ok(())
    }

    /// Ends a container if it runs, and removes every trace of it; absent means done. The log belongs to the kubelet.
    pub(crate) async fn remove_container(&mut self, id: &ContainerId) -> Result<()> {
        match self.containers.get(id) {
            None => return Ok(()),
            Some(workload) if workload.is_alive() => {
                self.kill(id).await;
                self.await_end(id).await?;
            }
            Some(_) => {}
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
        let link = self.ready_link()?;
        if self.workload_mut(id)?.started_at_ns().is_none() {
            return Err(wrong_state(id, "is not running"));
        }
        link.ask(MonitorOrder::ReopenLog { container: id.clone() }, &[]).await.map(drop)
    }

    /// A container's first process has ended.
    pub(crate) async fn container_exited(&mut self, id: &ContainerId, exit: Exit) {
        let Some(workload) = self.containers.get_mut(id).filter(|workload| workload.is_alive()) else {
            return;
        };
        if exit.dropped_log_bytes > 0 {
            let (bytes, error) = (exit.dropped_log_bytes, exit.log_error.as_deref());
            tracing::warn!(pod.id = %self.id, container.id = %id, bytes, error, "log could not be written");
        }
        let ended = ended(workload.started_at_ns(), exit);
        tracing::info!(
            pod.id = %self.id, container.id = %id, exit.code = ended.exit_code, reason = ended.reason.as_str(),
            "container exited"
        );
        let waiters = workload.end(ended);
        self.publish_end(id, waiters).await;
    }

    async fn publish_end(&mut self, id: &ContainerId, waiters: Vec<Reply<()>>) {
        self.save_container(id).await;
        self.tell(id.to_string(), EventKind::Stopped);
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
        let how = match self.monitor.is_some() || self.is_out_of_reach() {
            true => "its end was not seen: the pod's monitor does not answer",
            false => "the container ended together with its monitor",
        };
        let Some(workload) = self.containers.get_mut(id) else { return };
        let started_at_ns = workload.started_at_ns();
        let ended = exit.map_or_else(|| lost(started_at_ns, how), |exit| ended(started_at_ns, exit));
        let waiters = workload.end(ended);
        self.publish_end(id, waiters).await;
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

    fn ready_link(&self) -> Result<Link> {
        match (&self.monitor, &**self.reach.load(), self.phase) {
            (Some(monitor), _, SandboxPhase::Ready) => Ok(monitor.link.clone()),
            (None, Reach::Blocked(why), _) => {
                Err(Error::OutOfReach { pod: self.id.to_string(), why: why.clone() })
            }
            _ => Err(Error::WrongState { object: format!("pod sandbox {}", self.id), state: "is not ready" }),
        }
    }

    pub(crate) fn container_cgroup(&self, id: &ContainerId) -> Result<Cgroup> {
        Ok(self.host.cgroups.open(&self.cgroups()?.base.join(id.as_str())?))
    }

    pub(crate) fn workload_mut(&mut self, id: &ContainerId) -> Result<&mut Workload> {
        self.containers.get_mut(id).ok_or_else(|| Error::NoContainer { id: id.to_string() })
    }

    /// A container with the same name and attempt: the same request again gets it, another one is refused.
    fn same_name(&self, spec: &ContainerSpec) -> Option<Result<ContainerId>> {
        let same =
            |workload: &&Workload| workload.spec.name == spec.name && workload.spec.attempt == spec.attempt;
        let existing = self.containers.values().find(same)?;
        let difference = match (*existing.spec == *spec, &existing.record.state) {
            (true, Some(ContainerState::Created)) => return Some(Ok(existing.record.id.clone())),
            (true, _) => "and has been started",
            (false, _) => "with another configuration",
        };
        let object = format!("container {:?} attempt {}", spec.name, spec.attempt);
        Some(Err(Error::Exists { object, id: existing.record.id.to_string(), difference }))
    }
}

/// What a monitor's word on an exit means to a client.
pub(crate) fn ended(started_at_ns: Option<i64>, exit: Exit) -> Ended {
    let Exit { code, at_ns, oom_killed, start_error, dropped_log_bytes: lost_log_bytes, log_error: _ } = exit;
    let (reason, message) = match (start_error, oom_killed, code) {
        (Some(error), _, _) => (Reason::StartError, error),
        // Also where a child was the victim and the container ended well: as with containerd and CRI-O.
        (None, true, _) => (Reason::OomKilled, String::new()),
        (None, false, 0) => (Reason::Completed, String::new()),
        (None, false, _) => (Reason::Error, String::new()),
    };
    Ended { started_at_ns, finished_at_ns: at_ns, exit_code: code, reason, message, lost_log_bytes }
}

fn lost(started_at_ns: Option<i64>, how: &str) -> Ended {
    Ended {
        started_at_ns,
        finished_at_ns: crate::clock::now_ns(),
        exit_code: UNKNOWN_EXIT_CODE,
        reason: Reason::Unknown,
        message: how.to_owned(),
        lost_log_bytes: 0,
    }
}

fn make_directories(rootfs: &Rootfs) -> Result<()> {
    for directory in [&rootfs.staging, &rootfs.upper, &rootfs.work] {
        std::fs::create_dir_all(directory).map_err(Error::file("create directory", directory))?;
    }
    Ok(())
}

fn wrong_state(id: &ContainerId, state: &'static str) -> Error {
    Error::WrongState { object: format!("container {id}"), state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_those_that_kubectl_describe_shows() {
        let exit = |code, oom_killed, start_error: Option<&str>| Exit {
            code,
            at_ns: 2,
            oom_killed,
            start_error: start_error.map(str::to_owned),
            dropped_log_bytes: 0,
            log_error: None,
        };
        for (exit, reason) in [
            (exit(0, false, None), "Completed"),
            // A child was killed for want of memory, and the container went on and ended well.
            (exit(0, true, None), "OOMKilled"),
            (exit(137, true, None), "OOMKilled"),
            (exit(1, false, None), "Error"),
            (exit(128, false, Some("execute: x")), "StartError"),
        ] {
            assert_eq!(ended(Some(1), exit.clone()).reason.as_str(), reason, "{exit:?}");
        }
    }
}
