//! A client that goes on as a kubelet does: it looks at what there is, does the next thing that is missing, and after an
//! error looks again. It keeps to one identity, for names that are not given back are what operators meet.

use std::fs;

use berth_cri_proto::v1::*;
use berth_e2e::cri::Answer;
use berth_e2e::{Cri, Node, Revived, requests};
use tonic::Status;

/// More calls than a pod's life takes with one step broken.
const MAX_CALLS: usize = 40;

/// Where the pod is to be brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Its container runs, has been changed, and a command has run in it.
    Served,
    /// Nothing of it is known any more.
    Gone,
}

/// One pod's client.
#[derive(Debug)]
pub(crate) struct Kubelet<'a> {
    node: &'a Node,
    config: PodSandboxConfig,
    /// Calls that failed.
    pub(crate) retries: usize,
    /// Times that the agent had died.
    pub(crate) restarts: usize,
}

impl<'a> Kubelet<'a> {
    pub(crate) fn new(node: &'a Node, name: &str) -> Self {
        let mut config = node.sandbox(name);
        config.port_mappings =
            vec![PortMapping { container_port: 80, host_port: 18_080, ..Default::default() }];
        Self { node, config, retries: 0, restarts: 0 }
    }

    /// Makes one call after the other until the goal is reached.
    pub(crate) fn drive(&mut self, goal: Goal) -> Result<(), String> {
        let mut errors = Vec::new();
        for _ in 0..MAX_CALLS {
            let cri = Cri::connect(&self.node.socket());
            let done = cri.ok_or_else(|| Status::unavailable("nobody listens")).and_then(|cri| match goal {
                Goal::Served => self.serve(&cri),
                Goal::Gone => self.clear(&cri),
            });
            match done {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(status) => {
                    self.retries += 1;
                    errors.push(format!("{:?}: {}", status.code(), status.message()));
                    self.restarts += usize::from(self.node.revive() == Revived::Restarted);
                }
            }
        }
        Err(format!("not {goal:?} after {MAX_CALLS} calls: {}", errors.join("; ")))
    }

    /// One step towards a pod that serves; whether it does.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    fn serve(&self, cri: &Cri) -> Answer<bool> {
        let Some(sandbox) = self.sandbox(cri)? else {
            let request = RunPodSandboxRequest { config: Some(self.config.clone()), ..Default::default() };
            return cri.run_pod_sandbox(request).map(|_| false);
        };
        if sandbox.state() == PodSandboxState::SandboxNotready {
            return self.clear(cri).map(|_| false);
        }
        let Some(container) = self.container(cri, &sandbox)? else {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.id,
                config: Some(requests::shell("main", "trap 'exit 0' TERM; sleep 1000 & wait")),
                sandbox_config: Some(self.config.clone()),
            };
            return cri.create_container(request).map(|_| false);
        };
        let container_id = container.id.clone();
        match container.state() {
            ContainerState::ContainerCreated => {
                cri.start_container(StartContainerRequest { container_id }).map(|_| false)
            }
            ContainerState::ContainerRunning => self.use_container(cri, container_id).map(|()| true),
            ContainerState::ContainerExited | ContainerState::ContainerUnknown => {
                cri.remove_container(RemoveContainerRequest { container_id }).map(|_| false)
            }
        }
    }

    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    fn use_container(&self, cri: &Cri, container_id: String) -> Answer<()> {
        let cmd = ["sh", "-c", "echo here"].map(str::to_owned).to_vec();
        let ran = cri.exec_sync(ExecSyncRequest { container_id: container_id.clone(), cmd, timeout: 30 })?;
        assert_eq!((ran.exit_code, &ran.stdout[..]), (0, &b"here\n"[..]));
        let resources = LinuxContainerResources { cpu_shares: 512, ..Default::default() };
        let request =
            UpdateContainerResourcesRequest { container_id, linux: Some(resources), ..Default::default() };
        cri.update_container_resources(request).map(drop)
    }

    /// One step towards no pod; whether there is none.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    fn clear(&self, cri: &Cri) -> Answer<bool> {
        let Some(sandbox) = self.sandbox(cri)? else {
            let _ = fs::remove_dir_all(&self.config.log_directory);
            return Ok(true);
        };
        let pod_sandbox_id = sandbox.id.clone();
        match self.container(cri, &sandbox)? {
            Some(container) if container.state() == ContainerState::ContainerRunning => {
                let request = StopContainerRequest { container_id: container.id, timeout: 20 };
                cri.stop_container(request).map(|_| false)
            }
            Some(container) => {
                let request = RemoveContainerRequest { container_id: container.id };
                cri.remove_container(request).map(|_| false)
            }
            None if sandbox.state() == PodSandboxState::SandboxReady => {
                cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).map(|_| false)
            }
            None => cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).map(|_| false),
        }
    }

    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    fn sandbox(&self, cri: &Cri) -> Answer<Option<PodSandbox>> {
        let all = cri.list_pod_sandbox(ListPodSandboxRequest::default())?.items;
        let mut ours = all.into_iter().filter(|sandbox| sandbox.metadata == self.config.metadata);
        let first = ours.next();
        assert!(ours.next().is_none(), "a pod has been made twice");
        Ok(first)
    }

    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    fn container(&self, cri: &Cri, sandbox: &PodSandbox) -> Answer<Option<Container>> {
        let all = cri.list_containers(ListContainersRequest::default())?.containers;
        let mut ours = all.into_iter().filter(|container| container.pod_sandbox_id == sandbox.id);
        let first = ours.next();
        assert!(ours.next().is_none(), "a container has been made twice");
        Ok(first)
    }
}
