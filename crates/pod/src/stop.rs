//! How containers end: asked first, killed when their grace is over, and given up if not even that ends them; which of
//! these is due when, `lifecycle/stopping` says.
//!
//! All of that goes by the monitor, and past it where it can't be reached or does not answer: then the first process is
//! signalled from here (`stop/past_monitor`), the rest killed by cgroup, and the end is looked for. A monitor that is
//! only held up loses that container and no other.

mod past_monitor;

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_fault::{Point, point};
use berth_monitor::id::ContainerId;
use berth_monitor::protocol::{Answer, Order as MonitorOrder};
use berth_store::with_causes;

use crate::driver::{Driver, Monitor, Reply, passing};
use crate::error::{Error, Result};
use crate::host::blocking;
use crate::lifecycle::container::Request;
use crate::lifecycle::stopping::{DEATH_LIMIT, Due, LOOK_PERIOD, Opening, Sight, Stopping};
use crate::sandbox::KILL_ANSWER_LIMIT;
use crate::workload::Workload;

impl Driver {
    /// Asks the container to stop, and kills it after `grace`; answers when it has ended. A second call with less
    /// grace shortens that of the first.
    pub(crate) async fn stop_container(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        match self.admit(Request::Stop, id) {
            Ok(true) => {}
            Ok(false) => return drop(reply.send(Ok(()))),
            Err(error) => return drop(reply.send(Err(error))),
        }
        let Ok(workload) = self.workload_mut(id) else { return };
        let stage = workload.record.state.stage();
        let signal = workload.record.stop_signal;
        if Stopping::ask(&mut workload.stopping, stage, grace, Instant::now(), reply) == Opening::Signal {
            self.signal(id, signal).await;
        }
        self.meet_stops().await;
    }

    /// Asks a container to end, past its monitor if that can't be asked: then nobody tells of the end.
    async fn signal(&mut self, id: &ContainerId, signal: i32) {
        let order = MonitorOrder::Signal { container: id.clone(), signal };
        // One that has just ended needs no signal.
        let told = self.tell_monitor(point!("signal container"), order).await;
        if !told.is_err_and(|error| is_unheard(&error)) {
            return;
        }
        if let Ok(cgroup) = self.container_cgroup(id)
            && let Ok(Err(error)) = blocking(move || past_monitor::signal_first(&cgroup, signal)).await
        {
            let error = with_causes(&error);
            tracing::warn!(pod.id = %self.id, container.id = %id, error, "container not signalled");
        }
        if let Some(stopping) = self.stopping(id) {
            stopping.went_unheard(Instant::now());
        }
    }

