//! Why something could not be done to a pod.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::CgroupError;
use berth_monitor::protocol::{Failure, Versions};
use berth_monitor::stage::Stage as LaunchStage;
use berth_store::ErrorKind;

use crate::devices::DeviceError;
use crate::lifecycle::sandbox::Silence;

/// The result of an operation on pods.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong; nothing is left of what a failed create had made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such pod.
    #[error("no pod sandbox {id:?}")]
    NoPod {
        /// As given.
        id: String,
    },
    /// No such container.
    #[error("no container {id:?}")]
    NoContainer {
        /// As given.
        id: String,
    },
    /// The beginning of several ids.
    #[error("id {id:?} is the beginning of several")]
    AmbiguousId {
        /// As given.
        id: String,
    },
    /// Another agent uses something that only one can.
    #[error("{what} {name} is used by another agent")]
    Taken {
        /// Bridge, nftables table or cgroup root.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Something is mounted in a directory that should go.
    #[error("something is mounted at or below {}", point.display())]
    Mounted {
        /// Where, or the directory that it is below.
        point: PathBuf,
    },
    /// Nobody can tell what is owned.
    #[error("no database in {}, which says what is owned: is that the agent's root?", root.display())]
    NoDatabase {
        /// Where it should be.
        root: PathBuf,
    },
    /// The image is not on this node.
    #[error("no image {image:?} on this node")]
    NoImage {
        /// As given.
        image: String,
    },
    /// A volume's image can't be had.
    #[error("mount image {image:?} at {}", path.display())]
    ImageVolume {
        /// The volume's path in the container.
        path: PathBuf,
        /// As given.
        image: String,
        /// Why not.
        source: Box<Error>,
    },
    /// The object is in a state that does not allow it.
    #[error("{object} {state}")]
    WrongState {
        /// The pod or container.
        object: String,
        /// As a predicate: "is not running".
        state: &'static str,
    },
    /// Another pod or container has the name.
    #[error("{object} exists already as {id}, {difference}")]
    Exists {
        /// What was to be made.
        object: String,
        /// The one that exists.
        id: String,
        /// Why it does not count as the same.
        difference: &'static str,
    },
    /// The request makes no sense.
    #[error("{field} {value:?}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// As given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A step failed.
    #[error("{stage} (after {} ms)", took.as_millis())]
    Stage {
        /// Which, with its object.
        stage: String,
        /// How long it had taken.
        took: Duration,
        /// Why.
        source: Box<Error>,
    },
    /// A step took longer than it may.
    #[error("no answer within {} s", limit.as_secs())]
    TooLong {
        /// The limit.
        limit: Duration,
    },
    /// The monitor hangs, or was stopped by a signal.
    #[error("monitor of pod {pod} (process {pid}) is stopped or hangs: no answer within {} s", limit.as_secs())]
    SilentMonitor {
        /// The pod.
        pod: String,
        /// The monitor's process.
        pid: i32,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The process that makes a container waits for a filesystem, and would wait for ever.
    #[error("process {pid}, which makes the container, has waited {} s in the kernel ({place}){}", limit.as_secs(), suspects(volumes))]
    StuckLaunch {
        /// The process.
        pid: u32,
        /// The kernel's function that it waits in.
        place: String,
        /// How long it was waited for.
        limit: Duration,
        /// Volumes whose filesystems somebody serves who may not answer.
        volumes: Vec<String>,
    },
    /// The command of an exec session ran longer than asked for; it has been killed.
    #[error("command in container {id} did not end within {} s", limit.as_secs_f64())]
    ExecTimeout {
        /// The container.
        id: String,
        /// The limit that the client set.
        limit: Duration,
    },
    /// A client that is attached has fallen too far behind.
    #[error(
        "the client reads more slowly than the container writes, and was detached; the log has everything"
    )]
    TooSlow,
    /// Nobody in the pod can be connected to.
    #[error("connect to localhost:{port} in the pod: 127.0.0.1: {v4}; [::1]: {v6}")]
    Connect {
        /// The port.
        port: u16,
        /// Why not there.
        v4: std::io::Error,
        /// And not there.
        v6: std::io::Error,
    },
    /// Processes of a container did not die.
    #[error("container {id} has not ended {} s after SIGKILL: processes {pids:?} wait in the kernel", after.as_secs())]
    Unkillable {
        /// Which of its processes are left.
        pids: Vec<u32>,
        /// The container.
        id: String,
        /// How long after.
        after: Duration,
    },
    /// A device that was asked for.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No plan can be made of the request.
    #[error("plan container")]
    Plan(#[from] berth_container::Error),
    /// The system call filter can't be made.
    #[error("linux.security_context.seccomp")]
    Seccomp {
        /// What is wrong with the profile.
        source: berth_seccomp::Error,
    },
    /// The monitor refused or failed.
    #[error("monitor: {0}")]
    Monitor(Failure),
    /// The monitor is gone.
    #[error("the pod's monitor is gone")]
    MonitorGone,
    /// The monitor is of an older build and would pass over a part of the plan.
    #[error(
        "the pod's monitor is older than the agent and does not know {feature}: only a new pod can have it"
    )]
    OldMonitor {
        /// What the plan needs.
        feature: &'static str,
    },
    /// The monitor and the agent have no version of their protocol in common.
    #[error(
        "the pod's monitor speaks {monitor} of the protocol, and the agent {agent}: the pod can only be removed"
    )]
    OtherProtocol {
        /// What the monitor speaks.
        monitor: Versions,
        /// What the agent does.
        agent: Versions,
    },
    /// The monitor hangs, or can't be talked to.
    #[error("the monitor of pod sandbox {pod} can't be reached: {why}")]
    OutOfReach {
        /// Whose.
        pod: String,
        /// What came of the last try.
        why: String,
    },
    /// The zygote can't be started or asked.
    #[error("start a monitor")]
    Spawn(#[source] std::io::Error),
    /// The image store refused.
    #[error(transparent)]
    Image(#[from] berth_image::Error),
    /// The network refused.
    #[error(transparent)]
    Network(#[from] berth_net::Error),
    /// The control groups refused.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] berth_store::Error),
    /// Nothing can be written to a directory of the agent's.
    #[error("write to {}: its file system is {state}", directory.display())]
    Storage {
        /// The directory.
        directory: PathBuf,
        /// Full, or read-only.
        state: &'static str,
    },
    /// Something of a pod or container whose record can't be read could not be taken away.
    #[error("remove {id}, whose record can't be read: {what}")]
    Kept {
        /// The pod or container.
        id: String,
        /// The first thing that stays, and why.
        what: String,
    },
    /// Records or whole databases that can't be read have been set aside.
    #[error(
        "read all records: records set aside: {rows}, files of ruined databases: {ruins}; {some} \
             (berth check --leaks names all, --repair removes them)"
    )]
    SetAside {
        /// How many records.
        rows: usize,
        /// How many files.
        ruins: usize,
        /// The first of them, and what is wrong with them.
        some: String,
    },
    /// A file or directory.
    #[error("{operation} {}", path.display())]
    File {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A test broke the step.
    #[error(transparent)]
    Fault(#[from] berth_fault::Fault),
    /// The outcome of work that another request began.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A task ended without an answer: a defect, or the agent is stopping.
    #[error("the agent gave up on it")]
    Abandoned,
}

impl Error {
    /// What the failure means to the client.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoPod { .. } | Self::NoContainer { .. } | Self::NoImage { .. } => ErrorKind::NotFound,
            Self::WrongState { .. } | Self::OldMonitor { .. } | Self::OtherProtocol { .. } => {
                ErrorKind::WrongState
            }
            Self::Taken { .. } | Self::Mounted { .. } => ErrorKind::Busy,
            Self::NoDatabase { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::Exists,
            Self::Invalid { .. } | Self::AmbiguousId { .. } | Self::Device(_) | Self::Seccomp { .. } => {
                ErrorKind::Invalid
            }
            Self::Stage { source, .. } | Self::ImageVolume { source, .. } => source.kind(),
            Self::TooLong { .. }
            | Self::SilentMonitor { .. }
            | Self::StuckLaunch { .. }
            | Self::ExecTimeout { .. }
            | Self::Unkillable { .. }
            | Self::Cgroup(CgroupError::Occupied { .. }) => ErrorKind::DeadlineExceeded,
            Self::Plan(error) => error.kind(),
            Self::Monitor(failure) => failure_kind(failure),
            Self::MonitorGone | Self::OutOfReach { .. } | Self::Spawn(_) | Self::Connect { .. } => {
                ErrorKind::Unavailable
            }
            Self::TooSlow => ErrorKind::Exhausted,
            Self::Image(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Cgroup(error) if error.is_invalid() => ErrorKind::Invalid,
            Self::Cgroup(CgroupError::BelowUsage { .. }) => ErrorKind::WrongState,
            Self::Storage { .. } => ErrorKind::Exhausted,
            Self::Store(error) => error.kind(),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorKind::Exhausted
            }
            Self::Shared(error) => error.kind(),
            Self::Cgroup(_) | Self::File { .. } | Self::Fault(_) | Self::Abandoned => ErrorKind::Internal,
            Self::Kept { .. } | Self::SetAside { .. } => ErrorKind::Internal,
        }
    }

    /// Whether an image could not be mounted as a volume: kubelets tell that apart.
    pub fn is_about_image_volume(&self) -> bool {
        if let Self::Stage { source, .. } = self {
            return source.is_about_image_volume();
        }
        if let Self::Monitor(failure) = self {
            return failure.stage() == Some(LaunchStage::OpenImage);
        }
        matches!(self, Self::ImageVolume { .. })
    }

    /// Whether an order to a monitor had no answer in its time, whoever is to blame.
    pub(crate) fn says_that_nobody_answered(&self) -> bool {
        matches!(self, Self::TooLong { .. } | Self::SilentMonitor { .. })
    }

    /// Whether a monitor has not answered, and is itself to blame: it is stopped or hangs.
    pub(crate) fn is_silence(&self) -> bool {
        if let Self::Stage { source, .. } = self {
            return source.is_silence();
        }
        matches!(self, Self::SilentMonitor { .. })
    }

    /// What a connection that failed says of the monitor. It may fail for the agent's own want, too.
    pub(crate) fn silence(&self) -> Silence {
        if self.says_that_nobody_listens() {
            Silence::Dead
        } else if matches!(self, Self::OtherProtocol { .. }) {
            Silence::OtherProtocol
        } else if matches!(self, Self::TooLong { .. }) {
            Silence::Hangs
        } else {
            Silence::HungUp
        }
    }

    /// Whether it says that there is none.
    pub(crate) fn says_that_nobody_listens(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::File { source, .. } if matches!(source.kind(), NotFound | ConnectionRefused))
    }

    /// Whether a step failed for want of a monitor, which had just been started.
    pub(crate) fn says_that_monitor_is_gone(&self) -> bool {
        matches!(self, Self::Stage { source, .. } if matches!(**source, Self::MonitorGone))
    }

    /// For `map_err`: what was attempted on which path.
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

fn suspects(volumes: &[String]) -> String {
    if volumes.is_empty() { String::new() } else { format!(": does volume {} answer?", volumes.join(", ")) }
}

/// A user that the image does not know is the request's fault, and so is a path that another image does not have.
fn failure_kind(failure: &Failure) -> ErrorKind {
    match failure {
        Failure::Unknown { .. } => ErrorKind::NotFound,
        Failure::WrongState { .. } => ErrorKind::WrongState,
        Failure::Launch { stage: LaunchStage::FindUser | LaunchStage::OpenImage, .. } => ErrorKind::Invalid,
        // Without an errno it is not the kernel that refused.
        Failure::Launch { stage: LaunchStage::OpenVolumes, errno: None, .. } => ErrorKind::Invalid,
        Failure::Launch { .. } | Failure::Other { .. } => ErrorKind::Internal,
    }
}
