//! Runs pods on a CRI runtime, as a tiny kubelet would.
//!
//! ```text
//! Runner::run ─▶ one task per pod (pod) ─▶ images pulled, sandbox made, hosts file written
//!                  ├─ init containers in turn, sidecars stay (container)
//!                  └─ containers together, one task each: start, wait for the exit, back off, start again
//! events: one task reads the runtime's event stream and wakes whoever waits for an exit
//! follow: one thread per running container prints its log file
//! ```
//!
//! A stop request and a failure take the same way: every task stops its container within the pod's grace period, the
//! sandbox goes, and so do the pod's directories. Nothing is left unless the runtime itself fails to remove it, which
//! is an error. Exits are learned from the event stream, and asked for anew whenever it was interrupted.

mod backoff;
mod calls;
mod container;
mod departure;
mod detached;
mod events;
mod follow;
mod image;
mod output;
mod pod;
mod prepare;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use detached::remove_detached;
pub use output::Output;

use crate::{
    error::FieldError,
    parse::{PodFacts, PodManifest},
    runner::{
        calls::Cri,
        departure::Departure,
        events::Events,
        pod::{PodEnd, PodRun},
    },
    sandbox::log_dir_name,
};

/// Drives the CRI runtime at the other end of a channel.
#[derive(Debug, Clone)]
pub struct Runner {
    cri: Cri,
    dirs: Dirs,
}

/// Where the runner keeps what belongs to the pods it runs. Both are made when absent.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// A directory per pod: volumes and hosts file, seen by the containers.
    pub pods: PathBuf,
    /// A directory per pod: the containers' logs, written by the runtime.
    pub logs: PathBuf,
}

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// When the run ends.
    pub mode: Mode,
    /// Where the containers' lines go.
    pub output: Output,
    /// Which of the runtime's handlers runs the pods; empty for its default.
    pub runtime_handler: String,
    /// Cancelled once nobody has patience for the pods: those that stop, then or later, get no grace. It ends no pod
    /// itself.
    pub hurry: CancellationToken,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When every pod has finished, or on request; everything is removed.
    Follow,
    /// As soon as all containers of all pods run; the pods stay, and nobody restarts their containers. If one pod ends
    /// before that, so do the others.
    Detach,
}

/// How a run ended, when nothing went wrong with the run itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All containers ended by themselves.
    Finished {
        /// 0, or that of the first container that failed, in the order of the manifests.
        exit_code: i32,
    },
    /// On request.
    Stopped,
    /// The pods run on.
    Detached {
        /// The runtime's ids of their sandboxes, in the order of the manifests.
        pod_ids: Vec<String>,
    },
}

