//! Hooks: programs that whoever describes a device wants to be run while a container is made.
//!
//! ```text
//! mounts, devices ─▶ prestart, createRuntime ─▶ createContainer ─▶ label, masks, pivot_root ─▶ …
//! … gate ─▶ startContainer ─▶ exec ─▶ poststart                        the end ─▶ poststop
//! ```
//! `createContainer` and `startContainer` run in the container's child, which waits for each: the monitor never does.
//! The others run outside of the container, and are the business of [`outside`]. `createContainer` runs in the
//! container's namespaces with the host's files, where the container's root is mounted at the plan's staging directory;
//! `startContainer` runs in the container's root as the workload's user, under its confinement. Either sees the state
//! on its stdin, and in the bundle a `config.json` that tells where the root is. Its stderr is read to the end, and the
//! beginning of it told should the hook fail; what else it prints is lost.
//!
//! In a pod with a user namespace, root may not walk to the container's directory. A small filesystem is laid over the
//! first directory on the way that it may not enter ([`Cover`]), in the container's mount namespace alone, and holds
//! root and bundle under the same paths.
//!
//! A hook that fails or takes too long ends the launch, or fails the start. Whatever of its process group is left is
//! killed: a process with the host's files has no business among the container's.
//! Source: OCI runtime-spec 1.0, runtime.md, "Lifecycle", and config.md, "POSIX-platform Hooks".

pub(crate) mod outside;

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open};
use serde_json::{Value, json};

use crate::fork::memfd_of;
use crate::handshake::Gate;
use crate::id::ContainerId;
use crate::plan::{Hook, HookPoint, Hooks, LaunchPlan};
use crate::rootfs;
use crate::stage::{Stage, StageError};

/// How long all hooks of one point may take together: less than the agent waits for the whole launch.
pub(crate) const POINT_LIMIT: Duration = Duration::from_secs(40);

/// How much of a failed hook's stderr is told, in bytes.
const MAX_WORDS: usize = 512;

/// The version of the specification that is followed.
const VERSION: &str = "1.0.2";

/// Waits while hooks run outside of the container, if it has any: they may look at it from here on.
pub(crate) fn await_hooks_outside(plan: &LaunchPlan, gate: &Gate) -> Result<(), StageError> {
    match plan.has_hooks_outside() {
        true => gate.await_hooks().map_err(StageError::at(Stage::RunHook, "monitor")),
        false => Ok(()),
    }
}

/// Runs the hooks of one point in the container's child, in the plan's order.
pub(crate) fn run_hooks(plan: &LaunchPlan, point: HookPoint) -> Result<(), StageError> {
    let hooks: Vec<&Hook> = plan.hooks.list.iter().filter(|hook| hook.point == point).collect();
    if hooks.is_empty() {
        return Ok(());
    }
    // The launch makes everything with the very mode that is asked for; other programs rely on a mask.
    let umask = rustix::process::umask(Mode::from_raw_mode(0o022));
    let ran = run_each(plan, point, &hooks);
    rustix::process::umask(umask);
    ran
}

fn run_each(plan: &LaunchPlan, point: HookPoint, hooks: &[&Hook]) -> Result<(), StageError> {
    let staging = plan.rootfs.staging.as_path();
    if point == HookPoint::CreateContainer {
        make_bundle(&plan.hooks, staging, plan.rootfs.read_only)?;
    }
    let (status, root) = match point == HookPoint::StartContainer {
        true => ("created", Path::new("/")),
        false => ("creating", staging),
    };
    let now = Now { status, pid: Some(getpid().as_raw_nonzero().get()), root };
    let state = state(&plan.container, &plan.hooks, &now);
    let deadline = Instant::now() + POINT_LIMIT;
    hooks.iter().try_for_each(|hook| run_within(hook, &state, deadline, None))
}

/// How far a container has come, in its hooks' namespaces.
struct Now<'a> {
    status: &'static str,
    /// Its first process, if it has one.
    pid: Option<i32>,
    root: &'a Path,
}

/// What a hook is told about its container. `root` is no field of the specification, but what crun says too.
fn state(container: &ContainerId, hooks: &Hooks, now: &Now<'_>) -> Value {
    let mut state = json!({
        "ociVersion": VERSION,
        "id": container.as_str(),
        "status": now.status,
        "bundle": hooks.bundle,
        "root": now.root,
        "annotations": hooks.annotations,
    });
    if let Some(pid) = now.pid {
        state["pid"] = pid.into();
    }
    state
}

