//! One container of a running pod: started, watched to its end, started again as its policy says.
//!
//! ```text
//! start ─▶ Running ──exit──▶ policy says no ─▶ Exited(code)
//!            │  ▲               │ yes
//!            │  └─ start ◀─ back-off
//!            └─ stop requested ─▶ StopContainer within the grace ─▶ Stopped
//! ```
//!
//! Each attempt is a CRI container of its own with its own log; the former one is removed when the next one runs.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use berth_cri_proto::v1::{ContainerConfig, PodSandboxConfig};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    RunError,
    backoff::Backoff,
    calls::Cri,
    events::Events,
    follow::Follower,
    output::{Label, Output},
    prepare,
};
use crate::container::log_path;

/// What the containers of one running pod have in common.
#[derive(Debug)]
pub(crate) struct PodContext {
    pub(crate) cri: Cri,
    pub(crate) events: Events,
    /// None when nobody reads the logs.
    pub(crate) output: Option<Arc<Output>>,
    pub(crate) sandbox_id: String,
    pub(crate) sandbox_config: PodSandboxConfig,
    pub(crate) log_dir: PathBuf,
    /// How long the whole pod may take to stop.
    pub(crate) grace: Duration,
    /// When it began to; each container gets what is left of the grace.
    pub(crate) stopping_since: OnceLock<Instant>,
    /// Cancelled when none is left, whatever the time.
    pub(crate) hurry: CancellationToken,
}

/// Whether a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// How the life of a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// On request.
    Stopped,
}

/// One container of a running pod, over all its attempts.
#[derive(Debug)]
pub(crate) struct ContainerRun {
    pub(crate) pod: Arc<PodContext>,
    pub(crate) name: String,
    /// For attempt 0.
    pub(crate) config: ContainerConfig,
    /// Volumes and the paths in them that it mounts.
    pub(crate) sub_paths: Vec<(PathBuf, PathBuf)>,
    pub(crate) label: Label,
    pub(crate) restart: Restart,
    /// Cancelled when it is to stop.
    pub(crate) stop: CancellationToken,
}

/// An attempt that has been started.
#[derive(Debug)]
pub(crate) struct Running {
    id: String,
    attempt: u32,
    since: Instant,
    follower: Option<Follower>,
}

impl Restart {
    fn after(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

impl ContainerRun {
    /// Creates and starts one attempt. Errors: the runtime refuses; what it made goes with the sandbox.
    pub(crate) async fn start(&self, attempt: u32) -> Result<Running, RunError> {
        let mut config = self.config.clone();
        config.log_path = log_path(&self.name, attempt);
        if let Some(metadata) = &mut config.metadata {
            metadata.attempt = attempt;
        }
        self.make_sub_paths().await?;
        let follower = self.follow(&config.log_path)?;
        let pod = &self.pod;
        let id = pod.cri.create_container(&pod.sandbox_id, &pod.sandbox_config, &config).await?;
        pod.cri.start_container(&id, &self.name).await?;
        info!(container.name = %self.name, container.id = %id, attempt, "container started");
        Ok(Running { id, attempt, since: Instant::now(), follower })
    }

    /// Watches a started attempt, and those after it, until the container has ended for good.
    pub(crate) async fn watch(self, mut running: Running) -> Result<Ended, RunError> {
        let mut backoff = Backoff::default();
        loop {
            let Some(exit_code) = self.wait_or_stop(&running).await? else {
                finish(running.follower.take()).await?;
                return Ok(Ended::Stopped);
            };
            finish(running.follower.take()).await?;
            info!(container.name = %self.name, container.id = %running.id, exit.code = exit_code, "container exited");
            if !self.restart.after(exit_code) {
                return Ok(Ended::Exited(exit_code));
            }
            let wait = backoff.after_exit(running.since.elapsed());
            if timeout_at(Instant::now() + wait, self.stop.cancelled()).await.is_ok() {
                return Ok(Ended::Stopped);
            }
            let former = running.id;
            running = self.start(running.attempt + 1).await?;
            self.pod.cri.remove_container(&former, &self.name).await?;
        }
    }

    /// The exit code; None after the container was stopped on request.
    async fn wait_or_stop(&self, running: &Running) -> Result<Option<i32>, RunError> {
        let pod = &self.pod;
        tokio::select! {
            exit_code = pod.events.wait_exit(&pod.cri, &running.id, &self.name) => exit_code.map(Some),
            () = self.stop.cancelled() => {
                self.stop(running).await?;
                Ok(None)
            }
        }
    }

    /// Stops an attempt within what is left of the grace, or at once from the moment that there is a hurry.
    async fn stop(&self, running: &Running) -> Result<(), RunError> {
        let (pod, id) = (&self.pod, &running.id);
        tokio::select! {
            biased;
            () = pod.hurry.cancelled() => pod.cri.stop_container(id, &self.name, Duration::ZERO).await,
            stopped = pod.cri.stop_container(id, &self.name, pod.remaining_grace()) => stopped,
        }
    }

    async fn make_sub_paths(&self) -> Result<(), RunError> {
        let sub_paths = self.sub_paths.clone();
        let make =
            move || sub_paths.iter().try_for_each(|(volume, path)| prepare::make_sub_path(volume, path));
        spawn_blocking(make).await.map_err(|source| RunError::Task { source })?
    }

    fn follow(&self, log_path: &str) -> Result<Option<Follower>, RunError> {
        let Some(output) = self.pod.output.clone() else {
            return Ok(None);
        };
        let log = self.pod.log_dir.join(log_path);
        let follower = Follower::start(log.clone(), self.label.clone(), output)
            .map_err(|source| RunError::Host { action: "follow log", path: log, source })?;
        Ok(Some(follower))
    }
}

impl PodContext {
    fn remaining_grace(&self) -> Duration {
        self.grace.saturating_sub(self.stopping_since.get_or_init(Instant::now).elapsed())
    }
}

async fn finish(follower: Option<Follower>) -> Result<(), RunError> {
    let Some(follower) = follower else { return Ok(()) };
    spawn_blocking(|| follower.finish()).await.map_err(|source| RunError::Task { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_decides_about_another_start() {
        for (restart, after_success, after_failure) in
            [(Restart::Always, true, true), (Restart::OnFailure, false, true), (Restart::Never, false, false)]
        {
            assert_eq!((restart.after(0), restart.after(3)), (after_success, after_failure), "{restart:?}");
        }
    }
}
