//! How containers end: asked first, killed when their grace is over, and given up if not even that ends them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_fault::point;
use berth_monitor::id::ContainerId;
use berth_monitor::protocol::Order as MonitorOrder;

use crate::driver::{Driver, Reply, passing};
use crate::error::{Error, Result};
use crate::host::blocking;
use crate::sandbox::{DEATH_LIMIT, DYING_TIME, KILL_ANSWER_LIMIT};
use crate::workload::Workload;

/// Longer grace periods count as this: a clock can't add any number of seconds.
const MAX_GRACE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How often a container is looked at whose monitor does not answer.
const SILENT_LIMIT: Duration = Duration::from_millis(500);

/// A stop that has been asked for.
#[derive(Debug)]
pub(crate) struct Stopping {
    /// When patience ends: then it is killed, and after that given up.
    pub(crate) deadline: Instant,
    killed_at: Option<Instant>,
    pub(crate) waiters: Vec<Reply<()>>,
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
            workload.stopping = Some(Stopping { deadline, killed_at: None, waiters: vec![reply] });
            if let (true, Some(monitor)) = (can_hear && !grace.is_zero(), &self.monitor) {
                // One that has just ended needs no signal.
                let order = MonitorOrder::Signal { container: id.clone(), signal };
                let ask = monitor.link.ask_within(KILL_ANSWER_LIMIT, order, &[]);
                let _ = passing(point!("signal container"), ask).await;
            }
        }
        self.kill_overdue().await;
    }

    /// Kills containers whose grace is over, and gives up on those that a kill did not end.
    pub(crate) async fn kill_overdue(&mut self) {
        let now = Instant::now();
        let overdue: Vec<ContainerId> = (self.containers.iter())
            .filter(|(_, workload)| workload.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in overdue {
            let Some(stopping) = self.containers.get_mut(&id).and_then(|workload| workload.stopping.as_mut())
            else {
                continue;
            };
            let Some(killed_at) = stopping.killed_at else {
                stopping.killed_at = Some(now);
                // Without a monitor nobody tells of its end.
                stopping.deadline = now + if self.monitor.is_some() { DEATH_LIMIT } else { DYING_TIME };
                self.kill(&id).await;
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

    /// Kills a container through its monitor, and past it when there is none or it does not answer. One that has not
    /// answered is not waited for again: a pod with many containers would take longer than whoever stops it waits.
    pub(crate) async fn kill(&mut self, id: &ContainerId) {
        let order = MonitorOrder::Kill { container: id.clone() };
        let killed = match &mut self.monitor {
            Some(monitor) if !monitor.is_silent => {
                let ask = monitor.link.ask_within(KILL_ANSWER_LIMIT, order, &[]);
                let killed = passing(point!("kill container"), ask).await;
                monitor.is_silent =
                    matches!(killed, Err(Error::TooLong { .. } | Error::SilentMonitor { .. }));
                killed
            }
            Some(_) | None => Err(Error::MonitorGone),
        };
        if let (Err(_), Ok(cgroup)) = (killed, self.container_cgroup(id)) {
            let _ = blocking(move || berth_cgroup::kill_all(&cgroup.entry())).await;
        }
    }

    /// A container has not ended long after it was killed. If all of its processes have, the monitor hangs and did not
    /// notice: it is given up.
    async fn give_up(&mut self, id: &ContainerId) -> Result<()> {
        let cgroup = self.container_cgroup(id)?;
        let left = blocking(move || cgroup.procs()).await??;
        if left.is_empty() && self.monitor.is_none() {
            self.lose_container(id).await;
            return Ok(());
        }
        if left.is_empty() {
            tracing::warn!(pod.id = %self.id, "monitor hangs; it is killed with what is left of its pod");
            self.lose_monitor().await;
            return Ok(());
        }
        Err(Error::Unkillable { id: id.to_string(), pids: left, after: DEATH_LIMIT })
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
            let Some(monitor) = &mut self.monitor else {
                self.lose_container(id).await;
                break;
            };
            // What has not answered is hardly going to tell of the end.
            let next_look = tokio::time::Instant::now() + SILENT_LIMIT;
            let until = if monitor.is_silent { deadline.min(next_look) } else { deadline };
            match tokio::time::timeout_at(until, monitor.news.recv()).await {
                Ok(Some(news)) => self.hear(news).await,
                Ok(None) => self.monitor_is_gone().await,
                Err(_) if until < deadline && self.has_processes(id).await => {}
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
