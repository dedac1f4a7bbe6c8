//! What agent and monitor say to each other, over a `SOCK_SEQPACKET` Unix socket: one JSON object a message.
//!
//! ```text
//!   agent ──Request{id}──▶ monitor        monitor ──Reply{id}──▶ agent      exactly one for each request
//!                                         monitor ──Event──────▶ agent      unasked, in the order of happening
//!                                         monitor ──Hello──────▶ agent      first on every connection, with all state
//! ```
//! The monitor outlives agents: whoever connects gets a [`Hello`] with everything that happened, so a
//! lost event is never lost state. Descriptors: `Hello` brings a memfd with the [`ContainerReport`]s of all containers
//! that were not forgotten (there may be more than a message holds), then `[pod netlink socket, netns]` where the pod
//! has its own network; a `Launch` request brings the plan's memfd; an `Exec` request the plan's memfd and the
//! descriptors for stdin, stdout and stderr in this order, and its answer the terminal's master side, if it has one; an
//! `Attach` request brings a pipe's write side for each stream that is wanted, and its answer what [`Answer::Attached`]
//! says; the answer to `OpenNetwork` brings the pod's network namespace. An order that a monitor does not know is
//! answered with a failure.
//!
//! Versions: a monitor keeps running under newer agents, and after a downgrade under older ones. Adding a field with a
//! default, a request or an event changes no version: who does not know it passes it over, or answers with a failure. A
//! change of what there is raises the version, and both sides speak the one before too, for as long as pods of such builds
//! may run ([`Versions`]); each request says which it is. An agent does not drive a monitor with which it has no version in common, but says so, lists its
//! pod and can remove it. A plan's field that a monitor must not pass over, because the workload would be less confined
//! than it says, belongs to a feature: the monitor's [`Hello`] lists its [`FEATURES`], and an agent sends it no plan that
//! needs another.

mod versions;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, PodId};
use crate::stage::Stage;

pub use versions::{Opening, Versions};

/// What plans of this build may need of a monitor; see [`LaunchPlan::features`](crate::plan::LaunchPlan::features).
pub const FEATURES: [&str; 6] = [SECCOMP, APPARMOR, SELINUX, HOOKS, OUTSIDE_HOOKS, FOREIGN];
pub(crate) const SECCOMP: &str = "seccomp";
pub(crate) const APPARMOR: &str = "apparmor";
pub(crate) const SELINUX: &str = "selinux";
pub(crate) const HOOKS: &str = "hooks";
pub(crate) const OUTSIDE_HOOKS: &str = "outside-hooks";
pub(crate) const FOREIGN: &str = "foreign";

/// The name of a monitor's listening socket in its pod's directory.
pub const SOCKET_NAME: &str = "monitor.sock";

/// A question of the agent's, numbered by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the [`Message::Reply`].
    pub id: u64,
    /// The version of the protocol that the agent speaks here, the newest that is in both ranges; those of a time when
    /// there was but one don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// What to do.
    pub order: Order,
}

/// What a monitor can be asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Make a container up to the gate; the plan is in the attached memfd.
    Launch,
    /// Open a made container's gate: it becomes the workload.
    Start {
        /// Which.
        container: ContainerId,
    },
    /// Send a signal to the container's first process.
    Signal {
        /// Which.
        container: ContainerId,
        /// Its number.
        signal: i32,
    },
    /// Kill every process in the container's cgroup.
    Kill {
        /// Which.
        container: ContainerId,
    },
    /// Close the log file and open it anew by its name.
    ReopenLog {
        /// Which.
        container: ContainerId,
    },
    /// Forget a container that has ended. Answered when its last hooks have run.
    Forget {
        /// Which.
        container: ContainerId,
    },
    /// Run one more process in a container; answered when it runs, and its end is an [`Event::ExecExited`]. The
    /// plan is in the attached memfd.
    Exec,
    /// Kill everything in an exec session.
    KillExec {
        /// The number of the `Exec` request.
        session: u64,
    },
    /// Show a running container's output from now on, and hand out its input. Its end is an [`Event::AttachEnded`].
    Attach {
        /// Which.
        container: ContainerId,
        /// Whether the client has input for it.
        stdin: bool,
        /// Whether the first attached descriptor is for standard output, or for a terminal's.
        stdout: bool,
        /// Whether the next one is for standard error.
        stderr: bool,
    },
    /// Forget an attached client; one that is unknown has been forgotten already.
    Detach {
        /// The number of the `Attach` request.
        session: u64,
    },
    /// Say how a container's log fares; of an unknown container, that it is one. Whoever answers at all is well.
    CheckLog {
        /// Which.
        container: ContainerId,
    },
    /// Become a pod: a monitor that was made as a spare takes its pod's hostname, and stays when the agent goes.
    Occupy {
        /// The pod's.
        hostname: String,
    },
    /// Hand out the pod's network namespace, so that a socket can be made in it; a pod in the host's has none.
    OpenNetwork,
    /// End the pod: kill every container and pause, then exit. Answered before the exit.
    Shutdown,
}

