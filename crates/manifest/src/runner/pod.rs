//! The life of one pod, on one task: everything in the order in which it has to come, and back.
//!
//! Directories and volumes, images, sandbox, hosts file, init containers in turn, containers together. Whatever way
//! that ends, [`PodRun::run`] takes the pod down: it asks the runtime for the pod's sandboxes by the pod's uid, so also
//! one whose making timed out is found, and then removes the directories.
//!
//! A stop request is met between the steps and while waiting, never in the middle of a call to the runtime.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use berth_cri_proto::v1::PodSandboxConfig;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Mode, RunError,
    calls::Cri,
    container::{ContainerRun, Ended, PodContext, Restart},
    departure::Departure,
    detached,
    events::Events,
    image::fetch_image,
    output::{Label, Output},
    prepare,
};
use crate::{
    container::container_config,
    error::FieldError,
    parse::{PodFacts, PodManifest, containers},
    sandbox::sandbox_config,
    volumes::{PodVolume, volumes},
};

const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PodEnd {
    /// By itself; 0, or the code of its first container that failed.
    Finished(i32),
    /// On request.
    Stopped,
    /// It runs on.
    Detached { pod_id: String },
}

/// One pod to run.
#[derive(Debug)]
pub(crate) struct PodRun {
    pub(crate) manifest: PodManifest,
    pub(crate) facts: PodFacts,
    pub(crate) cri: Cri,
    pub(crate) events: Events,
    pub(crate) output: Arc<Output>,
    pub(crate) label_prefix: String,
    pub(crate) label_width: usize,
    pub(crate) mode: Mode,
    pub(crate) runtime_handler: String,
    /// Cancelled when a pod that stops gets no grace.
    pub(crate) hurry: CancellationToken,
    /// Cancelled when the pod is to stop.
    pub(crate) stop: CancellationToken,
    /// Where the pods of a detached run wait for each other.
    pub(crate) departure: Departure,
}

/// The tasks that watch the pod's containers.
#[derive(Debug, Default)]
struct Watched {
    mains: Vec<JoinHandle<Result<Ended, RunError>>>,
    /// Run beside the others and are stopped after them, each through its own token.
    sidecars: Vec<(CancellationToken, JoinHandle<Result<Ended, RunError>>)>,
}

impl PodRun {
    /// Runs the pod to its end and takes it down; detached, it stays.
    pub(crate) async fn run(mut self) -> Result<PodEnd, RunError> {
        let lived = self.live().await;
        if let Ok(PodEnd::Detached { .. }) = lived {
            return lived;
        }
        match (lived, self.take_down().await) {
            (Err(error), Err(left)) => {
                warn!(pod.name = %self.manifest.name, error = %left, "pod not taken down");
                Err(error)
            }
            (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
            (Ok(end), Ok(())) => Ok(end),
        }
    }

    async fn live(&mut self) -> Result<PodEnd, RunError> {
        let volumes = volumes(&self.manifest, &self.facts).map_err(|error| self.field(error))?;
        self.blocking(move |manifest, facts| prepare::make_pod(manifest, facts, &volumes)).await?;
        let config = sandbox_config(&self.manifest, &self.facts).map_err(|error| self.field(error))?;
        if !self.fetch_images(&config).await? {
            return Ok(PodEnd::Stopped);
        }
        let name = format!("{}/{}", self.manifest.namespace, self.manifest.name);
        let sandbox_id = self.cri.run_sandbox(&name, &config, &self.runtime_handler).await?;
        self.facts.ips = self.cri.sandbox_ips(&sandbox_id).await?;
        info!(pod.name = %name, pod.id = %sandbox_id, ips = ?self.facts.ips, "sandbox ready");
        self.blocking(prepare::write_hosts).await?;

        let context = Arc::new(self.context(sandbox_id, config));
        let mut watched = Watched::default();
        let mut started = self.start_containers(&context, &mut watched).await;
        if self.mode == Mode::Detach && matches!(started, Ok(None)) {
            match self.leave().await {
                Ok(true) => {
                    watched.abort();
                    return Ok(PodEnd::Detached { pod_id: context.sandbox_id.clone() });
                }
                Ok(false) => self.stop.cancel(),
                Err(error) => started = Err(error),
            }
        }
        if started.is_err() {
            self.stop.cancel();
        }
        let mains_end = watched.join_mains().await;
        let sidecars_end = watched.stop_sidecars().await;
        let end = started?.unwrap_or(mains_end?);
        sidecars_end.map(|()| end)
    }

    /// Leaves the pod to the runtime once all pods of the run are up; false when the run ends instead.
    async fn leave(&self) -> Result<bool, RunError> {
        self.blocking(|_, facts| detached::mark(facts)).await?;
        if self.departure.wait(&self.stop).await {
            return Ok(true);
        }
        // While the pod is still there: once it is gone, the agent would remove what is marked, too.
        self.blocking(|_, facts| detached::unmark(facts)).await?;
        Ok(false)
    }

    /// Makes every image present as its policy says; false when the run was stopped meanwhile.
    async fn fetch_images(&self, config: &PodSandboxConfig) -> Result<bool, RunError> {
        for (_, container) in containers(&self.manifest.spec) {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                fetched = fetch_image(&self.cri, &self.manifest.spec, container, config) => fetched?,
            }
        }
        Ok(true)
    }

