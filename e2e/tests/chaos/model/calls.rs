//! Each step as the call that it is, with requests as a kubelet makes them.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::{eventually, requests};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Status;

use super::play::Player;
use super::steps::{
    CONTAINERS, Client, ContainerCall, ContainerRef, IMAGES, ImageCall, Kind, PodCall, PodRef, Script, Step,
};
use super::world::{Answer, POLITE_CODE, RIVALS, State, image_of};

/// The port of the host that rivals want.
const PORT: i32 = 18_080;

const PATIENCE: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Status>;

impl Player<'_> {
    /// Takes the step. What has been made is answered as if it had been there.
    pub(super) fn call(&mut self, step: &Step) -> Result<Answer> {
        let cri = &self.cri;
        match step {
            Step::RunPod { pod, other } => {
                let config = Some(self.sandbox(*pod, *other));
                let made = cri.run_pod_sandbox(RunPodSandboxRequest { config, ..Default::default() });
                made.map(|made| Answer::Same(made.pod_sandbox_id))
            }
            Step::Pod(pod, call) => self.call_pod(*pod, *call),
            Step::Container(container, call) => self.call_container(*container, *call),
            Step::Image(image, call) => self.call_image(*image, *call),
            Step::ListPods { id, ready, label } => self.list_pods(*id, *ready, *label),
            Step::ListContainers { id, pod, state, label } => self.list_containers(*id, *pod, *state, *label),
            Step::KillAgent => {
                self.node.kill9();
                self.node.restart();
                self.cri = self.node.cri();
                Ok(Answer::Done)
            }
            Step::KillMonitor(pod) => self.kill_monitor(*pod),
        }
    }

    fn call_pod(&self, pod: PodRef, call: PodCall) -> Result<Answer> {
        let pod_sandbox_id = self.world.pod_id(pod);
        let cri = &self.cri;
        match call {
            PodCall::Stop => cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).map(done),
            PodCall::Remove => cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).map(done),
            PodCall::Show => cri.sandbox(&pod_sandbox_id).map(done),
            PodCall::Create { place, script } => {
                let config = Some(self.container(place, script));
                let sandbox_config = Some(self.sandbox(pod.0, false));
                let request = CreateContainerRequest { pod_sandbox_id, config, sandbox_config };
                cri.create_container(request).map(|made| Answer::Same(made.container_id))
            }
        }
    }

    fn call_container(&mut self, container: ContainerRef, call: ContainerCall) -> Result<Answer> {
        let container_id = self.world.container_id(container);
        let cri = &self.cri;
        match call {
            ContainerCall::Start => cri.start_container(StartContainerRequest { container_id }).map(done),
            ContainerCall::Stop { grace } => {
                // One that does not hear would take all the time that it is given.
                let life = self.world.meant(container).map(|at| self.world.life(at));
                let is_deaf = life.is_some_and(|life| life.script == Script::Deaf);
                let timeout = if is_deaf { grace.min(1) } else { grace };
                cri.stop_container(StopContainerRequest { container_id, timeout }).map(done)
            }
            ContainerCall::Remove => cri.remove_container(RemoveContainerRequest { container_id }).map(done),
            ContainerCall::Exec { code } => {
                let cmd = ["sh", "-c", &format!("echo here; exit {code}")].map(str::to_owned).into();
                let ran = cri.exec_sync(ExecSyncRequest { container_id, cmd, timeout: 30 })?;
                match &ran.stdout[..] {
                    b"here\n" => Ok(Answer::Exit(ran.exit_code)),
                    _ => Err(Status::data_loss(format!("{ran:?}"))),
                }
            }
            ContainerCall::Update { shares } => {
                let linux = Some(LinuxContainerResources { cpu_shares: shares, ..Default::default() });
                let request = UpdateContainerResourcesRequest { container_id, linux, ..Default::default() };
                cri.update_container_resources(request).map(done)
            }
            ContainerCall::Reopen => self.reopen_log(container, container_id),
            ContainerCall::Show => cri.container(&container_id).map(done),
        }
    }

    /// Takes the log away first, as a kubelet does. There is one again if the call succeeds, and none if it is refused.
    fn reopen_log(&mut self, container: ContainerRef, container_id: String) -> Result<Answer> {
        let meant = self.world.meant(container);
        // One that waits at its gate has its log open already.
        let log = meant.filter(|at| self.world.life(*at).state != State::Created);
        let log = log.map(|(pod, place)| self.log(pod, place));
        if let Some(log) = &log {
            let _ = fs::remove_file(log);
            self.begun.remove(log);
        }
        let answer = self.cri.reopen_container_log(ReopenContainerLogRequest { container_id }).map(done);
        match log {
            Some(log) if log.exists() != answer.is_ok() => {
                Err(Status::data_loss(format!("a log is there: {}, after {answer:?}", log.exists())))
            }
            _ => answer,
        }
    }

    fn call_image(&self, image: usize, call: ImageCall) -> Result<Answer> {
        let image = Some(ImageSpec { image: IMAGES[image].into(), ..Default::default() });
        match call {
            ImageCall::Pull => {
                self.cri.pull_image(PullImageRequest { image, ..Default::default() }).map(done)
            }
            ImageCall::Remove => self.cri.remove_image(RemoveImageRequest { image }).map(done),
            ImageCall::Show => {
                let shown = self.cri.image_status(ImageStatusRequest { image, verbose: false })?;
                Ok(Answer::There(shown.image.is_some()))
            }
        }
    }

    fn list_pods(&self, id: Option<PodRef>, ready: Option<bool>, label: Option<usize>) -> Result<Answer> {
        let state = ready.map(|ready| match ready {
            true => PodSandboxState::SandboxReady,
            false => PodSandboxState::SandboxNotready,
        });
        let filter = PodSandboxFilter {
            id: id.map(|pod| self.world.pod_id(pod)).unwrap_or_default(),
            state: state.map(|state| PodSandboxStateValue { state: state.into() }),
            label_selector: self.labels("pod", label.map(|pod| pod.to_string())),
        };
        let listed = self.cri.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) })?;
        Ok(Answer::Listed(listed.items.into_iter().map(|pod| pod.id).collect()))
    }

    fn list_containers(
        &self,
        id: Option<ContainerRef>,
        pod: Option<PodRef>,
        state: Option<Kind>,
        label: Option<Script>,
    ) -> Result<Answer> {
        let filter = ContainerFilter {
            id: id.map(|container| self.world.container_id(container)).unwrap_or_default(),
            pod_sandbox_id: pod.map(|pod| self.world.pod_id(pod)).unwrap_or_default(),
            state: state.map(|kind| ContainerStateValue { state: state_of(kind).into() }),
            label_selector: self.labels("script", label.map(|script| format!("{script:?}"))),
        };
        let listed = self.cri.list_containers(ListContainersRequest { filter: Some(filter) })?;
        Ok(Answer::Listed(listed.containers.into_iter().map(|container| container.id).collect()))
    }

    /// Waits until the agent has noticed.
    fn kill_monitor(&self, pod: usize) -> Result<Answer> {
        let pod = &self.world.pods[pod];
        if pod.life.as_ref().is_none_or(|life| !life.ready) {
            return Ok(Answer::Done);
        }
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
        let info = self.cri.pod_sandbox_status(request)?.info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        let pid = info["monitorPid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32));
        kill_process(pid.ok_or_else(|| Status::data_loss(format!("{info}")))?, Signal::KILL).unwrap();
        eventually("the pod to be lost", PATIENCE, || {
            let is_ready = |sandbox: &PodSandboxStatus| sandbox.state() == PodSandboxState::SandboxReady;
            (!self.cri.sandbox(&pod.id).as_ref().is_ok_and(is_ready)).then_some(())
        });
        Ok(Answer::Done)
    }

    /// The request for a pod of this identity.
    fn sandbox(&self, pod: usize, other: bool) -> PodSandboxConfig {
        let mut config = self.node.sandbox(&self.pod_name(pod));
        config.labels = self.labels("pod", Some(pod.to_string()));
        if RIVALS.contains(&pod) {
            let host_port = PORT + self.number() as i32;
            config.port_mappings = vec![PortMapping { container_port: 80, host_port, ..Default::default() }];
        }
        if other {
            config.annotations.insert("other".into(), String::new());
        }
        config
    }

    pub(super) fn pod_name(&self, pod: usize) -> String {
        format!("model-{}-{pod}", self.number())
    }

    fn container(&self, place: usize, script: Script) -> ContainerConfig {
        let text = match script {
            // The images differ in how they want to be asked.
            Script::Polite => format!("trap 'exit {POLITE_CODE}' TERM QUIT; echo ready; sleep 1000 & wait"),
            Script::Deaf => "exec sleep 1000".to_owned(),
            Script::Brief | Script::Absent => "true".to_owned(),
        };
        let (name, attempt) = CONTAINERS[place];
        let mut config = requests::shell(name, &text);
        config.metadata = Some(ContainerMetadata { name: name.into(), attempt });
        config.image = Some(ImageSpec { image: IMAGES[image_of(place)].into(), ..Default::default() });
        config.log_path = log_name(place);
        config.labels = self.labels("script", Some(format!("{script:?}")));
        if script == Script::Absent {
            config.command = vec!["/no/such/program".into()];
        }
        config
    }

    /// Where a container's output is.
    pub(super) fn log(&self, pod: usize, place: usize) -> PathBuf {
        self.node.dir().join("logs").join(self.pod_name(pod)).join(log_name(place))
    }

    /// Those by which this client finds its own, and one more.
    pub(super) fn labels(&self, key: &str, value: Option<String>) -> HashMap<String, String> {
        let own = ("client".to_owned(), self.number().to_string());
        [own].into_iter().chain(value.map(|value| (key.to_owned(), value))).collect()
    }

    fn number(&self) -> usize {
        match self.client {
            Client::Alone => 0,
            Client::Of(number) => number,
        }
    }
}

fn done<T>(_: T) -> Answer {
    Answer::Done
}

fn log_name(place: usize) -> String {
    let (name, attempt) = CONTAINERS[place];
    format!("{name}/{attempt}.log")
}

/// The API's word for it.
pub(super) fn state_of(kind: Kind) -> ContainerState {
    match kind {
        Kind::Created => ContainerState::ContainerCreated,
        Kind::Running => ContainerState::ContainerRunning,
        Kind::Exited => ContainerState::ContainerExited,
    }
}