fn make_bundle(hooks: &Hooks, root: &Path, read_only: bool) -> Result<(), StageError> {
    let bundle = &hooks.bundle;
    let config = json!({
        "ociVersion": VERSION,
        "root": { "path": root, "readonly": read_only },
        "annotations": hooks.annotations,
    });
    let make = || {
        fs::create_dir_all(bundle)?;
        fs::write(bundle.join("config.json"), config.to_string())
    };
    make().map_err(|error| StageError {
        stage: Stage::RunHook,
        object: format!("make bundle {}", bundle.display()),
        errno: Errno::from_io_error(&error),
    })
}

fn failed(hook: &Hook, problem: &str) -> StageError {
    let object = format!("{} hook {}: {problem}", hook.point.name(), hook.path.display());
    // At the start it ends a container that exists, as a program does that can't be run.
    let stage = if hook.point == HookPoint::StartContainer { Stage::Execute } else { Stage::RunHook };
    StageError { stage, object, errno: None }
}

/// Runs a hook for as long as it may take, but not beyond the deadline of all.
fn run_within(
    hook: &Hook,
    state: &Value,
    deadline: Instant,
    leash: Option<BorrowedFd<'_>>,
) -> Result<(), StageError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = left.min(hook.timeout().unwrap_or(POINT_LIMIT));
    run_hook(hook, state, limit, leash).map_err(|problem| failed(hook, &problem))
}

/// `leash` is a socket; once its other end is closed, the hook is killed.
fn run_hook(
    hook: &Hook,
    state: &Value,
    limit: Duration,
    leash: Option<BorrowedFd<'_>>,
) -> Result<(), String> {
    let mut command = Command::new(&hook.path);
    if let [name, args @ ..] = &hook.args[..] {
        command.arg0(name).args(args);
    }
    command.current_dir("/").env_clear().envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
    // All there at once, so that a hook that does not read it holds nobody up.
    command.stdin(memfd_of(state).map_err(|error| error.to_string())?);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let (ended, words) = attend(&mut child, limit, leash).map_err(|error| error.to_string())?;
    let problem = match ended {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => format!("no end within {} s", limit.as_secs_f32()),
    };
    match String::from_utf8_lossy(&words).trim() {
        "" => Err(problem),
        words => Err(format!("{problem}: {words}")),
    }
}

/// Waits for a hook while it reads what it has to say, and returns the beginning of that. One that takes too long, or
/// that is not wanted any more, is killed, and `None`; and so is what is left of its group in any case.
fn attend(
    child: &mut Child,
    limit: Duration,
    leash: Option<BorrowedFd<'_>>,
) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
    let (watched, status) = end_after(child, |child| watch(child, limit, leash))?;
    let (ended, words) = watched?;
    Ok((ended.then_some(status), words))
}

/// Kills a hook with its group and reaps it when `watch` returns, whatever that says.
fn end_after<T>(
    child: &mut Child,
    watch: impl FnOnce(&mut Child) -> io::Result<T>,
) -> io::Result<(io::Result<T>, ExitStatus)> {
    let watched = watch(child);
    // While it is not waited for, its number can't be another's.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    Ok((watched, child.wait()?))
}

/// Reads what a hook has to say until it has ended, its time is up or it is not wanted any more. Whether it has ended.
fn watch(child: &mut Child, limit: Duration, leash: Option<BorrowedFd<'_>>) -> io::Result<(bool, Vec<u8>)> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut stderr = child.stderr.take();
    if let Some(stderr) = &stderr {
        ioctl_fionbio(stderr, true)?;
    }
    let (deadline, mut words) = (Instant::now() + limit, Vec::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = await_word(&pidfd, stderr.as_ref(), leash, left)?;
        if stderr.as_mut().is_some_and(|stderr| take_words(stderr, &mut words)) {
            stderr = None;
        }
        if ended || left.is_zero() || leash.is_some_and(outside::is_let_go) {
            return Ok((ended, words));
        }
    }
}

/// Waits until the hook ends, says something, is not wanted any more, or the time is up. Whether it has ended.
fn await_word(
    pidfd: &OwnedFd,
    stderr: Option<&ChildStderr>,
    leash: Option<BorrowedFd<'_>>,
    left: Duration,
) -> io::Result<bool> {
    let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    fds.extend(stderr.map(|stderr| PollFd::new(stderr, PollFlags::IN)));
    fds.extend(leash.map(|leash| PollFd::from_borrowed_fd(leash, PollFlags::HUP)));
    match poll(&mut fds, Some(&left)) {
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
        Ok(_) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
    }
}