    /// Runs the init containers in turn, then starts the others; how the pod ended, if it got no further than that.
    async fn start_containers(
        &self,
        context: &Arc<PodContext>,
        watched: &mut Watched,
    ) -> Result<Option<PodEnd>, RunError> {
        let init_count = self.manifest.spec.init_containers.as_ref().map_or(0, Vec::len);
        for (i, (path, container)) in containers(&self.manifest.spec).iter().enumerate() {
            if self.stop.is_cancelled() {
                return Ok(Some(PodEnd::Stopped));
            }
            let is_init = i < init_count;
            let mut run = self.container_run(context, i, path, container, is_init)?;
            match (is_init, run.restart) {
                (true, Restart::Always) => {
                    run.stop = CancellationToken::new();
                    watched.sidecars.push((run.stop.clone(), self.start_watched(run).await?));
                }
                (true, _) => {
                    let running = run.start(0).await?;
                    match run.watch(running).await? {
                        Ended::Exited(0) => {}
                        Ended::Exited(exit_code) => return Ok(Some(PodEnd::Finished(exit_code))),
                        Ended::Stopped => return Ok(Some(PodEnd::Stopped)),
                    }
                }
                (false, _) => watched.mains.push(self.start_watched(run).await?),
            }
        }
        Ok(None)
    }

    /// Starts a container, and a task that watches it; a failure there ends the pod.
    async fn start_watched(
        &self,
        run: ContainerRun,
    ) -> Result<JoinHandle<Result<Ended, RunError>>, RunError> {
        let pod_stop = self.stop.clone();
        let running = run.start(0).await?;
        Ok(tokio::spawn(async move {
            let ended = run.watch(running).await;
            if ended.is_err() {
                pod_stop.cancel();
            }
            ended
        }))
    }

    fn context(&self, sandbox_id: String, sandbox_config: PodSandboxConfig) -> PodContext {
        let grace = self.manifest.spec.termination_grace_period_seconds;
        PodContext {
            cri: self.cri.clone(),
            events: self.events.clone(),
            output: (self.mode == Mode::Follow).then(|| Arc::clone(&self.output)),
            sandbox_id,
            sandbox_config,
            log_dir: self.facts.log_dir.clone(),
            grace: grace
                .and_then(|seconds| seconds.try_into().ok())
                .map_or(DEFAULT_GRACE, Duration::from_secs),
            stopping_since: OnceLock::new(),
            hurry: self.hurry.clone(),
        }
    }

    fn container_run(
        &self,
        context: &Arc<PodContext>,
        index: usize,
        path: &str,
        container: &Container,
        is_init: bool,
    ) -> Result<ContainerRun, RunError> {
        let config = container_config(&self.manifest, container, path, &self.facts);
        let volumes = volumes(&self.manifest, &self.facts).map_err(|error| self.field(error))?;
        let label = format!("{}{}", self.label_prefix, container.name);
        Ok(ContainerRun {
            pod: Arc::clone(context),
            name: container.name.clone(),
            config: config.map_err(|error| self.field(error))?,
            sub_paths: sub_paths(&volumes, container),
            label: Label::new(&label, self.label_width, index),
            restart: restart(&self.manifest.spec, container, is_init),
            stop: self.stop.clone(),
        })
    }

