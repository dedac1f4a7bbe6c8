//! A runtime under test, and how to make one that shares nothing with the machine's own.
//!
//! [`berth`] and [`containerd`] start one in a [`Home`], which takes everything with it; [`given`] is one that runs
//! already, and that keeps what it has. All are driven over the CRI socket alone; [`podman`], which has none, is no [`Peer`]. Only one that was started here can be
//! stopped, restarted and searched for leftovers.

pub(crate) mod berth;
pub(crate) mod containerd;
pub(crate) mod given;
mod home;
pub(crate) mod podman;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_cri_proto::v1::{PodSandbox, PodSandboxConfig, RunPodSandboxRequest};
use berth_e2e::{Cri, requests};

pub(crate) use home::Home;

/// Of all pods here, so that they are known among others.
const NAMESPACE: &str = "berth-bench";

/// Of a call; a kubelet waits so long for a sandbox, if it is not told otherwise.
const DEADLINE: Duration = Duration::from_secs(240);

/// A runtime that answers.
#[derive(Debug)]
pub(crate) struct Peer {
    /// As in the columns.
    pub(crate) name: String,
    /// Of its parts, as they tell it.
    pub(crate) versions: Vec<String>,
    /// Where it answers.
    pub(crate) socket: PathBuf,
    /// Its RuntimeClass handler; empty for the default one.
    pub(crate) handler: String,
    /// The parent of the pods' cgroups, where it has to be named in requests.
    pub(crate) cgroup_parent: String,
    /// What imports an archive, whose path comes last; nothing where that is not known.
    pub(crate) import: Vec<String>,
    /// Where its pods' logs go.
    pub(crate) logs: PathBuf,
    /// What it was given, if it was started here.
    pub(crate) home: Option<Home>,
}

impl Peer {
    /// A new connection.
    pub(crate) fn cri(&self) -> Result<Cri> {
        let mut cri = Cri::connect(&self.socket)
            .with_context(|| format!("{}: nobody answers on {}", self.name, self.socket.display()))?;
        cri.set_deadline(DEADLINE);
        Ok(cri)
    }

    /// The request for the simplest of pods. Its log directory is made, as a kubelet does.
    pub(crate) fn sandbox(&self, name: &str) -> Result<RunPodSandboxRequest> {
        let mut config: PodSandboxConfig = requests::sandbox(name, &self.logs);
        config.metadata.get_or_insert_default().namespace = NAMESPACE.into();
        config.linux.get_or_insert_default().cgroup_parent.clone_from(&self.cgroup_parent);
        make_directory(Path::new(&config.log_directory))?;
        Ok(RunPodSandboxRequest { config: Some(config), runtime_handler: self.handler.clone() })
    }

    /// A tool's command where the runtime's streaming server and its pods can be reached.
    pub(crate) fn command(&self, program: &Path) -> Command {
        self.home.as_ref().map_or_else(|| Command::new(program), |home| home.site().command(program))
    }

    /// Removes the pods of a run that has failed from a runtime that was given; one that was started here takes them with
    /// it when it goes.
    pub(crate) fn abandon(&self) {
        let (None, Ok(cri)) = (&self.home, self.cri()) else { return };
        let ours = |pod: &PodSandbox| pod.metadata.as_ref().is_some_and(|of| of.namespace == NAMESPACE);
        for pod in cri.list_pod_sandbox(Default::default()).into_iter().flat_map(|answer| answer.items) {
            if ours(&pod) {
                let _ = cri.take_down(&pod.id);
            }
        }
        let _ = std::fs::remove_dir_all(&self.logs);
    }

    /// Ends it, if it was started here; returns what was wrong with that, and what it has left behind.
    pub(crate) fn end(self) -> Vec<String> {
        let Some(home) = self.home else {
            let removed = std::fs::remove_dir_all(&self.logs);
            return removed
                .err()
                .map(|error| format!("remove {}: {error}", self.logs.display()))
                .into_iter()
                .collect();
        };
        home.end()
    }
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make the directory {}", path.display()))
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
