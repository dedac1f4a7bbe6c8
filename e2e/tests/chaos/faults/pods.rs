//! The life of a pod with one container: made, used in the ways that probes and kubelets have, and removed.

use std::fs;

use berth_cri_proto::v1::*;
use berth_e2e::cri::Answer;
use berth_e2e::{Cri, Node, requests};

use tonic::Status;

use super::client::{Goal, Life};

/// A pod by its identity.
#[derive(Debug)]
pub(crate) struct MadePod {
    config: PodSandboxConfig,
    container: ContainerConfig,
    handler: String,
}

impl MadePod {
    /// With a host port and, where the container is ours, a terminal and an image as a volume.
    pub(crate) fn new(node: &Node, name: &str, handler: &str) -> Self {
        let mut config = node.sandbox(name);
        config.port_mappings =
            vec![PortMapping { container_port: 80, host_port: 18_080, ..Default::default() }];
        let mut container = requests::shell("main", "trap 'exit 0' TERM; sleep 1000 & wait");
        if handler.is_empty() {
            let image = Some(ImageSpec { image: requests::BUSYBOX.into(), ..Default::default() });
            container.mounts =
                vec![Mount { container_path: "/image".into(), image, readonly: true, ..Default::default() }];
            container.tty = true;
        }
        Self { config, container, handler: handler.into() }
    }

    /// The same without its port of the host, of which there is one.
    pub(crate) fn without_ports(mut self) -> Self {
        self.config.port_mappings.clear();
        self
    }

    /// The same in a cgroup that a kubelet has made.
    pub(crate) fn in_cgroup(mut self, parent: &str) -> Self {
        self.config.linux.as_mut().unwrap().cgroup_parent = parent.into();
        self
    }

    /// The same, with users of its own.
    pub(crate) fn in_user_namespace(mut self) -> Self {
        let users = vec![IdMapping { host_id: 1 << 20, container_id: 0, length: 1 << 16 }];
        let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: users.clone(), gids: users };
        requests::sandbox_namespaces(&mut self.config).userns_options = Some(users.clone());
        let options = requests::security(&mut self.container).namespace_options.as_mut().unwrap();
        options.userns_options = Some(users);
        self
    }

    /// Its one container, once it serves.
    pub(crate) fn container_id(&self, cri: &Cri) -> Answer<String> {
        let gone = || Status::not_found("the container has gone");
        let sandbox = self.sandbox(cri)?.ok_or_else(gone)?;
        Ok(self.container(cri, &sandbox)?.ok_or_else(gone)?.id)
    }

    /// One step towards a pod that serves; whether it does.
    fn serve(&self, cri: &Cri) -> Answer<bool> {
        let Some(sandbox) = self.sandbox(cri)? else {
            let (config, runtime_handler) = (Some(self.config.clone()), self.handler.clone());
            let request = RunPodSandboxRequest { config, runtime_handler };
            return cri.run_pod_sandbox(request).map(|_| false);
        };
        if sandbox.state() == PodSandboxState::SandboxNotready {
            return self.clear(cri).map(|_| false);
        }
        let Some(container) = self.container(cri, &sandbox)? else {
            let request = CreateContainerRequest {
                pod_sandbox_id: sandbox.id,
                config: Some(self.container.clone()),
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

    fn use_container(&self, cri: &Cri, container_id: String) -> Answer<()> {
        let cmd = ["sh", "-c", "echo here"].map(str::to_owned).to_vec();
        let ran = cri.exec_sync(ExecSyncRequest { container_id: container_id.clone(), cmd, timeout: 30 })?;
        if (ran.exit_code, &ran.stdout[..]) != (0, b"here\n") {
            // Killed on the way to the program, it counts as one that was killed. A probe would be repeated.
            return Err(Status::aborted(format!("{ran:?}")));
        }
        let resources = LinuxContainerResources { cpu_shares: 512, ..Default::default() };
        let request = UpdateContainerResourcesRequest {
            container_id: container_id.clone(),
            linux: Some(resources),
            ..Default::default()
        };
        cri.update_container_resources(request)?;
        cri.reopen_container_log(ReopenContainerLogRequest { container_id }).map(drop)
    }

    /// One step towards no pod; whether there is none.
    fn clear(&self, cri: &Cri) -> Answer<bool> {
        let Some(sandbox) = self.sandbox(cri)? else {
            let _ = fs::remove_dir_all(&self.config.log_directory);
            return Ok(true);
        };
        let pod_sandbox_id = sandbox.id.clone();
        match self.container(cri, &sandbox)? {
            Some(container) if running(&container) && self.handler.is_empty() => {
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

    fn sandbox(&self, cri: &Cri) -> Answer<Option<PodSandbox>> {
        let all = cri.list_pod_sandbox(ListPodSandboxRequest::default())?.items;
        let mut ours = all.into_iter().filter(|sandbox| sandbox.metadata == self.config.metadata);
        let first = ours.next();
        assert!(ours.next().is_none(), "a pod has been made twice");
        Ok(first)
    }

    fn container(&self, cri: &Cri, sandbox: &PodSandbox) -> Answer<Option<Container>> {
        let all = cri.list_containers(ListContainersRequest::default())?.containers;
        let mut ours = all.into_iter().filter(|container| container.pod_sandbox_id == sandbox.id);
        let first = ours.next();
        assert!(ours.next().is_none(), "a container has been made twice");
        Ok(first)
    }
}

impl Life for MadePod {
    fn step(&self, cri: &Cri, goal: Goal) -> Answer<bool> {
        match goal {
            Goal::Used => self.serve(cri),
            Goal::Gone => self.clear(cri),
        }
    }
}

/// Another runtime's is removed while it runs, which kills it.
fn running(container: &Container) -> bool {
    container.state() == ContainerState::ContainerRunning
}