    async fn take_down(&self) -> Result<(), RunError> {
        for sandbox_id in self.cri.sandboxes_of(&self.facts.uid).await? {
            self.cri.remove_sandbox(&sandbox_id).await?;
        }
        let volumes = volumes(&self.manifest, &self.facts).map_err(|error| self.field(error))?;
        self.blocking(move |_, facts| prepare::remove_pod(facts, &volumes)).await?;
        info!(pod.name = %self.manifest.name, "pod removed");
        Ok(())
    }

    async fn blocking(
        &self,
        work: impl FnOnce(&PodManifest, &PodFacts) -> Result<(), RunError> + Send + 'static,
    ) -> Result<(), RunError> {
        let (manifest, facts) = (self.manifest.clone(), self.facts.clone());
        spawn_blocking(move || work(&manifest, &facts)).await.map_err(|source| RunError::Task { source })?
    }

    fn field(&self, source: FieldError) -> RunError {
        RunError::Field { pod: format!("{}/{}", self.manifest.namespace, self.manifest.name), source }
    }
}

impl Watched {
    fn abort(self) {
        let sidecars = self.sidecars.iter().map(|(_, task)| task);
        self.mains.iter().chain(sidecars).for_each(JoinHandle::abort);
    }

    /// Waits for the main containers to end.
    async fn join_mains(&mut self) -> Result<PodEnd, RunError> {
        let mut end = PodEnd::Finished(0);
        let mut failure = None;
        for task in self.mains.drain(..) {
            match join(task).await {
                Ok(Ended::Exited(exit_code)) if end == PodEnd::Finished(0) => {
                    end = PodEnd::Finished(exit_code)
                }
                Ok(Ended::Exited(_)) => {}
                Ok(Ended::Stopped) => end = PodEnd::Stopped,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(end), Err)
    }

    /// In the reverse of the order in which they were started.
    async fn stop_sidecars(&mut self) -> Result<(), RunError> {
        let mut result = Ok(());
        for (stop, task) in self.sidecars.drain(..).rev() {
            stop.cancel();
            result = result.and(join(task).await.map(drop));
        }
        result
    }
}

async fn join(task: JoinHandle<Result<Ended, RunError>>) -> Result<Ended, RunError> {
    task.await.unwrap_or_else(|source| Err(RunError::Task { source }))
}

/// An init container runs until it succeeds, or once; one that is always restarted is a sidecar.
fn restart(spec: &PodSpec, container: &Container, is_init: bool) -> Restart {
    match (spec.restart_policy.as_deref(), container.restart_policy.as_deref()) {
        (_, Some("Always")) => Restart::Always,
        (Some("Never"), _) => Restart::Never,
        (Some("OnFailure"), _) => Restart::OnFailure,
        _ if is_init => Restart::OnFailure,
        _ => Restart::Always,
    }
}

fn sub_paths(volumes: &[PodVolume], container: &Container) -> Vec<(PathBuf, PathBuf)> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .filter_map(|mount| {
            let sub_path = mount.sub_path.as_ref().filter(|path| !path.is_empty())?;
            let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
            Some((volume.path.clone(), sub_path.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(fields: &str) -> Container {
        serde_norway::from_str(&format!("{{name: c, {fields}}}")).unwrap()
    }

    #[test]
    fn restarts_follow_the_pod_and_the_kind_of_container() {
        let sidecar = "restartPolicy: Always";
        for (pod, own, is_init, expected) in [
            (None, "", false, Restart::Always),
            (None, "", true, Restart::OnFailure),
            (Some("Never"), "", false, Restart::Never),
            (Some("Never"), "", true, Restart::Never),
            (Some("Never"), sidecar, true, Restart::Always),
            (Some("OnFailure"), "", false, Restart::OnFailure),
        ] {
            let spec = PodSpec { restart_policy: pod.map(str::to_owned), ..Default::default() };
            assert_eq!(restart(&spec, &container(own), is_init), expected, "{pod:?} {own} {is_init}");
        }
    }
}
