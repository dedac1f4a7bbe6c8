//! A client that does what a kubelet does about one pod with one container, as far as the CRI sees it: it looks at what there
//! is by labels, does what is missing, and begins anew with a look after an error. A sandbox that it finds ready and a
//! container that it finds running are as it wants them; any other that it finds is dead, and the next one's attempt is
//! higher. Source: the kubelet's SyncPod and computePodActions, its container and sandbox garbage collection.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::cri::Answer;
use berth_e2e::{Cri, eventually, requests};
use tonic::Status;

use super::proxy::Wire;

/// Instead of the four minutes for a sandbox and two for all else.
const DEADLINE: Duration = Duration::from_secs(2);

/// Longer than any call takes that the agent has accepted.
const PATIENCE: Duration = Duration::from_secs(60);

/// Far more looks than it takes on this wire.
const MAX_SYNCS: usize = 80;

/// By which a kubelet finds what is a pod's.
const UID: &str = "io.kubernetes.pod.uid";

/// Says once that it runs, and ends when it is asked to.
const SCRIPT: &str = "trap 'exit 0' TERM; echo started; sleep 1000 & wait";

/// One pod, and the way to it.
#[derive(Debug)]
pub(crate) struct Kubelet<'a> {
    cri: Cri,
    wire: &'a Wire,
    presence: &'a RwLock<()>,
    config: PodSandboxConfig,
    /// Calls that failed.
    pub(crate) retries: usize,
    /// What they were told.
    errors: Vec<String>,
}