/// Reads one piece, and keeps it as long as there is room. Whether there comes no more.
fn take_words(stderr: &mut ChildStderr, words: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    match stderr.read(&mut piece) {
        Ok(0) => true,
        Ok(length) => {
            let room = MAX_WORDS.saturating_sub(words.len()).min(length);
            words.extend(piece.iter().take(room));
            false
        }
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// Where a filesystem is laid that the root of a user namespace may walk through to the container's root.
#[derive(Debug)]
pub(crate) struct Cover(OwnedFd);

impl Cover {
    /// Takes hold of the place while this process may still walk there; `None` where no hook asks for it.
    pub(crate) fn find(plan: &LaunchPlan) -> Result<Option<Self>, Errno> {
        if !plan.hooks.list.iter().any(|hook| hook.point == HookPoint::CreateContainer) {
            return Ok(None);
        }
        let own = plan.rootfs.staging.parent().unwrap_or(&plan.rootfs.staging);
        let mut outer: Vec<&Path> = own.ancestors().collect();
        outer.reverse();
        let is_closed = |path: &&&Path| fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o001 == 0);
        let place: PathBuf = outer.iter().find(is_closed).map_or(own, |path| path).to_owned();
        open(&place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self).map(Some)
    }

    /// Lays it and makes the directory for the root in it; by the root of the user namespace.
    pub(crate) fn lay(self, staging: &Path) -> Result<(), Errno> {
        let tmpfs = rootfs::detached_tmpfs(0o755, None)?;
        rootfs::attach(tmpfs.as_fd(), &self.0, Path::new(""))?;
        fs::create_dir_all(staging).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, limit: Duration) -> Result<(), String> {
        let hook = Hook {
            point: HookPoint::CreateContainer,
            path: "/bin/sh".into(),
            args: ["hook", "-c", script].map(str::to_owned).into(),
            env: vec!["A=b=c".to_owned()],
            timeout_ms: None,
        };
        run_hook(&hook, &json!({ "id": "x" }), limit, None)
    }

    #[test]
    fn a_hook_gets_the_state_and_its_environment_alone() {
        run("test \"$(cat)\" = '{\"id\":\"x\"}' && test \"$A\" = b=c && test -z \"$HOME\"", POINT_LIMIT)
            .unwrap();
        run("exec <&-", POINT_LIMIT).unwrap();
    }

    #[test]
    fn what_went_wrong_is_told_within_bounds() {
        assert_eq!(run("echo out; echo why >&2; exit 3", POINT_LIMIT).unwrap_err(), "exit status: 3: why");
        assert_eq!(run("kill -9 $$", POINT_LIMIT).unwrap_err(), "signal: 9 (SIGKILL)");
        let long = run("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1", POINT_LIMIT).unwrap_err();
        assert_eq!(long.len(), "exit status: 1: ".len() + MAX_WORDS);
    }

    #[test]
    fn a_hook_that_can_not_be_watched_is_killed() {
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let (watched, status) =
            end_after(&mut child, |_| Err::<(), _>(io::Error::from(Errno::MFILE))).unwrap();
        assert_eq!(watched.unwrap_err().raw_os_error(), Some(Errno::MFILE.raw_os_error()));
        assert_eq!(status.to_string(), "signal: 9 (SIGKILL)");
    }

    #[test]
    fn nothing_of_a_hook_lives_on() {
        let check = |script: &str, limit, want: &str| {
            let error = run(script, limit).unwrap_err();
            let (problem, pid) = error.rsplit_once(": ").unwrap();
            assert_eq!(problem, want);
            // Its child is another's to reap: it may be seen dead, and dies when it is next scheduled.
            let lives = || {
                fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                    let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
                    fields.first() != Some(&"Z") && fields.get(2) == Some(&pid)
                })
            };
            let deadline = Instant::now() + Duration::from_secs(10);
            while lives() {
                assert!(Instant::now() < deadline, "group {pid} lives on");
                std::thread::yield_now();
            }
        };
        check("echo $$ >&2; sleep 1000; true", Duration::from_millis(300), "no end within 0.3 s");
        check("echo $$ >&2; sleep 1000 & exit 7", POINT_LIMIT, "exit status: 7");
    }
}
