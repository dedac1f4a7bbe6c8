//! Why no plan can be made of a request.

use std::path::PathBuf;

use berth_store::ErrorKind;

use crate::capability::UnknownCapability;

/// The result of planning.
pub type Result<T> = std::result::Result<T, Error>;

/// What in a request, or in the image it names, makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither request nor image say what to run.
    #[error(
        "no command: neither the container's command and args nor the image's entrypoint and cmd are set"
    )]
    NoCommand,
    /// A capability that does not exist.
    #[error("capabilities")]
    Capability(#[from] UnknownCapability),
    /// The image's USER makes no sense.
    #[error("user {user:?} of the image: {reason}")]
    ImageUser {
        /// As the image has it.
        user: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The image's STOPSIGNAL is none.
    #[error("stop signal {signal:?} of the image is no signal")]
    ImageStopSignal {
        /// As the image has it.
        signal: String,
    },
    /// More groups than a process can be in.
    #[error(
        "supplemental_groups: {count} groups, with those of devices, are more than the {limit} that a process can have"
    )]
    TooManyGroups {
        /// How many there would be.
        count: usize,
        /// How many there can be.
        limit: usize,
    },
    /// A volume over a kernel file whose contents the container's confinement rests on.
    #[error(
        "mount at {}: inside /proc only the files cpuinfo, diskstats, loadavg, meminfo, slabinfo, stat, swaps and uptime can \
         be mounted over",
        target.display()
    )]
    MountInProc {
        /// Where it was to be mounted.
        target: PathBuf,
    },
    /// A privileged container in a pod that is not.
    #[error("privileged: a privileged container needs a privileged sandbox")]
    PrivilegedInUnprivilegedPod,
}

impl Error {
    /// All of these are the request's fault.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}
