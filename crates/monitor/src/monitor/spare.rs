//! A monitor that was made before its pod. Until it is told to become one, only its agent knows of it, and it goes with
//! the agent: nobody else could find it.

use rustix::system::sethostname;

use super::{Monitor, Outcome, other, wrong_state};
use crate::fork::in_uts_namespace;
use crate::protocol::{Answer, Failure};

impl Monitor {
    /// Becomes a pod. Its hostname is all that is not there yet.
    pub(super) fn occupy(&mut self, hostname: &str) -> Outcome {
        if !self.plan.spare {
            return Err(Failure::Other { detail: "the monitor has its pod already".to_owned() });
        }
        let pause = self.pause.as_ref().ok_or_else(|| wrong_state("has lost its pod's pause process"))?;
        in_uts_namespace(&pause.pidfd, || sethostname(hostname.as_bytes()))
            .map_err(other("set the hostname"))?;
        self.plan.hostname = Some(hostname.to_owned());
        self.plan.spare = false;
        berth_sys::title::set_name(c"berth-monitor");
        Ok(Some(Answer::Done))
    }

    /// A client has gone, or was gone before it could be greeted.
    pub(super) fn leave_if_spare(&mut self) {
        if self.plan.spare {
            self.shut_down(None);
        }
    }
}
