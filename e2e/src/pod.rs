//! One sandbox of a node and its containers, with the calls that most tests make.

use std::path::PathBuf;
use std::time::Duration;

use berth_cri_proto::v1::*;

use crate::cri::Answer;
use crate::log::whole_lines;
use crate::node::Node;
use crate::requests;
use crate::tools::eventually;

/// A sandbox that is ready. Nothing happens when this value goes: the node takes its pods down.
#[derive(Debug)]
pub struct Pod<'a> {
    node: &'a Node,
    /// The sandbox's id.
    pub id: String,
    /// What was asked for.
    pub config: PodSandboxConfig,
}

impl<'a> Pod<'a> {
    /// Runs a sandbox.
    #[track_caller]
    pub fn run(node: &'a Node, config: PodSandboxConfig) -> Self {
        Self::run_by(node, config, "")
    }

    /// Runs a sandbox whose containers may be privileged.
    #[track_caller]
    pub fn privileged(node: &'a Node, name: &str) -> Self {
        let mut config = node.sandbox(name);
        requests::sandbox_security(&mut config).privileged = true;
        Self::run(node, config)
    }

    /// Runs a sandbox of this runtime handler.
    #[track_caller]
    pub fn run_by(node: &'a Node, config: PodSandboxConfig, handler: &str) -> Self {
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let id = node.cri().run_pod_sandbox(request).unwrap().pod_sandbox_id;
        Self { node, id, config }
    }

    /// Creates a container.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    pub fn try_create(&self, config: ContainerConfig) -> Answer<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        Ok(self.node.cri().create_container(request)?.container_id)
    }

    /// Creates a container that must come to be, and returns its id.
    #[track_caller]
    pub fn create(&self, config: ContainerConfig) -> String {
        self.try_create(config).unwrap()
    }

    /// Starts a container.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    pub fn try_start(&self, id: &str) -> Answer<StartContainerResponse> {
        self.node.cri().start_container(StartContainerRequest { container_id: id.into() })
    }

    /// Creates and starts a container, and returns its id.
    #[track_caller]
    pub fn start(&self, config: ContainerConfig) -> String {
        let id = self.create(config);
        self.try_start(&id).unwrap();
        id
    }

    /// Starts a shell script as a container.
    #[track_caller]
    pub fn shell(&self, name: &str, script: &str) -> String {
        self.start(requests::shell(name, script))
    }

    /// Runs a shell script in a container, to a success, and returns what it prints.
    #[track_caller]
    pub fn exec(&self, id: &str, script: &str) -> String {
        let reply = self.try_exec(id, &["sh", "-c", script], 0).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        assert_eq!(reply.exit_code, 0, "{script}: {}", text(reply.stderr));
        text(reply.stdout)
    }

    /// Runs a program in a container; a timeout of 0 seconds is none.
    #[allow(clippy::result_large_err, reason = "the caller looks into it")]
    pub fn try_exec(&self, id: &str, args: &[&str], timeout: i64) -> Answer<ExecSyncResponse> {
        let cmd = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.node.cri().exec_sync(ExecSyncRequest { container_id: id.into(), cmd, timeout })
    }

    /// Stops a container, with so many seconds of grace.
    #[track_caller]
    pub fn stop(&self, id: &str, timeout: i64) {
        self.node.cri().stop_container(StopContainerRequest { container_id: id.into(), timeout }).unwrap();
    }

    /// A container's status.
    #[track_caller]
    pub fn status(&self, id: &str) -> ContainerStatus {
        self.node.cri().container(id).unwrap()
    }

    /// Waits for a container to end, and returns its status.
    #[track_caller]
    pub fn end_of(&self, id: &str) -> ContainerStatus {
        eventually("the container's end", Duration::from_secs(30), || {
            Some(self.status(id)).filter(|status| status.state() == ContainerState::ContainerExited)
        })
    }

    /// The sandbox's addresses, the primary one first.
    #[track_caller]
    pub fn addresses(&self) -> Vec<String> {
        let network = self.node.cri().sandbox(&self.id).unwrap().network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|address| address.ip);
        [network.ip].into_iter().chain(more).filter(|ip| !ip.is_empty()).collect()
    }

    /// The log file of a container.
    pub fn log_path(&self, name: &str) -> PathBuf {
        PathBuf::from(&self.config.log_directory).join(format!("{name}.log"))
    }

    /// The lines that a container has written.
    #[track_caller]
    pub fn log(&self, name: &str) -> Vec<String> {
        whole_lines(&self.log_path(name))
    }

    /// Waits until a container has written a line.
    #[track_caller]
    pub fn await_line(&self, name: &str, line: &str) {
        eventually(&format!("{line:?} from {name}"), Duration::from_secs(20), || {
            let path = self.log_path(name);
            (path.exists() && whole_lines(&path).iter().any(|found| found == line)).then_some(())
        });
    }

    /// A process id out of the verbose status of the sandbox or, with an id, of one of its containers.
    #[track_caller]
    pub fn pid(&self, container: Option<&str>) -> u32 {
        let info = match container {
            Some(id) => {
                let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
                self.node.cri().container_status(request).unwrap().info
            }
            None => self.info(),
        };
        number(&info["info"], "\"pid\":").unwrap_or_else(|| panic!("no pid in {info:?}"))
    }

    /// The process id of the sandbox's monitor.
    #[track_caller]
    pub fn monitor_pid(&self) -> u32 {
        let info = self.info();
        number(&info["info"], "\"monitorPid\":").unwrap_or_else(|| panic!("no monitorPid in {info:?}"))
    }

    fn info(&self) -> std::collections::HashMap<String, String> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        self.node.cri().pod_sandbox_status(request).unwrap().info
    }

    /// Stops and removes the sandbox.
    #[track_caller]
    pub fn take_down(&self) {
        self.node.cri().take_down(&self.id).unwrap();
    }
}

/// The number that follows a key in compact or pretty JSON.
fn number(json: &str, key: &str) -> Option<u32> {
    let rest = json.split_once(key)?.1.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
