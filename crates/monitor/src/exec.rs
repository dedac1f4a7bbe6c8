//! The child side of an exec session: one more process in a container that runs.
//!
//! It enters the namespaces of the container's first process in one call and then becomes a workload just as the
//! container did ([`crate::launch`]): same user, capabilities, filter and environment. Its pid namespace was chosen
//! by the fork, its sub-cgroup on v2 too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_fault::point;
use berth_sys::exec::{close_others, exit_now};
use rustix::process::setsid;
use rustix::thread::ThreadNameSpaceType;

use crate::fork::join_cgroup;
use crate::handshake::Gate;
use crate::idmap::IdMaps;
use crate::label;
use crate::launch::{START_ERROR_CODE, become_workload, hide, join, set_oom_score, wait_then_execute};
use crate::plan::ProcessPlan;
use crate::protocol::ResolvedUser;
use crate::stage::{Stage, StageError};
use crate::streams::Streams;
use crate::terminal::Terminal;
use crate::user_namespace;

/// What an exec session needs of its container.
#[derive(Debug)]
pub(crate) struct Newcomer<'a> {
    /// The container's process with the session's own arguments.
    pub(crate) process: ProcessPlan,
    /// As the container's first process was resolved.
    pub(crate) user: ResolvedUser,
    /// The pod's own user namespace, which the container is in.
    pub(crate) user_namespace: Option<IdMaps>,
    /// The container's first process.
    pub(crate) target: BorrowedFd<'a>,
    /// The container's cgroups, with the session's own below.
    pub(crate) cgroup: berth_cgroup::Entry,
    /// Whether to make a terminal.
    pub(crate) tty: bool,
}

/// Runs in the child; never returns.
pub(crate) fn become_session(newcomer: Newcomer<'_>, socket: OwnedFd, streams: Streams) -> ! {
    hide();
    let gate = Gate::new(socket);
    let [stdin, stdout, stderr] = streams.as_fds();
    let _ = close_others(&[gate.as_fd(), newcomer.target, stdin, stdout, stderr]);
    let Err(error) = run(newcomer, &gate, streams);
    gate.fail(error);
    exit_now(START_ERROR_CODE)
}

fn run(
    newcomer: Newcomer<'_>,
    gate: &Gate,
    streams: Streams,
) -> Result<std::convert::Infallible, StageError> {
    point!("join the container").pass().map_err(StageError::broken(Stage::JoinPod))?;
    setsid().map_err(StageError::at(Stage::Fork, "session"))?;
    join_cgroup(&newcomer.cgroup)?;
    set_oom_score(newcomer.process.oom_score_adj, &mut Vec::new())?;
    label::ask_for(&newcomer.process)?;
    let mut namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::NETWORK;
    if let Some(maps) = &newcomer.user_namespace {
        namespaces |= ThreadNameSpaceType::USER;
        streams.give_to_root_of(maps)?;
    }
    join(newcomer.target, namespaces)?;
    if newcomer.user_namespace.is_some() {
        user_namespace::become_root()?;
    }
    let terminal = if newcomer.tty { Some(Terminal::open_here()?) } else { None };
    let terminal = become_workload(&newcomer.process, &newcomer.user, streams, terminal)?;
    wait_then_execute(&newcomer.process, gate, newcomer.user, (Vec::new(), terminal), || Ok(()))
}
