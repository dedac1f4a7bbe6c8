//! One exec session as its monitor sees it.
//!
//! The agent brings the descriptors for the three streams, or gets the master side of the session's terminal, so no
//! byte of the session passes through the monitor; only its exit code does. The session has a cgroup of its own below
//! the container's, through which all of it can be killed, children that have left their parents included.

use std::os::fd::{AsFd, OwnedFd};

use berth_cgroup::ExecCgroup;
use berth_sys::clone::{Child, Cloned, NewNamespaces, SingleThreaded, clone3};
use berth_sys::packet::{self, Blocking};
use rustix::process::{Signal, pidfd_send_signal};

use crate::container::{Container, ReplyTo};
use crate::exec::{Newcomer, become_session};
use crate::fork::{fork_error, in_pid_namespace, open_cgroup};
use crate::id::ContainerId;
use crate::plan::ExecPlan;
use crate::protocol::Failure;
use crate::streams::Streams;

/// A running session.
#[derive(Debug)]
pub(crate) struct Session {
    /// The container that it runs in.
    pub(crate) container: ContainerId,
    pub(crate) child: Child,
    /// The socket of the handshake, until exec has closed it.
    pub(crate) gate: Option<OwnedFd>,
    /// The request that asked for it.
    pub(crate) owner: ReplyTo,
    /// Whether that request has been answered.
    pub(crate) answered: bool,
    /// The master side of its terminal, between the child's readiness and the answer.
    pub(crate) terminal: Option<OwnedFd>,
    cgroup: OwnCgroup,
}

/// The cgroup of a session, of which the session lets go in the end, however that comes. What it left running in the
/// background moves up into the container's then.
#[derive(Debug)]
struct OwnCgroup(ExecCgroup);

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // It goes with the container's at the latest.
        let _ = self.0.dissolve();
    }
}

impl Session {
    /// Forks the session's child; `number` names its cgroup.
    pub(crate) fn fork(
        witness: &SingleThreaded,
        container: &Container,
        plan: ExecPlan,
        number: u64,
        streams: Streams,
        owner: ReplyTo,
    ) -> Result<Self, Failure> {
        let cgroup = ExecCgroup::create(&container.cgroup, &format!("exec-{number}"))
            .map(OwnCgroup)
            .map_err(|error| Failure::Other { detail: error.to_string() })?;
        let entry = cgroup.0.entry().clone();
        let mut process = container.process.clone();
        process.args = plan.args;
        if plan.tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        let (gate, child_gate) = packet::pair(Blocking::Yes).map_err(fork_error("socket"))?;
        let directory = open_cgroup(&entry)?;
        let target = container.child.pidfd.as_fd();
        let forked = in_pid_namespace(Some(target), || {
            clone3(witness, NewNamespaces::default(), directory.as_ref().map(AsFd::as_fd))
        });
        let child = match forked {
            Ok(Cloned::Child) => {
                let user = container.user.clone();
                let user_namespace = container.user_namespace;
                let newcomer =
                    Newcomer { process, user, user_namespace, target, cgroup: entry, tty: plan.tty };
                become_session(newcomer, child_gate, streams)
            }
            Ok(Cloned::Parent(child)) => child,
            Err(errno) => return Err(fork_error("exec session")(errno)),
        };
        let _ = rustix::io::ioctl_fionbio(&gate, true);
        Ok(Self {
            container: plan.container,
            child,
            gate: Some(gate),
            owner,
            answered: false,
            terminal: None,
            cgroup,
        })
    }

    /// Its first process in the host's pid namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.child.pid.as_raw_nonzero().get()
    }

    /// Kills everything in the session.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        let _ = berth_cgroup::kill_all(self.cgroup.0.entry());
    }
}
