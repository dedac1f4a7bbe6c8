//! Where a child is on the way from fork to workload, and which of the steps failed on what.

use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::rootfs::MountError;
use crate::user::UserError;

/// The steps on the way from fork to workload, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Forking the child into new namespaces and its cgroup.
    Fork,
    /// Moving into the cgroups.
    JoinCgroup,
    /// Entering the pod's namespaces.
    JoinPod,
    /// Setting the score for the out-of-memory killer.
    SetOomScore,
    /// Asking for a label of AppArmor or SELinux.
    SetLabel,
    /// Taking hold of the volumes' host side.
    OpenVolumes,
    /// Making an image ready to be mounted as a volume.
    OpenImage,
    /// Mounting the image under its writable layer.
    MountRoot,
    /// Mounting volumes and kernel filesystems.
    Mount,
    /// Making device nodes and links.
    MakeDevices,
    /// Making the terminal.
    OpenTerminal,
    /// Running a hook.
    RunHook,
    /// Masking and write-protecting kernel files.
    ProtectPaths,
    /// Changing the root.
    ChangeRoot,
    /// Finding the user in the image's files.
    FindUser,
    /// Entering the working directory.
    ChangeDirectory,
    /// Setting up standard streams.
    ConnectStreams,
    /// Forbidding new privileges.
    SetNoNewPrivileges,
    /// Installing the system call filter.
    InstallSeccomp,
    /// Becoming the user, with its groups and capabilities.
    SetUser,
    /// Waiting at the gate.
    WaitAtGate,
    /// Running the workload's program.
    Execute,
    /// Having another OCI runtime make the container.
    ForeignRuntime,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fork => "fork the container's process",
            Self::JoinCgroup => "join cgroup",
            Self::JoinPod => "join the pod's namespaces",
            Self::SetOomScore => "set oom_score_adj",
            Self::SetLabel => "set security label",
            Self::OpenVolumes => "open volume",
            Self::OpenImage => "mount image volume",
            Self::MountRoot => "mount root filesystem",
            Self::Mount => "mount",
            Self::MakeDevices => "make device",
            Self::OpenTerminal => "open terminal",
            Self::RunHook => "run hook",
            Self::ProtectPaths => "protect path",
            Self::ChangeRoot => "change root",
            Self::FindUser => "find user",
            Self::ChangeDirectory => "enter working directory",
            Self::ConnectStreams => "connect standard streams",
            Self::SetNoNewPrivileges => "set no_new_privs",
            Self::InstallSeccomp => "install seccomp filter",
            Self::SetUser => "become user",
            Self::WaitAtGate => "wait to be started",
            Self::Execute => "execute",
            Self::ForeignRuntime => "have another runtime make the container",
        })
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
