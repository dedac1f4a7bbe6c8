//! Containers of a pod with a user namespace: the child that was forked is not the one that becomes the workload (see
//! [`crate::birth`]).

use std::os::fd::OwnedFd;

use berth_sys::clone::Child;
use rustix::process::Pid;

use super::{Monitor, Source, other, reap};
use crate::id::ContainerId;
use crate::protocol::Failure;

impl Monitor {
    /// The newborn takes the place of the child that bore it, which is about to exit.
    pub(super) fn container_born(&mut self, id: &ContainerId, pidfd: Option<OwnedFd>) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some((pid, pidfd)) = pidfd.and_then(|pidfd| Some((pid_of(&pidfd)?, pidfd))) else {
            let detail = "the container's process is not known to the monitor".to_owned();
            return self.container_failed(id, Failure::Other { detail });
        };
        let midwife = std::mem::replace(&mut container.child, Child { pid, pidfd });
        self.poller.forget(|_, source| *source == Source::Child(id.clone()));
        let watched = self.poller.watch(&container.child.pidfd, Source::Child(id.clone()));
        let _ = self.poller.watch(&midwife.pidfd, Source::Midwife(id.clone()));
        container.midwife = Some(midwife);
        if let Err(errno) = watched {
            container.kill();
            self.container_failed(id, other("watch the container's process")(errno));
        }
    }

    pub(super) fn reap_midwife(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.midwife.as_ref().is_none_or(|midwife| reap(midwife).is_some()) {
            container.midwife = None;
            self.poller.forget(|_, source| *source == Source::Midwife(id.clone()));
        }
    }
}

/// The number of the process behind a pidfd in this process's pid namespace. Source: pidfd_open(2), proc_pid_fdinfo(5).
fn pid_of(pidfd: &OwnedFd) -> Option<Pid> {
    use std::os::fd::AsRawFd;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    Pid::from_raw(number.trim().parse().ok()?)
}
