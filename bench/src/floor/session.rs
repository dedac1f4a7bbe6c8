//! A command in a container that runs: what `ExecSync` of `true` comes down to.

use std::convert::Infallible;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use berth_sys::clone::{Child, Cloned, NewNamespaces, SingleThreaded, clone3};
use berth_sys::exec::exit_now;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, WaitId, WaitIdOptions, set_parent_process_death_signal, waitid};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use super::container::execute;
use super::groups::Group;

/// Has a clone in the container's namespaces and cgroups execute `true`, and reaps it.
pub(super) fn run_true(witness: &SingleThreaded, container: &Child, group: &Group) -> Result<()> {
    let directory = group.open()?;
    let cgroup = directory.as_ref().map(AsFd::as_fd);
    let forked = in_pid_namespace(container, || clone3(witness, NewNamespaces::default(), cgroup));
    let session = match forked.context("clone a session")? {
        Cloned::Child => {
            let Err(error) = become_true(container, group);
            // There is nobody to tell it to but the reader of the floor's own words.
            eprintln!("session: {error:#}");
            exit_now(1)
        }
        Cloned::Parent(session) => session,
    };
    let ended = waitid(WaitId::PidFd(session.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    match ended.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        status => bail!("a session ended with {status:?}"),
    }
}

/// A pid namespace is entered only by those who are born later, so this process is in it for one birth.
#[expect(clippy::disallowed_methods, reason = "a process with one thread, which comes back")]
fn in_pid_namespace(
    container: &Child,
    fork: impl FnOnce() -> rustix::io::Result<Cloned>,
) -> rustix::io::Result<Cloned> {
    let home = open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_thread_name_spaces(container.pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
    let forked = fork();
    if !matches!(forked, Ok(Cloned::Child)) {
        move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    }
    forked
}

#[expect(clippy::disallowed_methods, reason = "a clone of its own, which becomes the command")]
fn become_true(container: &Child, group: &Group) -> Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // While the paths are the host's.
    group.enter()?;
    let namespaces = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    let joined = move_into_thread_name_spaces(container.pidfd.as_fd(), namespaces);
    joined.context("join the container's namespaces")?;
    execute(&[c"true"])
}
