//! A warm parent for monitors.
//!
//! A fork of this small single-threaded process is a monitor that is ready at once and shares its memory with all
//! others; an exec for each pod would cost more time and private pages. It is started by the agent as
//! `/proc/self/exe monitor-zygote` with one end of a `SOCK_SEQPACKET` pair as its stdin, and ends when the other end
//! is closed. Monitors do not notice: they are in sessions of their own, and never open the binary again.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use berth_sys::clone::{Cloned, NewNamespaces, SingleThreaded, clone3};
use berth_sys::exec::{block_signals, exit_now, ignore_children};
use berth_sys::packet;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{chdir, setsid};

use crate::monitor::Monitor;
use crate::plan::SandboxPlan;
use crate::protocol::{Failure, Message, Spawn};

/// The first argument that makes the berth binary a zygote.
pub const ZYGOTE_ARGUMENT: &str = "monitor-zygote";

/// Serves spawn requests on stdin until the agent is gone.
pub fn main() -> ExitCode {
    let Some(witness) = SingleThreaded::verify() else {
        return fail("start as a single-threaded process");
    };
    block_signals();
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
    loop {
        match packet::receive(&control) {
            Ok(Some(request)) => serve(&witness, &control, request),
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => return fail(&format!("read the control socket: {error}")),
        }
    }
}

/// Forks one monitor, or tells the caller on its connection why not.
fn serve(witness: &SingleThreaded, control: &OwnedFd, request: packet::Packet) {
    let mut fds = request.fds.into_iter();
    let (Some(connection), Some(plan)) = (fds.next(), fds.next()) else {
        return;
    };
    if serde_json::from_slice::<Spawn>(&request.bytes).is_err() {
        return refuse(&connection, "understand the spawn request");
    }
    match clone3(witness, NewNamespaces::default(), None) {
        Ok(Cloned::Parent(_)) => {}
        Ok(Cloned::Child) => {
            // The control socket belongs to the zygote; a monitor that kept it would hide the zygote's end. Its
            // number is freed here, in the child's own table, and never used again before the process ends.
            let _ = berth_sys::exec::close_one(control.as_fd());
            exit_now(run_monitor(connection, plan));
        }
        Err(error) => refuse(&connection, &format!("fork a monitor: {error}")),
    }
}

/// The life of a monitor; returns its exit code.
fn run_monitor(connection: OwnedFd, plan: OwnedFd) -> i32 {
    let _ = setsid();
    berth_sys::exec::notice_children();
    let plan: SandboxPlan = match serde_json::from_reader(File::from(plan)) {
        Ok(plan) => plan,
        Err(error) => {
            refuse(&connection, &format!("read the sandbox plan: {error}"));
            return 1;
        }
    };
    let Some(witness) = SingleThreaded::verify() else {
        refuse(&connection, "be single-threaded");
        return 1;
    };
    berth_sys::title::set(c"berth-monitor", &format!("berth-monitor: {}", plan.pod));
    match Monitor::start(witness, plan) {
        Ok(monitor) => monitor.run(connection),
        Err(failure) => {
            send_refusal(&connection, failure);
            1
        }
    }
}

fn refuse(connection: &OwnedFd, what: &str) {
    send_refusal(
        connection,
        Failure::Other {
            detail: what.to_owned(),
        },
    );
}

/// Answers the spawn request, which has the number 0, with a failure.
fn send_refusal(connection: &OwnedFd, failure: Failure) {
    if let Ok(bytes) = serde_json::to_vec(&Message::Reply {
        id: 0,
        result: Err(failure),
    }) {
        let _ = packet::send(connection, &bytes, &[]);
    }
}

fn close_stdin() -> std::io::Result<()> {
    let null = File::open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

fn fail(what: &str) -> ExitCode {
    eprintln!("berth-monitor zygote: cannot {what}");
    ExitCode::FAILURE
}
