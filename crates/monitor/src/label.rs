//! The label that a workload is to run under: asked for here, in force with the next exec; and that of a file.
//!
//! [`ask_for`] runs while `/proc` is the host's and no mount of the container lies over it; even so each file is
//! checked to be of procfs: a write that lands in another file would leave the workload without confinement, and could
//! do worse (CVE-2025-52881). Source: proc_pid_attr(5), apparmor(7), setexeccon(3).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, XattrFlags, fstatfs, open, setxattr};
use rustix::io::Errno;

use crate::plan::ProcessPlan;
use crate::stage::{Stage, StageError};

/// Asks the kernel for the labels of the plan, for this thread's next exec.
pub(crate) fn ask_for(process: &ProcessPlan) -> Result<(), StageError> {
    if let Some(profile) = &process.apparmor {
        let ask = || {
            // Where AppArmor is not the only module, the older file is another's.
            let file = match open_attribute("apparmor/exec") {
                Err(Errno::NOENT) => open_attribute("exec")?,
                opened => opened?,
            };
            write(&file, &format!("exec {profile}"))
        };
        ask().map_err(StageError::at(Stage::SetLabel, format!("AppArmor profile {profile:?}")))?;
    }
    if let Some(label) = &process.selinux {
        let ask = || write(&open_attribute("exec")?, label);
        ask().map_err(StageError::at(Stage::SetLabel, format!("SELinux label {label:?}")))?;
    }
    Ok(())
}

/// Gives the directory behind a descriptor an SELinux label.
pub(crate) fn relabel(directory: BorrowedFd<'_>, label: Option<&str>) -> Result<(), Errno> {
    let Some(label) = label else { return Ok(()) };
    // The descriptor may be one that only names its file, which fsetxattr(2) does not take.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    setxattr(path, "security.selinux", label.as_bytes(), XattrFlags::empty())
}

fn open_attribute(name: &str) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/thread-self/attr/{name}");
    let file = open(path, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if fstatfs(&file)?.f_type != PROC_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    Ok(file)
}

/// One write is one request.
fn write(file: &OwnedFd, text: &str) -> Result<(), Errno> {
    match rustix::io::write(file, text.as_bytes())? {
        written if written == text.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}
