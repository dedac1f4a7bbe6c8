//! What is left to be waited for of containers that other runtimes make (see [`crate::foreign`]).
//!
//! A process whose parent has ended becomes the child of the nearest ancestor that asks for such. The monitor does,
//! from the first container of that kind on: so it learns how these end. In return, whatever else loses its parent
//! comes to it as well, and has to be waited for once it has ended.

use berth_sys::clone::{Child, ended_child};
use rustix::process::{WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use super::{Monitor, Source, other, reap};
use crate::fork::fork_deletion;
use crate::id::ContainerId;
use crate::plan::ForeignPlan;
use crate::protocol::Failure;

/// Strangers waited for at one time; more wait for the next.
const MAX_STRANGERS: usize = 256;

impl Monitor {
    /// Asks for processes that lose their parent.
    pub(super) fn adopt_orphans(&self) -> Result<(), Failure> {
        set_child_subreaper(Some(getpid())).map_err(other("become the reaper of orphans"))
    }

    /// Has another runtime forget a container that has ended.
    pub(super) fn delete_foreign(&mut self, id: &ContainerId, foreign: &ForeignPlan) {
        // Its state lies in the pod's directory and goes with that at the latest.
        if let Ok(child) = fork_deletion(&self.witness, foreign, id.as_str()) {
            self.wait_for(child);
        }
    }

    /// Takes over a child of which nothing is expected but its end.
    pub(super) fn wait_for(&mut self, child: Child) {
        let pid = child.pid.as_raw_nonzero().get();
        if reap(&child).is_none() && self.poller.watch(&child.pidfd, Source::Attendant(pid)).is_ok() {
            self.attendants.insert(pid, child);
        }
    }

    pub(super) fn reap_attendant(&mut self, pid: i32) {
        if self.attendants.get(&pid).is_none_or(|child| reap(child).is_some()) {
            self.attendants.remove(&pid);
            self.poller.forget(|_, source| *source == Source::Attendant(pid));
        }
        self.reap_strangers();
    }

    /// Waits for orphans that have ended, up to the next child that somebody else waits for.
    pub(super) fn reap_strangers(&mut self) {
        for _ in 0..MAX_STRANGERS {
            let Some(pid) = ended_child() else { return };
            if self.is_known(pid.as_raw_nonzero().get()) {
                return;
            }
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }

    fn is_known(&self, pid: i32) -> bool {
        let is = |child: &Child| child.pid.as_raw_nonzero().get() == pid;
        let of_container = self
            .containers
            .values()
            .any(|container| is(&container.child) || container.midwife.as_ref().is_some_and(is));
        of_container
            || self.pause.as_ref().is_some_and(is)
            || self.sessions.values().any(|session| is(&session.child))
            || self.attendants.contains_key(&pid)
    }
}