    /// Does what is due for stops: kills containers whose grace is over, looks for ends that nobody tells of, and gives
    /// up on those that a kill did not end.
    pub(crate) async fn meet_stops(&mut self) {
        // While the driver was at something else, what is waited for may have been told.
        self.hear_all().await;
        let now = Instant::now();
        let is_due = |workload: &Workload| workload.deadline().is_some_and(|deadline| deadline <= now);
        let due: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, workload)| is_due(workload))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.meet_stop(&id, now).await;
        }
    }

    async fn meet_stop(&mut self, id: &ContainerId, now: Instant) {
        if self.due(id, now) == Some(Due::Look) {
            let is_empty = !self.has_processes(id).await;
            if self.stopping(id).is_some_and(|stopping| stopping.looked(is_empty, now)) {
                self.lose_container(id).await;
            }
        }
        match self.due(id, now) {
            None | Some(Due::Look) => {}
            Some(Due::Kill) => {
                self.kill(id).await;
                // One that does not answer for another reason has its time.
                let is_unseen = self.monitor.as_ref().is_none_or(Monitor::is_held_up);
                let sight = if is_unseen { Sight::Unseen } else { Sight::Seen };
                if let Some(stopping) = self.stopping(id) {
                    stopping.killed(sight, Instant::now());
                }
            }
            Some(Due::GiveUp) => {
                // Who waits is told by whatever becomes of it.
                let Err(error) = self.give_up(id).await else { return };
                let Ok(workload) = self.workload_mut(id) else { return };
                let error = Arc::new(error);
                for waiter in Stopping::lives_on(&mut workload.stopping, now) {
                    let _ = waiter.send(Err(Error::Shared(error.clone())));
                }
            }
        }
    }

    fn due(&mut self, id: &ContainerId, now: Instant) -> Option<Due> {
        let speaks = self.monitor.as_ref().is_some_and(|monitor| !monitor.link.is_silent());
        let sight = if speaks { Sight::Seen } else { Sight::Unseen };
        self.stopping(id)?.due(sight, now)
    }

    fn stopping(&mut self, id: &ContainerId) -> Option<&mut Stopping<Reply<()>>> {
        self.containers.get_mut(id)?.stopping.as_mut()
    }

    /// Gives the monitor an order. One that has not answered is not waited for again: a pod with many containers would
    /// take longer than whoever stops it waits.
    async fn tell_monitor(&self, step: Point, order: MonitorOrder) -> Result<Answer> {
        let Some(monitor) = self.monitor.as_ref().filter(|monitor| !monitor.link.is_silent()) else {
            return Err(Error::MonitorGone);
        };
        let told = passing(step, monitor.link.ask_within(KILL_ANSWER_LIMIT, order, &[])).await;
        if told.as_ref().is_err_and(Error::says_that_nobody_answered) {
            monitor.link.note_silence();
        }
        told
    }

    /// Kills a container through its monitor, and past it when there is none or it does not answer.
    pub(crate) async fn kill(&mut self, id: &ContainerId) {
        let order = MonitorOrder::Kill { container: id.clone() };
        let killed = self.tell_monitor(point!("kill container"), order).await;
        if let (Err(_), Ok(cgroup)) = (killed, self.container_cgroup(id)) {
            let _ = blocking(move || berth_cgroup::kill_all(&cgroup.entry())).await;
        }
    }

    /// A container has not ended long after it was killed. If all of its processes have, the monitor did not notice: one
    /// that is held up may go on, so that the container alone is given up; one that hangs is, and its pod with it.
    async fn give_up(&mut self, id: &ContainerId) -> Result<()> {
        let cgroup = self.container_cgroup(id)?;
        let left = blocking(move || cgroup.procs()).await??;
        if !left.is_empty() {
            return Err(Error::Unkillable { id: id.to_string(), pids: left, after: DEATH_LIMIT });
        }
        self.hear_all().await;
        if !self.containers.get(id).is_some_and(|workload| workload.is_alive()) {
            return Ok(());
        }
        // Whether or not it has been asked anything since.
        if self.monitor.as_ref().is_none_or(Monitor::stands_still) {
            self.lose_container(id).await;
            return Ok(());
        }
        tracing::warn!(pod.id = %self.id, "monitor hangs; it is killed with what is left of its pod");
        self.lose_monitor("its monitor did not notice the end of a container, and the agent killed it").await;
        Ok(())
    }

    /// Kills every container and waits until all have ended.
    pub(crate) async fn kill_all(&mut self) -> Result<()> {
        let alive: Vec<ContainerId> =
            self.containers.iter().filter(|(_, w)| w.is_alive()).map(|(id, _)| id.clone()).collect();
        for id in &alive {
            self.kill(id).await;
        }
        for id in &alive {
            self.await_end(id).await?;
        }
        Ok(())
    }

    /// Waits for the end of a container that has been killed, while taking in all news.
    pub(crate) async fn await_end(&mut self, id: &ContainerId) -> Result<()> {
        let deadline = tokio::time::Instant::now() + DEATH_LIMIT;
        while self.containers.get(id).is_some_and(|workload| workload.is_alive()) {
            // What is held up is hardly going to tell of the end.
            let is_held_up = self.monitor.as_ref().is_some_and(Monitor::is_held_up);
            if is_held_up && !self.has_processes(id).await {
                self.give_up(id).await?;
                continue;
            }
            let Some(monitor) = &mut self.monitor else {
                self.lose_container(id).await;
                break;
            };
            let next_look = tokio::time::Instant::now() + LOOK_PERIOD;
            let until = if monitor.link.is_silent() { deadline.min(next_look) } else { deadline };
            match tokio::time::timeout_at(until, monitor.news.recv()).await {
                Ok(Some(news)) => self.hear(news).await,
                Ok(None) => self.monitor_is_gone().await,
                Err(_) if until < deadline => {}
                Err(_) => self.give_up(id).await?,
            }
        }
        Ok(())
    }

    async fn has_processes(&self, id: &ContainerId) -> bool {
        let Ok(cgroup) = self.container_cgroup(id) else { return false };
        // What can't be looked at is given its time.
        !matches!(blocking(move || cgroup.procs()).await, Ok(Ok(left)) if left.is_empty())
    }
}

/// Whether an order has not come to the monitor, as far as is known.
fn is_unheard(error: &Error) -> bool {
    matches!(error, Error::MonitorGone) || error.says_that_nobody_answered()
}
