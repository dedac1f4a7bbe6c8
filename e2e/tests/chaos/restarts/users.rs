//! Who uses the agent while it comes and goes: those who probe, rotate logs and pull, and one who buries containers that
//! have ended and starts their next attempts. Each goes on by itself after an error, as a kubelet would.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use berth_cri_proto::v1::*;
use berth_dice::Dice;
use berth_e2e::{Cri, REGISTRY};

use super::load::{LoadedPod, MORTAL};
use super::outages::{Outages, User};

/// Between two calls of one that had no agent to talk to.
const PATIENCE: Duration = Duration::from_millis(50);

/// What they share.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    pub(crate) outages: Outages,
    /// More may come.
    pub(crate) pods: RwLock<Vec<Arc<LoadedPod>>>,
    pub(crate) probes: AtomicUsize,
    pub(crate) rotations: AtomicUsize,
    pub(crate) exits: AtomicUsize,
    pub(crate) pulls: AtomicUsize,
}

impl Scene {
    pub(crate) fn pods(&self) -> Vec<Arc<LoadedPod>> {
        self.pods.read().unwrap().clone()
    }

    /// Runs a command in the pods of one share, each once in a `period`.
    pub(crate) fn probe(&self, user: &User<'_>, share: usize, shares: usize, period: Duration) {
        let mut round = Duration::ZERO;
        while self.outages.pace(period.saturating_sub(round)) {
            let begun = Instant::now();
            for pod in self.pods().iter().filter(|pod| pod.number % shares == share) {
                let cmd = ["sh", "-c", "echo here"].map(str::to_owned).to_vec();
                let request = ExecSyncRequest { container_id: pod.counter.clone(), cmd, timeout: 30 };
                let Some(probed) = user.call("probe", |cri| cri.exec_sync(request)) else { continue };
                if (probed.exit_code, &probed.stdout[..]) != (0, b"here\n") {
                    self.outages.complain(format!("a probe of pod {} came to {probed:?}", pod.number));
                }
                self.probes.fetch_add(1, Ordering::Relaxed);
            }
            round = begun.elapsed();
        }
    }

    /// Moves one counter's log away after the other, and has it opened anew.
    pub(crate) fn rotate(&self, user: &User<'_>, mut dice: Dice) {
        let mut done = vec![0; 0];
        while self.outages.pace(Duration::from_millis(100)) {
            let pod = dice.one_of(&self.pods());
            done.resize(done.len().max(pod.number + 1), 0);
            fs::rename(pod.log(), pod.rotated(done[pod.number])).unwrap();
            done[pod.number] += 1;
            let reopen = || {
                let request = ReopenContainerLogRequest { container_id: pod.counter.clone() };
                user.call("ReopenContainerLog", |cri| cri.reopen_container_log(request))
            };
            while reopen().is_none() && self.outages.pace(PATIENCE) {}
            self.rotations.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Pulls an image and removes it.
    pub(crate) fn pull(&self, user: &User<'_>) {
        while self.outages.pace(PATIENCE) {
            self.pull_once(user);
        }
        while !self.pull_once(user) {}
    }

    /// Whether it came and went.
    pub(crate) fn pull_once(&self, user: &User<'_>) -> bool {
        let image = Some(ImageSpec { image: format!("{REGISTRY}/berth/web:latest"), ..Default::default() });
        let request = PullImageRequest { image: image.clone(), ..Default::default() };
        if user.call("PullImage", |cri| cri.pull_image(request)).is_none() {
            return false;
        }
        self.pulls.fetch_add(1, Ordering::Relaxed);
        user.call("RemoveImage", |cri| cri.remove_image(RemoveImageRequest { image })).is_some()
    }

    /// Looks at how containers have ended, removes them, and starts the next ones.
    pub(crate) fn bury(&self, user: &User<'_>, longest_life_s: usize, mut dice: Dice) {
        while self.outages.pace(PATIENCE) {
            let listed = |cri: &Cri| cri.list_containers(ListContainersRequest::default());
            let Some(listed) = user.call("ListContainers", listed) else { continue };
            for pod in self.pods() {
                let mortals = listed.containers.iter().filter(|container| {
                    container.pod_sandbox_id == pod.id && container.metadata.as_ref().unwrap().name == MORTAL
                });
                let life_s = 1 + dice.below(longest_life_s);
                // What it comes to is seen with the next look.
                let _ = match &mortals.collect::<Vec<_>>()[..] {
                    [] => self.start_next(user, &pod, 0, life_s),
                    [one] => self.look_after(user, &pod, one, life_s),
                    more => {
                        self.outages.complain(format!("containers that are there twice: {more:?}"));
                        None
                    }
                };
            }
        }
    }

    /// None for want of an agent, or nothing to do.
    fn look_after(&self, user: &User<'_>, pod: &LoadedPod, one: &Container, life_s: usize) -> Option<()> {
        let (container_id, attempt) = (one.id.clone(), one.metadata.as_ref().unwrap().attempt);
        match one.state() {
            ContainerState::ContainerCreated => {
                // It may have been started by a call that was not answered.
                let status = user.call("ContainerStatus", |cri| cri.container(&container_id))?;
                if status.state() != ContainerState::ContainerCreated {
                    return None;
                }
                let request = StartContainerRequest { container_id };
                user.call("StartContainer", |cri| cri.start_container(request)).map(drop)
            }
            ContainerState::ContainerRunning => None,
            ContainerState::ContainerExited | ContainerState::ContainerUnknown => {
                let status = user.call("ContainerStatus", |cri| cri.container(&container_id))?;
                let (code, reason) = (status.exit_code, status.reason.as_str());
                if (code, reason) != (pod.code_of(attempt), "Error") {
                    self.outages
                        .complain(format!("pod {}, attempt {attempt} ended so: {status:?}", pod.number));
                }
                self.exits.fetch_add(1, Ordering::Relaxed);
                let request = RemoveContainerRequest { container_id };
                user.call("RemoveContainer", |cri| cri.remove_container(request))?;
                self.start_next(user, pod, attempt + 1, life_s)
            }
        }
    }

    fn start_next(&self, user: &User<'_>, pod: &LoadedPod, attempt: u32, life_s: usize) -> Option<()> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(pod.mortal(attempt, life_s)),
            sandbox_config: Some(pod.config.clone()),
        };
        let made = user.call("CreateContainer", |cri| cri.create_container(request))?;
        let request = StartContainerRequest { container_id: made.container_id };
        user.call("StartContainer", |cri| cri.start_container(request)).map(drop)
    }
}