/// A run failed. What it had made is gone, unless taking it down is what failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Two manifests are for the same pod.
    #[error("run pod {namespace}/{name}: it is given twice")]
    Duplicate {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A pod can't be expressed as CRI configs.
    #[error("run pod {pod}")]
    Field {
        /// The pod.
        pod: String,
        /// Which field, and why.
        source: FieldError,
    },
    /// The runtime refused or failed a call.
    #[error("{call} of {object}")]
    Call {
        /// The CRI call.
        call: &'static str,
        /// What it was about.
        object: String,
        /// The runtime's answer.
        source: Box<tonic::Status>,
    },
    /// The runtime has no event stream, without which exits can't be learned.
    #[error("follow the runtime's container events")]
    Events {
        /// The runtime's answer.
        source: Box<tonic::Status>,
    },
    /// `imagePullPolicy: Never`, and the image is not there.
    #[error("run container {container}: image {image} is not on this node and must not be pulled")]
    ImageAbsent {
        /// The container.
        container: String,
        /// The image.
        image: String,
    },
    /// `runAsNonRoot`, and the container would run as root, or as a user whose number is not known.
    #[error("run container {container}: it must not run as root, but its user is {user}")]
    RunsAsRoot {
        /// The container.
        container: String,
        /// What its manifest or image says.
        user: String,
    },
    /// Something of the pod on the host could not be made ready or be removed.
    #[error("{action} {path}")]
    Host {
        /// Such as `make directory`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A hostPath is not what its type says.
    #[error("use host path {path}: it is not a {wanted}")]
    HostPath {
        /// The path.
        path: PathBuf,
        /// The type.
        wanted: &'static str,
    },
    /// A container disappeared from the runtime while it was being watched.
    #[error("watch container {container}: the runtime has lost it")]
    Lost {
        /// The container.
        container: String,
    },
    /// A task of the runner ended by a panic.
    #[error("run pods")]
    Task {
        /// Which.
        source: tokio::task::JoinError,
    },
}

impl Runner {
    /// A runner for the runtime behind `channel`.
    pub fn new(channel: Channel, dirs: Dirs) -> Self {
        Self { cri: Cri::new(channel), dirs }
    }

    /// Runs `pods` together until they have finished, or `stop` is cancelled, or one can't be run.
    ///
    /// Blocks no async thread. Dropping the future leaves pods behind: cancel `stop` and wait for the outcome instead.
    pub async fn run(
        &self,
        pods: Vec<PodManifest>,
        options: Options,
        stop: CancellationToken,
    ) -> Result<Outcome, RunError> {
        refuse_duplicates(&pods)?;
        let width = label_width(&pods);
        let several = pods.len() > 1;
        // Whatever can fail comes before the first task: dropping a set of tasks ends them midway.
        let facts = pods.iter().map(|pod| self.facts(pod)).collect::<Result<Vec<_>, _>>()?;
        let departure = Departure::of(pods.len());
        let events = Events::follow(self.cri.clone());
        let output = Arc::new(options.output);
        // Cancelled by the caller's request, and by the first pod that keeps the others from going on.
        let end = stop.child_token();
        let mut tasks = JoinSet::new();
        for (i, (manifest, facts)) in pods.into_iter().zip(facts).enumerate() {
            let prefix = if several { format!("{}/", manifest.name) } else { String::new() };
            let pod = PodRun {
                manifest,
                facts,
                cri: self.cri.clone(),
                events: events.clone(),
                output: Arc::clone(&output),
                label_prefix: prefix,
                label_width: width,
                mode: options.mode,
                runtime_handler: options.runtime_handler.clone(),
                hurry: options.hurry.clone(),
                stop: end.child_token(),
                departure: departure.clone(),
            };
            tasks.spawn(async move { (i, pod.run().await) });
        }
        outcome(tasks, options.mode, &stop, &end).await
    }

    fn facts(&self, manifest: &PodManifest) -> Result<PodFacts, RunError> {
        let uid = new_uid().map_err(|source| RunError::Host {
            action: "draw a pod uid from",
            path: Path::new("/dev/urandom").to_owned(),
            source,
        })?;
        Ok(PodFacts {
            dir: self.dirs.pods.join(&uid),
            log_dir: self.dirs.logs.join(log_dir_name(manifest, &uid)),
            ips: Vec::new(),
            host_dns: prepare::host_dns(),
            machine_memory_bytes: prepare::machine_memory_bytes(),
            uid,
        })
    }
}

/// Waits for all pods; the first failure ends the others, and so does, of those to be detached, the first that ends.
async fn outcome(
    mut tasks: JoinSet<(usize, Result<PodEnd, RunError>)>,
    mode: Mode,
    stop: &CancellationToken,
    end: &CancellationToken,
) -> Result<Outcome, RunError> {
    let mut ends = Vec::new();
    let mut failure = None;
    while let Some(joined) = tasks.join_next().await {
        match joined.map_err(|source| RunError::Task { source }) {
            Ok((i, Ok(pod_end))) => {
                if mode == Mode::Detach && !matches!(pod_end, PodEnd::Detached { .. }) {
                    end.cancel();
                }
                ends.push((i, pod_end));
            }
            Ok((_, Err(error))) | Err(error) => {
                end.cancel();
                failure.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    ends.sort_by_key(|(i, _)| *i);
    let is_stopped = ends.iter().any(|(_, end)| *end == PodEnd::Stopped);
    // Without a request, pods are stopped for one that has finished, and what that one says counts.
    let has_finished = ends.iter().any(|(_, end)| matches!(end, PodEnd::Finished(_)));
    if is_stopped && (stop.is_cancelled() || !has_finished) {
        return Ok(Outcome::Stopped);
    }
    let (mut exit_codes, mut pod_ids) = (Vec::new(), Vec::new());
    for (_, end) in ends {
        match end {
            PodEnd::Finished(code) => exit_codes.push(code),
            PodEnd::Detached { pod_id } => pod_ids.push(pod_id),
            PodEnd::Stopped => {}
        }
    }
    Ok(if exit_codes.is_empty() {
        Outcome::Detached { pod_ids }
    } else {
        Outcome::Finished { exit_code: exit_codes.into_iter().find(|code| *code != 0).unwrap_or(0) }
    })
}

fn refuse_duplicates(pods: &[PodManifest]) -> Result<(), RunError> {
    let mut seen = BTreeSet::new();
    match pods.iter().find(|pod| !seen.insert((&pod.namespace, &pod.name))) {
        Some(pod) => Err(RunError::Duplicate { namespace: pod.namespace.clone(), name: pod.name.clone() }),
        None => Ok(()),
    }
}

/// The longest label of any container, so that the lines of all start in the same column.
fn label_width(pods: &[PodManifest]) -> usize {
    let several = pods.len() > 1;
    let widths = pods.iter().flat_map(|pod| {
        let prefix = if several { pod.name.len() + 1 } else { 0 };
        crate::parse::containers(&pod.spec).into_iter().map(move |(_, c)| prefix + c.name.len())
    });
    widths.max().unwrap_or(0)
}

/// A random UUID (RFC 9562, version 4).
fn new_uid() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    let number = u128::from_be_bytes(bytes);
    let number = number & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{number:032x}");
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_random_uuids() {
        let uid = new_uid().unwrap();
        let dashes: Vec<_> = uid.match_indices('-').map(|(i, _)| i).collect();
        assert_eq!((uid.len(), dashes), (36, vec![8, 13, 18, 23]), "{uid}");
        assert!(uid[14..].starts_with('4') && "89ab".contains(&uid[19..20]), "{uid}");
        assert_ne!(uid, new_uid().unwrap());
    }
}
