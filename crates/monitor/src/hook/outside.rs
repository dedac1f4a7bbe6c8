//! Hooks that run outside of their container: in the monitor's namespaces and cgroup, so as the host's root whatever
//! the pod's users are.
//!
//! ```text
//! container's child ──AwaitsHooks──▶ monitor ──fork──▶ errand: prestart, createRuntime, each in turn
//!                  ◀──one byte────── monitor ◀──Ready───┘            (the child goes on to createContainer)
//! gate open, exec ─────────────────▶ monitor ──fork──▶ errand: poststart, then the answer to Start
//! the end, or a failed launch ─────▶ monitor ──fork──▶ errand: poststop
//! ```
//! The errand is a child of the monitor's, which must not wait itself. Both hold an end of a socket, the leash: the
//! errand tells what failed, and that it is done; when the monitor lets go or is gone, the hook at work is killed and
//! no other begins. While the container is made, the first failure ends it; afterwards each is told and changes
//! nothing.
//!
//! What the hooks see of the container's root, they see through its process (`/proc/PID/root`): its mounts are its own.
//! After the end there is none, and no bundle is made any more, as the container's directory may be on its way out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_sys::exec::{close_others, exit_now, reset_signals};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::setsid;

use super::{Now, make_bundle, run_within, state};
use crate::handshake::Gate;
use crate::id::ContainerId;
use crate::plan::{Hook, HookPoint, Hooks, LaunchPlan};
use crate::stage::StageError;

/// The times at which hooks run outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The container has its namespaces and mounts.
    Create,
    /// Its program runs.
    Start,
    /// Nothing of it runs any more.
    Stop,
}

impl Moment {
    /// In their order.
    fn points(self) -> &'static [HookPoint] {
        match self {
            Self::Create => &[HookPoint::Prestart, HookPoint::CreateRuntime],
            Self::Start => &[HookPoint::Poststart],
            Self::Stop => &[HookPoint::Poststop],
        }
    }

    /// As the specification calls the container's state.
    fn status(self) -> &'static str {
        match self {
            Self::Create => "creating",
            Self::Start => "running",
            Self::Stop => "stopped",
        }
    }
}

/// What an errand is sent for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) moment: Moment,
    /// The container's first process in the monitor's pid namespace, while there is one.
    pub(crate) pid: Option<i32>,
    /// How long all of its hooks may take together.
    pub(crate) limit: Duration,
}

/// A container's hooks outside of it, and what they are told of it.
#[derive(Debug, Clone)]
pub(crate) struct OutsideHooks {
    pub(crate) container: ContainerId,
    hooks: Hooks,
    staging: PathBuf,
    read_only: bool,
}

impl OutsideHooks {
    /// Those of a plan; `None` where it has none, or another runtime runs them.
    pub(crate) fn of(plan: &LaunchPlan) -> Option<Self> {
        if !plan.has_hooks_outside() {
            return None;
        }
        let mut hooks = plan.hooks.clone();
        hooks.list.retain(|hook| hook.point.is_outside());
        let (staging, read_only) = (plan.rootfs.staging.clone(), plan.rootfs.read_only);
        Some(Self { container: plan.container.clone(), hooks, staging, read_only })
    }

    /// Whether any runs at this time.
    pub(crate) fn has(&self, moment: Moment) -> bool {
        self.at(moment).next().is_some()
    }

    fn at(&self, moment: Moment) -> impl Iterator<Item = &Hook> {
        let points = moment.points().iter();
        points.flat_map(|point| self.hooks.list.iter().filter(move |hook| hook.point == *point))
    }

    fn run(&self, call: Call, leash: &Gate) -> Result<(), StageError> {
        let deadline = Instant::now() + call.limit;
        let root = root_seen(&self.staging, call);
        if call.moment != Moment::Stop {
            make_bundle(&self.hooks, &root, self.read_only)?;
        }
        let now = Now { status: call.moment.status(), pid: call.pid, root: &root };
        let state = state(&self.container, &self.hooks, &now);
        for hook in self.at(call.moment) {
            match run_within(hook, &state, deadline, Some(leash.as_fd())) {
                Err(error) if call.moment == Moment::Create => return Err(error),
                Err(error) => leash.fail(error),
                Ok(()) => {}
            }
            if is_let_go(leash.as_fd()) {
                break;
            }
        }
        Ok(())
    }
}

/// Where the container's root is for who is outside of its mount namespace.
fn root_seen(staging: &Path, call: Call) -> PathBuf {
    let of_process = |pid: i32| PathBuf::from(format!("/proc/{pid}/root"));
    match (call.moment, call.pid) {
        (Moment::Create, Some(pid)) => of_process(pid).join(staging.strip_prefix("/").unwrap_or(staging)),
        (Moment::Start, Some(pid)) => of_process(pid),
        (Moment::Stop, _) | (_, None) => staging.to_owned(),
    }
}

/// Whether the monitor has let go of the other end.
pub(super) fn is_let_go(leash: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(leash, PollFlags::HUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|count| count > 0)
}

/// Runs in a child of its own; never returns.
pub(crate) fn become_errand(outside: &OutsideHooks, call: Call, leash: OwnedFd) -> ! {
    let _ = close_others(&[leash.as_fd()]);
    let _ = setsid();
    reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let leash = Gate::new(leash);
    if let Err(error) = outside.run(call, &leash) {
        leash.fail(error);
    }
    let _ = leash.ready(&[]);
    exit_now(0)
}
