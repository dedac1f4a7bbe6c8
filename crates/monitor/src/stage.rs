//! Where a child is on the way from fork to workload, and which of the steps failed on what.

use std::fmt;

use berth_fault::{Fault, Point, point};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::protocol::Failure;
use crate::rootfs::MountError;
use crate::user::UserError;

/// Makes the enum, the names, and the points at which a test can break the steps.
macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident = $name:literal,)*) => {
        /// The steps on the way from fork to workload, in their order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Stage {
            $($(#[$doc])* $stage,)*
        }

        impl Stage {
            fn point(self) -> Point {
                match self {
                    $(Self::$stage => point!($name),)*
                }
            }
        }
    };
}

stages! {
    /// Forking the child into new namespaces and its cgroup.
    Fork = "fork the container's process",
    /// Moving into the cgroups.
    JoinCgroup = "join cgroup",
    /// Entering the pod's namespaces.
    JoinPod = "join the pod's namespaces",
    /// Setting the score for the out-of-memory killer.
    SetOomScore = "set oom_score_adj",
    /// Asking for a label of AppArmor or SELinux.
    SetLabel = "set security label",
    /// Taking hold of the volumes' host side.
    OpenVolumes = "open volume",
    /// Making an image ready to be mounted as a volume.
    OpenImage = "mount image volume",
    /// Mounting the image under its writable layer.
    MountRoot = "mount root filesystem",
    /// Mounting volumes and kernel filesystems.
    Mount = "mount",
    /// Making device nodes and links.
    MakeDevices = "make device",
    /// Making the terminal.
    OpenTerminal = "open terminal",
    /// Running a hook.
    RunHook = "run hook",
    /// Masking and write-protecting kernel files.
    ProtectPaths = "protect path",
    /// Changing the root.
    ChangeRoot = "change root",
    /// Finding the user in the image's files.
    FindUser = "find user",
    /// Entering the working directory.
    ChangeDirectory = "enter working directory",
    /// Setting up standard streams.
    ConnectStreams = "connect standard streams",
    /// Forbidding new privileges.
    SetNoNewPrivileges = "set no_new_privs",
    /// Installing the system call filter.
    InstallSeccomp = "install seccomp filter",
    /// Becoming the user, with its groups and capabilities.
    SetUser = "become user",
    /// Waiting at the gate.
    WaitAtGate = "wait to be started",
    /// Running the workload's program.
    Execute = "execute",
    /// Having another OCI runtime make the container.
    ForeignRuntime = "have another runtime make the container",
}

impl Stage {
    /// Begins the step, unless a test has it fail.
    pub(crate) fn begin(self) -> Result<(), StageError> {
        self.point().pass().map_err(StageError::broken(self))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.point().name())
    }
}

/// A step that failed.
#[derive(Debug)]
pub(crate) struct StageError {
    pub(crate) stage: Stage,
    pub(crate) object: String,
    pub(crate) errno: Option<Errno>,
}

impl StageError {
    /// For `map_err`: the step and the object, when a call fails.
    pub(crate) fn at(stage: Stage, object: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let object = object.into();
        move |errno| Self { stage, object, errno: Some(errno) }
    }

    pub(crate) fn user(error: UserError) -> Self {
        let errno = match &error {
            UserError::Read { source, .. } => Some(*source),
            UserError::NoUser(_) | UserError::NoGroup(_) => None,
        };
        Self { stage: Stage::FindUser, object: error.to_string(), errno }
    }

    /// For `map_err` on a point: what a test broke.
    pub(crate) fn broken(stage: Stage) -> impl FnOnce(Fault) -> Self {
        move |fault| Self { stage, object: fault.to_string(), errno: Some(Errno::IO) }
    }

    pub(crate) fn mount(stage: Stage) -> impl FnOnce(MountError) -> Self {
        move |MountError { object, errno }| Self { stage, object, errno }
    }
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object)?;
        match self.errno {
            Some(errno) => write!(f, ": {}", std::io::Error::from(errno)),
            None => Ok(()),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Other { detail: fault.to_string() }
    }
}
