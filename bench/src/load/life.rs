//! The life of a pod with one container, call by call, each timed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_cri_proto::v1::*;
use berth_e2e::{Cri, requests};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::peer::Peer;

/// How long a container may take to write its first line.
const FIRST_LINE: Duration = Duration::from_secs(60);

/// A workload that says a word, uses nothing, and ends on SIGTERM.
pub(crate) const IDLE: &str = "trap 'exit 0' TERM; echo ready; sleep 1000000 & wait";

/// Times of calls, by their names, in the order in which they were made.
pub(crate) type Times = Vec<(&'static str, Duration)>;

/// A pod that runs, with one container.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// The sandbox.
    pub(crate) id: String,
    /// Its container.
    pub(crate) container: String,
}

/// A pod's life, on one connection.
#[derive(Debug)]
pub(crate) struct Life<'a> {
    peer: &'a Peer,
    cri: &'a Cri,
    /// How long each call took.
    pub(crate) times: Times,
}

impl<'a> Life<'a> {
    /// Nothing has happened yet.
    pub(crate) fn new(peer: &'a Peer, cri: &'a Cri) -> Self {
        Self { peer, cri, times: Times::new() }
    }

    /// Starts a pod whose container runs a shell script.
    pub(crate) fn start(&mut self, name: &str, script: &str) -> Result<Pod> {
        let request = self.peer.sandbox(name)?;
        self.start_sandbox(request, requests::shell("work", script))
    }

    /// The same, up to the moment at which the container's first line is in its log.
    pub(crate) fn start_to_first_line(&mut self, name: &str, script: &str) -> Result<Pod> {
        let request = self.peer.sandbox(name)?;
        let config = request.config.as_ref().context("a request has a config")?;
        let mut log = Log::watch(config.log_directory.clone().into())?;
        let begun = Instant::now();
        let pod = self.start_sandbox(request, requests::shell("work", script))?;
        log.await_content()?;
        self.times.push(("pod start to first log line", begun.elapsed()));
        Ok(pod)
    }

    /// Runs a sandbox, creates the container in it and starts it.
    pub(crate) fn start_sandbox(
        &mut self,
        request: RunPodSandboxRequest,
        container: ContainerConfig,
    ) -> Result<Pod> {
        let cri = self.cri;
        let sandbox_config = request.config.clone();
        let begun = Instant::now();
        let id = self.time("RunPodSandbox", || cri.run_pod_sandbox(request))?.pod_sandbox_id;
        let create =
            CreateContainerRequest { pod_sandbox_id: id.clone(), config: Some(container), sandbox_config };
        let container = self.time("CreateContainer", || cri.create_container(create))?.container_id;
        let start = StartContainerRequest { container_id: container.clone() };
        self.time("StartContainer", || cri.start_container(start))?;
        self.times.push(("pod start", begun.elapsed()));
        Ok(Pod { id, container })
    }

    /// Runs a command in the container, which must succeed.
    pub(crate) fn exec(&mut self, pod: &Pod, command: &[&str]) -> Result<()> {
        let cmd = command.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecSyncRequest { container_id: pod.container.clone(), cmd, timeout: 30 };
        let cri = self.cri;
        let reply = self.time("ExecSync", || cri.exec_sync(request))?;
        if reply.exit_code != 0 {
            bail!("{command:?} ended with {}: {}", reply.exit_code, String::from_utf8_lossy(&reply.stderr));
        }
        Ok(())
    }

    /// Ends the container by SIGTERM, stops the sandbox, and removes it with the container.
    pub(crate) fn stop(&mut self, pod: &Pod) -> Result<()> {
        let cri = self.cri;
        let begun = Instant::now();
        let container = StopContainerRequest { container_id: pod.container.clone(), timeout: 30 };
        self.time("StopContainer", || cri.stop_container(container))?;
        let sandbox = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.time("StopPodSandbox", || cri.stop_pod_sandbox(sandbox))?;
        let sandbox = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.time("RemovePodSandbox", || cri.remove_pod_sandbox(sandbox))?;
        self.times.push(("stop + remove", begun.elapsed()));
        Ok(())
    }

    /// Makes one call, and notes how long it took.
    #[allow(clippy::result_large_err, reason = "tonic's own type")]
    pub(crate) fn time<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce() -> Result<T, tonic::Status>,
    ) -> Result<T> {
        let begun = Instant::now();
        let answer = call().with_context(|| format!("{} of {}", name, self.peer.name))?;
        self.times.push((name, begun.elapsed()));
        Ok(answer)
    }
}

/// A pod's log directory, watched from before the log is there, so that nothing is asked again and again.
#[derive(Debug)]
struct Log {
    directory: PathBuf,
    changes: rustix::fd::OwnedFd,
    /// What an earlier pod of the same name has left there.
    bytes_before: u64,
}

impl Log {
    fn watch(directory: PathBuf) -> Result<Self> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let kinds = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&changes, &directory, kinds)
            .with_context(|| format!("watch {}", directory.display()))?;
        let bytes_before = bytes_in(&directory)?;
        Ok(Self { directory, changes, bytes_before })
    }

    /// Waits until something has been written there.
    fn await_content(&mut self) -> Result<()> {
        let deadline = Instant::now() + FIRST_LINE;
        while bytes_in(&self.directory)? == self.bytes_before {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&self.changes, PollFlags::IN)], Some(&left))? == 0 {
                bail!("nothing was written to {} within {FIRST_LINE:?}", self.directory.display());
            }
            let mut events = [0; 4096];
            rustix::io::read(&self.changes, &mut events)?;
        }
        Ok(())
    }
}

/// Of all files in a directory.
fn bytes_in(directory: &Path) -> Result<u64> {
    let entries = fs::read_dir(directory)?.filter_map(Result::ok);
    Ok(entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum())
}
