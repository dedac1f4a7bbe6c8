//! A warm parent for monitors.
//!
//! A fork of this small single-threaded process is a monitor that is ready at once and shares its memory with all
//! others; an exec for each pod would cost more time and private pages. It is started by the agent as
//! `/proc/self/exe monitor-zygote` with one end of a `SOCK_SEQPACKET` pair as its stdin, and ends when the other end
//! is closed. Monitors do not notice: they are in sessions of their own, and never open the binary again.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use berth_fault::point;
use berth_sys::clone::{Cloned, NewNamespaces, SingleThreaded, clone3};
use berth_sys::exec::{block_signals, close_others, exit_now, ignore_children, notice_children};
use berth_sys::packet;
use berth_sys::sched::take_short_turns;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{chdir, setsid};

use crate::bare;
use crate::fork::{fork_error, open_cgroup, read_plan};
use crate::monitor::Monitor;
use crate::plan::SandboxPlan;
use crate::protocol::{Failure, Message};

/// The first argument that makes the berth binary a zygote.
pub const ZYGOTE_ARGUMENT: &str = "monitor-zygote";

/// Serves spawn requests on stdin until the agent is gone.
pub fn main() -> ExitCode {
    let Some(witness) = SingleThreaded::verify() else {
        return fail("start as a single-threaded process");
    };
    block_signals();
    let _ = berth_sys::rseq::unregister();
    // Monitors are never waited for: the agent sees their end on their sockets.
    ignore_children();
    let _ = setsid();
    let _ = chdir("/");
    let Ok(control) = fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3) else {
        return fail("take over the control socket");
    };
    if close_stdin().is_err() {
        return fail("replace stdin");
    }
    berth_sys::title::set(c"berth-zygote", "berth-monitor: zygote");
    // Without it, pods are a little slower.
    let bare = bare::make(&witness).ok();
    loop {
        match packet::receive(&control) {
            Ok(Some(request)) => serve(&witness, bare.as_ref(), request),
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => return fail(&format!("read the control socket: {error}")),
        }
    }
}

/// Forks one monitor, or tells the caller on its connection why not.
fn serve(witness: &SingleThreaded, bare: Option<&OwnedFd>, request: packet::Packet) {
    let mut fds = request.fds.into_iter();
    let Some(connection) = fds.next() else { return };
    let prepared = read_plan(fds.next()).and_then(|plan: SandboxPlan| {
        point!("fork the monitor").pass()?;
        Ok((open_cgroup(&plan.cgroup)?, plan))
    });
    let (cgroup, plan) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return refuse(&connection, failure),
    };
    match clone3(witness, NewNamespaces::default(), cgroup.as_ref().map(AsFd::as_fd)) {
        Ok(Cloned::Parent(_)) => {}
        Ok(Cloned::Child) => {
            let bare = bare.and_then(|bare| bare.try_clone().ok());
            // The control socket belongs to the zygote; a monitor that kept it would hide the zygote's end.
            let kept: Vec<_> =
                [Some(&connection), bare.as_ref()].into_iter().flatten().map(AsFd::as_fd).collect();
            let _ = close_others(&kept);
            exit_now(run_monitor(witness.in_child(), bare, connection, plan));
        }
        Err(errno) => refuse(&connection, fork_error("monitor")(errno)),
    }
}

/// The life of a monitor; returns its exit code.
fn run_monitor(
    witness: SingleThreaded,
    bare: Option<OwnedFd>,
    connection: OwnedFd,
    plan: SandboxPlan,
) -> i32 {
    let _ = setsid();
    // An order that comes while a container works hard is not to wait for its turn's end.
    let _ = take_short_turns();
    notice_children();
    // The agent's own; whoever reads it should see its end when the agent has ended, not when the last pod has.
    let _ = replace_stderr();
    let name = if plan.spare { c"berth-spare" } else { c"berth-monitor" };
    berth_sys::title::set(name, &format!("berth-monitor: {}", plan.pod));
    match Monitor::start(witness, plan, bare) {
        Ok(monitor) => monitor.run(connection),
        Err(failure) => {
            refuse(&connection, failure);
            1
        }
    }
}

/// Answers the spawn request, which has the number 0, with a failure.
fn refuse(connection: &OwnedFd, failure: Failure) {
    if let Ok(bytes) = serde_json::to_vec(&Message::Reply { id: 0, result: Err(failure) }) {
        let _ = packet::send(connection, &bytes, &[]);
    }
}

fn replace_stderr() -> std::io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

fn close_stdin() -> std::io::Result<()> {
    let null = File::open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

fn fail(what: &str) -> ExitCode {
    eprintln!("berth-monitor zygote: cannot {what}");
    ExitCode::FAILURE
}