/// A call that failed.
type Failed = (&'static str, Status);

impl<'a> Kubelet<'a> {
    pub(crate) fn new(wire: &'a Wire, presence: &'a RwLock<()>, mut config: PodSandboxConfig) -> Self {
        let mut cri = Cri::connect(wire.socket()).expect("the wire listens");
        cri.set_deadline(DEADLINE);
        let uid = config.metadata.as_ref().unwrap().uid.clone();
        config.labels = HashMap::from([(UID.to_owned(), uid)]);
        Self { cri, wire, presence, config, retries: 0, errors: Vec::new() }
    }

    /// Brings the pod up, with its container running and probed.
    pub(crate) fn bring_up(&mut self) -> Result<(), String> {
        self.repeat("up", Self::sync)
    }

    /// Ends the pod and removes all of it.
    pub(crate) fn take_down(&mut self) -> Result<(), String> {
        self.repeat("gone", Self::clear)
    }

    /// What there is of the pod.
    pub(crate) fn selector(&self) -> HashMap<String, String> {
        self.config.labels.clone()
    }

    fn repeat(&mut self, goal: &str, work: fn(&Self) -> Result<bool, Failed>) -> Result<(), String> {
        for _ in 0..MAX_SYNCS {
            match work(self) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err((call, status)) => self.note(call, &status),
            }
        }
        Err(format!("not {goal} after {MAX_SYNCS} looks: {}", self.errors.join("; ")))
    }

    fn note(&mut self, call: &str, status: &Status) {
        self.retries += 1;
        self.errors.push(format!("{call}: {:?}: {}", status.code(), status.message()));
        // It does not ask again and again while there is no agent.
        drop(self.presence.read().unwrap());
        // A start is looked after when minutes have passed, in which it has long been carried out.
        if call == "StartContainer" {
            eventually("the start to be answered", PATIENCE, || self.wire.is_idle().then_some(()));
        }
    }

    /// One look at the pod, and what it takes up to a probe; whether it was as wanted.
    fn sync(&self) -> Result<bool, Failed> {
        let sandboxes = self.sandboxes()?;
        let ready = |sandbox: &&PodSandbox| sandbox.state() == PodSandboxState::SandboxReady;
        let newest = sandboxes.iter().max_by_key(|sandbox| sandbox.created_at);
        let pod_sandbox_id = match newest {
            Some(sandbox) if ready(&sandbox) => sandbox.id.clone(),
            dead => self.run(dead.map_or(0, |dead| dead.metadata.as_ref().unwrap().attempt + 1))?,
        };
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.clone(), verbose: false };
        let status = call("PodSandboxStatus", self.cri.pod_sandbox_status(request))?.status.unwrap();
        assert_ne!(status.network.unwrap_or_default().ip, "", "a ready sandbox has an address");
        let containers = self.containers()?;
        let attempt = |container: &Container| container.metadata.as_ref().unwrap().attempt;
        let newest = containers.iter().max_by_key(|container| attempt(container));
        let container_id = match newest {
            Some(newest) if newest.state() == ContainerState::ContainerRunning => newest.id.clone(),
            dead => self.start(&pod_sandbox_id, dead.map_or(0, |dead| attempt(dead) + 1))?,
        };
        self.probe(container_id).map(|()| true)
    }

    fn run(&self, attempt: u32) -> Result<String, Failed> {
        let request = RunPodSandboxRequest { config: Some(self.config_of(attempt)), ..Default::default() };
        Ok(call("RunPodSandbox", self.cri.run_pod_sandbox(request))?.pod_sandbox_id)
    }

    fn config_of(&self, attempt: u32) -> PodSandboxConfig {
        let mut config = self.config.clone();
        config.metadata.as_mut().unwrap().attempt = attempt;
        config
    }

    fn start(&self, pod_sandbox_id: &str, attempt: u32) -> Result<String, Failed> {
        let mut config = requests::shell("main", SCRIPT);
        config.metadata.as_mut().unwrap().attempt = attempt;
        config.log_path = format!("main/{attempt}.log");
        config.labels = self.config.labels.clone();
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let container_id = call("CreateContainer", self.cri.create_container(request))?.container_id;
        let request = StartContainerRequest { container_id: container_id.clone() };
        call("StartContainer", self.cri.start_container(request)).map(|_| container_id)
    }

    fn probe(&self, container_id: String) -> Result<(), Failed> {
        let cmd = vec!["true".to_owned()];
        let probed =
            call("ExecSync", self.cri.exec_sync(ExecSyncRequest { container_id, cmd, timeout: 20 }))?;
        assert_eq!(probed.exit_code, 0, "a probe that is answered is passed: {probed:?}");
        Ok(())
    }

    /// Ends what runs, then removes what there is; whether there was nothing. A kubelet looks for what it does not know
    /// again and again; here once more, when no call is on its way any more that could make something.
    fn clear(&self) -> Result<bool, Failed> {
        let was_idle = self.wire.is_idle();
        let (sandboxes, containers) = (self.sandboxes()?, self.containers()?);
        let running = containers.iter().filter(|one| one.state() == ContainerState::ContainerRunning);
        for container in running {
            let request = StopContainerRequest { container_id: container.id.clone(), timeout: 2 };
            call("StopContainer", self.cri.stop_container(request))?;
        }
        for sandbox in &sandboxes {
            let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
            call("StopPodSandbox", self.cri.stop_pod_sandbox(request))?;
        }
        for container in &containers {
            let request = RemoveContainerRequest { container_id: container.id.clone() };
            call("RemoveContainer", self.cri.remove_container(request))?;
        }
        for sandbox in &sandboxes {
            let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
            call("RemovePodSandbox", self.cri.remove_pod_sandbox(request))?;
        }
        if !was_idle {
            eventually("all calls to arrive", PATIENCE, || self.wire.is_idle().then_some(()));
        }
        Ok(was_idle && sandboxes.is_empty() && containers.is_empty())
    }

    fn sandboxes(&self) -> Result<Vec<PodSandbox>, Failed> {
        let filter = PodSandboxFilter { label_selector: self.selector(), ..Default::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        Ok(call("ListPodSandbox", self.cri.list_pod_sandbox(request))?.items)
    }

    fn containers(&self) -> Result<Vec<Container>, Failed> {
        let filter = ContainerFilter { label_selector: self.selector(), ..Default::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        Ok(call("ListContainers", self.cri.list_containers(request))?.containers)
    }
}

fn call<T>(name: &'static str, answer: Answer<T>) -> Result<T, Failed> {
    answer.map_err(|status| (name, status))
}