/// What a monitor sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First on each connection.
    Hello(Hello),
    /// The answer to one request.
    Reply {
        /// Its number.
        id: u64,
        /// How it went.
        result: Result<Answer, Failure>,
    },
    /// Something happened.
    Event(Event),
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The request has been carried out; there is nothing else to say.
    Done,
    /// The container stands at its gate.
    Launched {
        /// Its first process, in the host's pid namespace.
        pid: i32,
        /// Who it will run as.
        user: ResolvedUser,
        /// What could not be had and was done without.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// The workload, or the exec session, runs.
    Started {
        /// The process, in the host's pid namespace.
        pid: i32,
        /// When, in nanoseconds since the epoch.
        at_ns: i64,
    },
    /// How a container's log fares; nothing is lost of one that has none.
    Log {
        /// Bytes of records that could not be written, so far.
        dropped_bytes: u64,
        /// Why not, the last time.
        error: Option<String>,
    },
    /// The client is attached. A descriptor comes with it: the master side of the container's terminal, or else, where
    /// it takes input, the write side of its stdin.
    Attached {
        /// Whether it is a terminal.
        tty: bool,
        /// Whether what is written to the descriptor is the container's input.
        stdin: bool,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The pod has no such container or session.
    #[error("the monitor knows no {what}")]
    Unknown {
        /// What was named.
        what: String,
    },
    /// The container is in a state that does not allow it.
    #[error("the container {state}")]
    WrongState {
        /// The state, as a predicate: "has exited".
        state: String,
    },
    /// A step on the way to the workload failed.
    #[error("{stage}: {detail}")]
    Launch {
        /// Which.
        stage: Stage,
        /// The object and the error.
        detail: String,
        /// The errno where there was one.
        errno: Option<i32>,
    },
    /// The request can't be understood, or an operation on the monitor's own objects failed.
    #[error("{detail}")]
    Other {
        /// What went wrong.
        detail: String,
    },
}

impl Failure {
    /// The step of a launch that failed.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::Launch { stage, .. } => Some(*stage),
            Self::Unknown { .. } | Self::WrongState { .. } | Self::Other { .. } => None,
        }
    }
}

/// Everything that a monitor knows, for an agent that has just connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol of the monitor's build.
    pub version: u32,
    /// The oldest that it still speaks; see [`Opening`].
    #[serde(default)]
    pub oldest: Option<u32>,
    /// Whose monitor it is.
    pub pod: PodId,
    /// The monitor's own process.
    pub pid: i32,
    /// Pause; `None` once it has died.
    pub pause_pid: Option<i32>,
    /// Its [`FEATURES`]. Names, for it may be newer than the agent.
    #[serde(default)]
    pub features: Vec<String>,
}

/// One container as its monitor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerReport {
    /// Which.
    pub container: ContainerId,
    /// Its first process in the host's pid namespace.
    pub pid: i32,
    /// When the workload began to run, in nanoseconds since the epoch; `None` before.
    pub started_at_ns: Option<i64>,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, or 128 plus the number of the signal that killed it.
    pub code: i32,
    /// When, in nanoseconds since the epoch.
    pub at_ns: i64,
    /// The kernel killed a process of the container because its memory limit was reached.
    pub oom_killed: bool,
    /// Why the workload never ran, when `execve` failed.
    #[serde(default)]
    pub start_error: Option<String>,
    /// Bytes of log records that could not be written, as on a full disk.
    #[serde(default)]
    pub dropped_log_bytes: u64,
    /// Why not, the last time.
    #[serde(default)]
    pub log_error: Option<String>,
}

/// News.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A container's first process has ended, and all output has been logged.
    ContainerExited {
        /// Which.
        container: ContainerId,
        /// How.
        exit: Exit,
    },
    /// An exec session's process has ended.
    ExecExited {
        /// The number of the `Exec` request.
        session: u64,
        /// The exit code, or 128 plus the signal.
        code: i32,
    },
    /// An attached client gets nothing more.
    AttachEnded {
        /// The number of the `Attach` request.
        session: u64,
        /// Why.
        end: AttachEnd,
    },
    /// A hook failed that runs when the container's program does already, or no more.
    HookFailed {
        /// Of which.
        container: ContainerId,
        /// The hook and how it ended.
        detail: String,
    },
    /// Pause is gone, and with it the pod's namespaces.
    PauseExited,
}

/// Why a client is no longer attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachEnd {
    /// The container has ended; all of its output has been written to the client's descriptors.
    Exited,
    /// It did not read as fast as the container writes, and its pipe was full.
    TooSlow,
}

/// A user as found in the container's own files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// All supplemental groups.
    pub groups: Vec<u32>,
    /// The home directory that `/etc/passwd` gives.
    pub home: Option<String>,
}

/// What the agent sends to the zygote, with the descriptors `[connection, memfd of the SandboxPlan]`; answered by the
/// new monitor's [`Hello`] on that connection, or by a failed reply with the number 0.
pub const SPAWN: &[u8] = b"spawn";

/// Where a monitor keeps the record of one container's end, for the case that nobody can ask it any more.
pub fn exit_record_path(pod_directory: &std::path::Path, container: &ContainerId) -> PathBuf {
    pod_directory.join(format!("{container}.exit"))
}
