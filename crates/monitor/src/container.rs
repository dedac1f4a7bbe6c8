//! One container as its monitor sees it.
//!
//! ```text
//!            Launch                 Start                 exec closes the gate's socket
//!   (fork) ─────────▶ Launching ──▶ AtGate ──▶ Starting ──────────────────────────────▶ Running
//!                        │ failed      │ killed     │ execve failed                        │ exits
//!                        ▼             └────────────┴─────────────────┬────────────────────┘
//!                     forgotten                                       ▼
//!                                                                   Exited ──Forget──▶ forgotten
//! ```

use std::os::fd::OwnedFd;

use berth_cgroup::Entry;
use berth_logs::LogFile;
use berth_sys::clone::Child;
use rustix::process::{Signal, kill_process_group, pidfd_send_signal};

use crate::hook::outside::OutsideHooks;
use crate::idmap::IdMaps;
use crate::output::{Buffers, Output, Sinks};
use crate::plan::{ForeignPlan, LaunchPlan, PidNamespace, ProcessPlan};
use crate::protocol::{ContainerReport, Exit, Failure, ResolvedUser};

/// Where an answer goes: a connection of the monitor's, and the request's number on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyTo {
    pub(crate) client: u64,
    pub(crate) request: u64,
}

/// How far a container has come.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// The child works through its checklist.
    Launching { reply: ReplyTo },
    /// It waits to be started.
    AtGate,
    /// The gate is open and `execve` not yet through.
    Starting { reply: ReplyTo, at_ns: i64 },
    /// The workload runs.
    Running { started_at_ns: i64 },
    /// A step failed and the child is about to exit; the agent hears of it when nothing of the child is left. One that
    /// had not passed the gate has never existed.
    Failed { reply: ReplyTo, failure: Failure, behind_gate: bool },
    /// The first process has been reaped.
    Exited { started_at_ns: Option<i64>, exit: Exit },
}

/// How a container's streams were asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stdio {
    pub(crate) tty: bool,
    /// Whether clients can send input.
    pub(crate) stdin: bool,
    /// Whether only the first client can.
    pub(crate) stdin_once: bool,
}

/// A container and what the monitor holds of it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) phase: Phase,
    pub(crate) child: Child,
    /// The process that bore the child in the pod's user namespace, until it has been waited for.
    pub(crate) midwife: Option<Child>,
    /// The socket of the handshake, until `execve` or the end has closed it.
    pub(crate) gate: Option<OwnedFd>,
    /// Standard output and error, or the terminal, until the end.
    pub(crate) outputs: [Option<Output>; 2],
    /// The terminal's master side, or the write side of stdin, kept open for clients to come.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdio: Stdio,
    pub(crate) sinks: Sinks,
    /// For the terminal's output, which comes with the handshake.
    pub(crate) log_line_bytes: usize,
    /// What an exec session inherits.
    pub(crate) process: ProcessPlan,
    pub(crate) user: ResolvedUser,
    pub(crate) user_namespace: Option<IdMaps>,
    pub(crate) pid_namespace: PidNamespace,
    pub(crate) cgroup: Entry,
    pub(crate) oom_file: Option<std::path::PathBuf>,
    /// The other runtime that makes it.
    pub(crate) foreign: Option<ForeignPlan>,
    /// Hooks that run outside of it.
    pub(crate) outside: Option<OutsideHooks>,
    /// Whether it came so far that these may have to do with it.
    pub(crate) is_seen_outside: bool,
    /// The agent wants to hear nothing more of it: it is forgotten when it has ended.
    pub(crate) unwanted: bool,
}

impl Container {
    pub(crate) fn new(plan: LaunchPlan, child: Child, reply: ReplyTo) -> Self {
        Self {
            outside: OutsideHooks::of(&plan),
            is_seen_outside: false,
            phase: Phase::Launching { reply },
            child,
            midwife: None,
            gate: None,
            outputs: [None, None],
            stdin: None,
            stdio: Stdio { tty: plan.stdio.tty, stdin: plan.stdio.stdin, stdin_once: plan.stdio.stdin_once },
            sinks: Sinks::default(),
            log_line_bytes: plan.stdio.log_line_bytes,
            process: plan.process,
            user: ResolvedUser::default(),
            user_namespace: None,
            pid_namespace: plan.pid_namespace,
            cgroup: plan.cgroup,
            oom_file: plan.oom_file,
            foreign: plan.foreign,
            unwanted: false,
        }
    }

    /// Whether its first process lives, as far as is known.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Exited { .. })
    }

    /// The hooks outside that are left to be run when nothing of it runs any more.
    pub(crate) fn take_outside(&mut self) -> Option<OutsideHooks> {
        self.outside.take().filter(|_| self.is_seen_outside)
    }

    /// What a client that has just connected is told; nothing of a container that is still being launched.
    pub(crate) fn report(&self, container: &crate::id::ContainerId) -> Option<ContainerReport> {
        let (started_at_ns, exit) = match &self.phase {
            Phase::Launching { .. } | Phase::Failed { .. } => return None,
            Phase::AtGate => (None, None),
            Phase::Starting { at_ns, .. } => (Some(*at_ns), None),
            Phase::Running { started_at_ns } => (Some(*started_at_ns), None),
            Phase::Exited { started_at_ns, exit } => (*started_at_ns, Some(exit.clone())),
        };
        Some(ContainerReport { container: container.clone(), pid: self.pid(), started_at_ns, exit })
    }

    /// Its first process in the host's pid namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.child.pid.as_raw_nonzero().get()
    }

    /// Kills the first process by its pidfd and all others through the cgroup; the exit follows as for any other end.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        if self.foreign.is_some() && self.midwife.is_none() && self.gate.is_some() {
            // It is the attendant's still, with a runtime at work below it.
            let _ = kill_process_group(self.child.pid, Signal::KILL);
        }
        let _ = berth_cgroup::kill_all(&self.cgroup);
    }

    /// Logs and shows what is left of the output and closes streams, log and gate; returns how many bytes the log has
    /// lost, and why. Who was attached is still to be told.
    pub(crate) fn finish_output(&mut self, buffers: &mut Buffers) -> (u64, Option<String>) {
        for output in self.outputs.iter_mut().filter_map(Option::as_mut) {
            output.finish(&mut self.sinks, buffers);
        }
        self.outputs = [None, None];
        (self.stdin, self.gate) = (None, None);
        let log = self.sinks.log.take();
        let error = log.as_ref().and_then(LogFile::last_error).map(|error| error.to_string());
        (log.as_ref().map_or(0, LogFile::dropped_bytes), error)
    }
}
