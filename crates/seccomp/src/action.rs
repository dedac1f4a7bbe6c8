//! What happens to a system call.

/// EPERM: what a refused call returns when the profile does not say.
const EPERM: u32 = 1;
/// ENOSYS.
pub(crate) const ENOSYS: u16 = 38;

/// The kernel's largest errno. Source: `MAX_ERRNO` in include/linux/err.h.
const MAX_ERRNO: u16 = 4095;

/// What a filter decides about a call. Source: seccomp(2), "Filter return values".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The process dies as by SIGSYS.
    KillProcess,
    /// The thread does.
    KillThread,
    /// SIGSYS, which can be handled.
    Trap,
    /// The call does nothing and fails.
    Errno(u16),
    /// A tracer is asked; without one the call fails with ENOSYS.
    Trace(u16),
    /// The call is carried out and logged.
    Log,
    /// The call is carried out.
    Allow,
}

/// Why a name is no action that can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAction {
    Unknown,
    Notify,
    ErrnoOutOfRange,
}

impl Action {
    /// Reads a name of the OCI runtime-spec, config-linux.md, with the errno that stands beside it.
    pub(crate) fn from_name(name: &str, errno: Option<u32>) -> Result<Self, NoAction> {
        let code = || match u16::try_from(errno.unwrap_or(EPERM)) {
            Ok(code) if code <= MAX_ERRNO => Ok(code),
            _ => Err(NoAction::ErrnoOutOfRange),
        };
        match name {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(Self::KillThread),
            "SCMP_ACT_KILL_PROCESS" => Ok(Self::KillProcess),
            "SCMP_ACT_TRAP" => Ok(Self::Trap),
            "SCMP_ACT_ERRNO" => code().map(Self::Errno),
            "SCMP_ACT_TRACE" => code().map(Self::Trace),
            "SCMP_ACT_LOG" => Ok(Self::Log),
            "SCMP_ACT_ALLOW" => Ok(Self::Allow),
            "SCMP_ACT_NOTIFY" => Err(NoAction::Notify),
            _ => Err(NoAction::Unknown),
        }
    }

    /// Whether a call goes on, with or without somebody looking.
    pub(crate) fn is_permissive(self) -> bool {
        match self {
            Self::Allow | Self::Log | Self::Trace(_) => true,
            Self::KillProcess | Self::KillThread | Self::Trap | Self::Errno(_) => false,
        }
    }

    /// The kernel's number. Source: `SECCOMP_RET_*` in include/uapi/linux/seccomp.h.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0x0000_0000,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_runtime_spec() {
        for (name, errno, want) in [
            ("SCMP_ACT_KILL", None, Ok(Action::KillThread)),
            ("SCMP_ACT_KILL_PROCESS", None, Ok(Action::KillProcess)),
            ("SCMP_ACT_ERRNO", None, Ok(Action::Errno(1))),
            ("SCMP_ACT_ERRNO", Some(38), Ok(Action::Errno(38))),
            ("SCMP_ACT_ERRNO", Some(0), Ok(Action::Errno(0))),
            ("SCMP_ACT_ERRNO", Some(4096), Err(NoAction::ErrnoOutOfRange)),
            ("SCMP_ACT_TRACE", Some(7), Ok(Action::Trace(7))),
            ("SCMP_ACT_ERRNO", Some(u32::MAX), Err(NoAction::ErrnoOutOfRange)),
            ("SCMP_ACT_ALLOW", Some(1), Ok(Action::Allow)),
            ("SCMP_ACT_NOTIFY", None, Err(NoAction::Notify)),
            ("allow", None, Err(NoAction::Unknown)),
        ] {
            assert_eq!(Action::from_name(name, errno), want, "{name} {errno:?}");
        }
    }
}
