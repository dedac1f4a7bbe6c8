//! How containers end: asked first, killed when their grace is over, and given up if not even that ends them.
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
use crate::sandbox::{DEATH_LIMIT, DYING_TIME, KILL_ANSWER_LIMIT};
use crate::workload::Workload;

/// Longer grace periods count as this: a clock can't add any number of seconds.
const MAX_GRACE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How often a container is looked at whose monitor does not answer.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// A stop that has been asked for.
#[derive(Debug)]
pub(crate) struct Stopping {
    /// When patience ends: then it is killed, and after that given up.
    deadline: Instant,
    killed_at: Option<Instant>,
    /// When to look whether it has ended by itself, where no monitor tells of it.
    look_again: Option<Instant>,
    /// Whether it had no processes any more at the last look.
    is_empty: bool,
    pub(crate) waiters: Vec<Reply<()>>,
}

impl Stopping {
    fn new(deadline: Instant, waiter: Reply<()>) -> Self {
        Self { deadline, killed_at: None, look_again: None, is_empty: false, waiters: vec![waiter] }
    }

    /// When the driver has to look after it.
    pub(crate) fn next(&self) -> Instant {
        self.look_again.map_or(self.deadline, |at| at.min(self.deadline))
    }
}

impl Driver {
    /// Asks the container to stop, and kills it after `grace`; answers when it has ended. A second call with less
    /// grace shortens that of the first.
    pub(crate) async fn stop_container(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        let Some(workload) = self.containers.get_mut(id).filter(|workload| workload.is_alive()) else {
            drop(reply.send(Ok(())));
            return;
        };
        // A container at its gate has no workload that could hear a signal.
        let can_hear = workload.started_at_ns().is_some();
        let deadline = Instant::now() + if can_hear { grace.min(MAX_GRACE) } else { Duration::ZERO };
        if let Some(stopping) = &mut workload.stopping {
            stopping.waiters.push(reply);
            if stopping.killed_at.is_none() {
                stopping.deadline = stopping.deadline.min(deadline);
            }
        } else {
            let signal = workload.record.stop_signal;
            workload.stopping = Some(Stopping::new(deadline, reply));
            if can_hear && !grace.is_zero() {
                self.signal(id, signal).await;
            }
        }
        self.kill_overdue().await;
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
        if let Some(stopping) = self.containers.get_mut(id).and_then(|workload| workload.stopping.as_mut()) {
            stopping.look_again = Some(Instant::now() + LOOK_PERIOD);
        }
    }

    /// Kills containers whose grace is over, and gives up on those that a kill did not end.
    pub(crate) async fn kill_overdue(&mut self) {
        let now = Instant::now();
        let overdue: Vec<ContainerId> = (self.containers.iter())
            .filter(|(_, workload)| workload.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in overdue {
            if self.notices_end(&id, now).await {
                continue;
            }
            let Some(stopping) = self.containers.get_mut(&id).and_then(|workload| workload.stopping.as_mut())
            else {
                continue;
            };
            if stopping.deadline > now {
                continue;
            }
            let Some(killed_at) = stopping.killed_at else {
                stopping.killed_at = Some(now);
                stopping.deadline = now + DEATH_LIMIT;
                self.kill(&id).await;
                // Then nobody tells of its end.
                let is_unseen = self.monitor.as_ref().is_none_or(Monitor::is_held_up);
                let stopping = self.containers.get_mut(&id).and_then(|workload| workload.stopping.as_mut());
                if let Some(stopping) = stopping.filter(|_| is_unseen) {
                    stopping.deadline = now + DYING_TIME;
                }
                continue;
            };
            let last = killed_at + DEATH_LIMIT;
            stopping.deadline = last;
            // Who waits is told by whatever becomes of it.
            if let Err(error) = self.give_up(&id).await
                && last <= now
            {
                let error = Arc::new(error);
                let waiters = self.containers.get_mut(&id).and_then(|workload| workload.stopping.take());
                for waiter in waiters.into_iter().flat_map(|stopping| stopping.waiters) {
                    let _ = waiter.send(Err(Error::Shared(error.clone())));
                }
            }
        }
    }

    /// Looks whether a container has ended whose end no monitor tells of, if it is time for that. One that writes down
    /// how it ended, without being heard, is given until the next look.
    async fn notices_end(&mut self, id: &ContainerId, now: Instant) -> bool {
        let is_seen = self.monitor.as_ref().is_some_and(|monitor| !monitor.link.is_silent());
        let Some(stopping) = self.containers.get_mut(id).and_then(|workload| workload.stopping.as_mut())
        else {
            return false;
        };
        if is_seen {
            stopping.look_again = None;
        }
        if stopping.look_again.is_none_or(|at| at > now) {
            return false;
        }
        let was_empty = stopping.is_empty;
        let is_empty = !self.has_processes(id).await;
        if is_empty && was_empty {
            self.lose_container(id).await;
            return true;
        }
        if let Some(stopping) = self.containers.get_mut(id).and_then(|workload| workload.stopping.as_mut()) {
            (stopping.is_empty, stopping.look_again) = (is_empty, Some(Instant::now() + LOOK_PERIOD));
        }
        false
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
        if self.monitor.as_ref().is_none_or(Monitor::is_held_up) {
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
        while self.containers.get(id).is_some_and(Workload::is_alive) {
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
