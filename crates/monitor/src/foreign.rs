//! A container that another OCI runtime makes, through its command line: `create`, `start`, `delete`.
//!
//! ```text
//! monitor ──fork──▶ attendant, in a copy of the host's mounts
//!                     │ volumes and root, as for a container of our own; config.json
//!                     ├─ RUNTIME create ──▶ the container's first process, at the runtime's gate
//! monitor ◀──Born + pidfd   │                     │ its parent ends: it becomes the monitor's child (subreaper)
//! monitor ◀──Ready (+ terminal)
//! monitor ──go──▶     ├─ RUNTIME start
//! monitor ◀──end of stream                     runs; logs, signals, its end: all as for a container of our own
//! monitor ──fork──▶ RUNTIME delete --force     after the end
//! ```
//! The attendant's mounts go with it, and those that the container has taken over with the container: the host's mount
//! table stays as it was. Volumes are attached below the bundle, each as its mount is to be (access, propagation, ids),
//! and the configuration binds them from there. The runtime joins the cgroup that the agent has made, with the limits
//! that it has. The attendant stays outside of it, in the monitor's.
//!
//! Every call of the runtime has a deadline. It gets an environment of its own: a service manager's variables would
//! have it look for that manager's sockets. A create that fails is deleted again. What the runtime says went wrong it
//! writes to its log, as JSON. Source: OCI runtime-spec, runtime.md; runc(8), crun(1).

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use berth_sys::exec::{close_others, execve, exit_now, reset_signals};
use berth_sys::packet;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, setsid};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::child::await_end;
use crate::copy::copy_tree;
use crate::handshake::Gate;
use crate::id::ContainerId;
use crate::image_source::open_images;
use crate::label;
use crate::launch::{Birthright, START_ERROR_CODE, environment, pod_shm, set_oom_score};
use crate::plan::{ForeignPlan, LaunchPlan, MountSource};
use crate::protocol::{Failure, ResolvedUser};
use crate::root_dir::{Make, RootDir, is_directory};
use crate::rootfs::{self, on};
use crate::stage::{Stage, StageError};
use crate::streams::Streams;
use crate::user;

/// How long one call of a runtime may take: less than the agent waits for the whole launch.
const CALL_LIMIT: Duration = Duration::from_secs(40);

/// Where programs look for others; nothing else of the environment is a runtime's business.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file of a bundle into which a runtime writes what went wrong.
const LOG_NAME: &str = "runtime.log";
const CONSOLE_NAME: &str = "console";

/// The longest name of a file. Source: `PATH_MAX`.
const PATH_BYTES: usize = 4096;

/// Runs in the child; never returns.
pub(crate) fn become_attendant(plan: &LaunchPlan, foreign: &ForeignPlan, birthright: Birthright<'_>) -> ! {
    birthright.close_the_rest();
    let Birthright { gate, entrance, streams } = birthright;
    let shm = || pod_shm(entrance.pause);
    let had_state = foreign.state.exists();
    match run(plan, foreign, &gate, shm, streams) {
        Ok(()) => exit_now(0),
        Err(error) => {
            let _ = Runtime::of(plan, foreign).delete();
            // Nothing is left of a pod's first container; with others, it is not empty. One that was there before may
            // be an operator's.
            if !had_state {
                let _ = fs::remove_dir(&foreign.state);
            }
            gate.fail(error);
            exit_now(START_ERROR_CODE)
        }
    }
}

fn run(
    plan: &LaunchPlan,
    foreign: &ForeignPlan,
    gate: &Gate,
    pod_shm: impl Fn() -> Result<OwnedFd, Errno>,
    streams: Streams,
) -> Result<(), StageError> {
    let mut warnings = Vec::new();
    // A group of its own, by which the monitor can end the attendant together with a runtime that it waits for.
    Stage::ForeignRuntime.begin()?;
    setsid().map_err(StageError::at(Stage::Fork, "session"))?;
    reset_signals();
    // The container inherits it, and so no runtime fails for want of a right to lower it.
    set_oom_score(plan.process.oom_score_adj, &mut warnings)?;

    let mut sources =
        rootfs::open_sources(&plan.mounts, None, pod_shm).map_err(StageError::mount(Stage::OpenVolumes))?;
    rootfs::make_private().map_err(StageError::mount(Stage::OpenVolumes))?;
    rustix::process::umask(Mode::empty());
    open_images(&plan.mounts, &mut sources, &plan.rootfs.staging)
        .map_err(StageError::mount(Stage::OpenImage))?;
    let root = rootfs::mount_overlay(&plan.rootfs, plan.file_label.as_deref())
        .map_err(StageError::mount(Stage::MountRoot))?;
    let cwd = &plan.process.cwd;
    root.open_or_make(cwd, Make::Directory)
        .map_err(StageError::at(Stage::ChangeDirectory, cwd.display().to_string()))?;
    let user = user::resolve_in_root(&plan.process.user, &root).map_err(StageError::user)?;

    // From here on, for files of the host's: the bundle's, and those that the runtime makes.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    make_bundle(foreign, configure(&foreign.config, plan, &user))?;
    attach_volumes(plan, &root, sources, &foreign.bundle).map_err(StageError::mount(Stage::Mount))?;

    let runtime = Runtime::of(plan, foreign);
    let Made { pidfd, terminal } = runtime.create(streams, plan.stdio.tty)?;
    gate.born(pidfd.as_fd()).map_err(StageError::at(Stage::WaitAtGate, "monitor"))?;
    gate.wait(user, warnings, terminal.as_ref().map(AsFd::as_fd))
        .map_err(StageError::at(Stage::WaitAtGate, "monitor"))?;
    runtime.start()
}

/// Completes the configuration with what only the container's own files tell.
fn configure(config: &Value, plan: &LaunchPlan, user: &ResolvedUser) -> Value {
    let mut config = config.clone();
    config["process"]["user"] = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups });
    config["process"]["env"] = json!(environment(&plan.process.env, user));
    config
}

fn make_bundle(foreign: &ForeignPlan, config: Value) -> Result<(), StageError> {
    let make = || {
        let file = foreign.bundle.join("config.json");
        fs::create_dir_all(foreign.volumes())?;
        // The environment may hold secrets. The directories stay open to a root of another user namespace.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
        file.write_all(config.to_string().as_bytes())
    };
    make().map_err(|error| StageError {
        stage: Stage::ForeignRuntime,
        object: format!("make bundle {}", foreign.bundle.display()),
        errno: Errno::from_io_error(&error),
    })
}

/// Attaches what comes from outside of the container, each under its place in the plan.
fn attach_volumes(
    plan: &LaunchPlan,
    root: &RootDir,
    sources: Vec<Option<OwnedFd>>,
    bundle: &Path,
) -> rootfs::Result<()> {
    for (index, (mount, source)) in plan.mounts.iter().zip(sources).enumerate() {
        let Some(tree) = source else { continue };
        let target = &mount.target;
        match mount.source {
            MountSource::ImageVolume(_) => {
                let place = on(target, root.open_or_make(target, Make::Directory))?;
                on(target, copy_tree(place.as_fd(), tree.as_fd()))?;
            }
            MountSource::PodShm => on(target, label::relabel(tree.as_fd(), plan.file_label.as_deref()))?,
            MountSource::Bind(_)
            | MountSource::Proc
            | MountSource::Sysfs
            | MountSource::Tmpfs { .. }
            | MountSource::Devpts
            | MountSource::Mqueue
            | MountSource::Cgroup2
            | MountSource::Image { .. } => {}
        }
        let place = bundle.join(ForeignPlan::volume(index));
        let made = match on(&place, is_directory(&tree))? {
            true => fs::create_dir_all(&place),
            false => fs::File::create(&place).map(drop),
        };
        on(&place, made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        rootfs::restrict(&tree, mount)?;
        on(&place, rootfs::attach(tree.as_fd(), CWD, &place))?;
    }
    Ok(())
}

/// What `create` has made.
struct Made {
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
}

/// The runtime, for one container.
struct Runtime<'a> {
    foreign: &'a ForeignPlan,
    container: &'a str,
}

impl<'a> Runtime<'a> {
    fn of(plan: &'a LaunchPlan, foreign: &'a ForeignPlan) -> Self {
        Self { foreign, container: plan.container.as_str() }
    }

    fn create(&self, streams: Streams, tty: bool) -> Result<Made, StageError> {
        let bundle = &self.foreign.bundle;
        let pid_file = bundle.join("pid");
        let failed = |what| move |errno| self.failed(format!("{what}: {errno}"));
        let mut create = self.command(&[OsStr::new("create"), OsStr::new("--bundle"), bundle.as_os_str()]);
        create.arg("--pid-file").arg(&pid_file);
        // A socket's address holds a hundred bytes, fewer than a bundle's path may have.
        let directory = open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open bundle"))?;
        let console_path =
            format!("/proc/{}/fd/{}/{CONSOLE_NAME}", std::process::id(), directory.as_raw_fd());
        let console = tty.then(|| UnixListener::bind(&console_path)).transpose();
        let console = console.map_err(|error| self.failed(format!("listen for the terminal: {error}")))?;
        if console.is_some() {
            create.arg("--console-socket").arg(&console_path);
        }
        let Streams { stdin, stdout, stderr } = streams;
        create.arg(self.container).stdin(stdin).stdout(stdout).stderr(stderr);
        self.carry_out("create", create)?;

        let text = fs::read_to_string(&pid_file)
            .map_err(|error| self.failed(format!("read its pid file: {error}")))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| self.failed(format!("its pid file says {text:?}")))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("open the container's process"))?;
        let terminal = console.map(|console| receive_terminal(&console)).transpose();
        let terminal = terminal.map_err(|error| self.failed(format!("receive the terminal: {error}")))?;
        Ok(Made { pidfd, terminal })
    }

    fn start(&self) -> Result<(), StageError> {
        let started = self.carry_out("start", self.command(&["start", self.container].map(OsStr::new)));
        // What a workload's program is missing is told at this step.
        started.map_err(|error| StageError { stage: Stage::Execute, ..error })
    }

    fn delete(&self) -> Result<(), StageError> {
        self.carry_out("delete", self.command(&["delete", "--force", self.container].map(OsStr::new)))
    }

    fn command(&self, words: &[&OsStr]) -> Command {
        let [program, arguments @ ..] =
            &command_line(self.foreign, &self.foreign.bundle.join(LOG_NAME), words)[..]
        else {
            return Command::new(&self.foreign.program);
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (name, value) = PATH.split_once('=').unwrap_or((PATH, ""));
        command.env_clear().env(name, value);
        command
    }

    fn carry_out(&self, what: &str, mut command: Command) -> Result<(), StageError> {
        let child = command.spawn();
        let mut child = child.map_err(|error| self.failed(format!("{what}: {error}")))?;
        match await_end(&mut child, CALL_LIMIT) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(self.failed(format!("{what}: {}", self.last_words(status)))),
            Ok(None) => Err(self.failed(format!("{what}: no end within {} s", CALL_LIMIT.as_secs()))),
            Err(error) => Err(self.failed(format!("{what}: {error}"))),
        }
    }

    fn last_words(&self, status: ExitStatus) -> String {
        let log = fs::read_to_string(self.foreign.bundle.join(LOG_NAME)).unwrap_or_default();
        last_error(&log).unwrap_or_else(|| status.to_string())
    }

    fn failed(&self, what: String) -> StageError {
        let program = self.foreign.program.display();
        StageError { stage: Stage::ForeignRuntime, object: format!("{program} {what}"), errno: None }
    }
}

/// Program and arguments for one command.
fn command_line(foreign: &ForeignPlan, log: &Path, words: &[&OsStr]) -> Vec<std::ffi::OsString> {
    let mut line = vec![foreign.program.clone().into_os_string()];
    line.extend(foreign.args.iter().map(Into::into));
    let options = [OsStr::new("--root"), foreign.state.as_os_str(), OsStr::new("--log"), log.as_os_str()];
    line.extend(options.map(OsStr::to_owned));
    line.extend(["--log-format", "json"].map(Into::into));
    line.extend(words.iter().map(|&word| word.to_owned()));
    line
}

/// The runtime connects and sends the terminal's master side before `create` ends.
fn receive_terminal(console: &UnixListener) -> io::Result<OwnedFd> {
    console.set_nonblocking(true)?;
    let (connection, _) = console.accept()?;
    // A stream, on which the terminal's name comes along.
    let packet = packet::receive_at_most(&connection, PATH_BYTES)?;
    packet.and_then(|packet| packet.fds.into_iter().next()).ok_or(io::ErrorKind::UnexpectedEof.into())
}

/// The message of the last error in a log that has a JSON object in each line.
fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"));
    errors.next().map(|line| line.msg)
}

/// Has a runtime forget a container whose processes are gone, if it still has a state of it: its monitor died before it
/// could see to that. Blocks while the runtime works, up to its deadline.
///
/// # Errors
/// What the runtime said.
pub fn forget_container(foreign: &ForeignPlan, container: &ContainerId) -> Result<(), Failure> {
    match foreign.state.join(container.as_str()).exists() {
        true => Ok(Runtime { foreign, container: container.as_str() }.delete()?),
        false => Ok(()),
    }
}

/// Runs in a child of its own; has the runtime forget a container that has ended, and never returns.
pub(crate) fn become_deletion(foreign: &ForeignPlan, container: &str) -> ! {
    let _ = close_others(&[]);
    let _ = setsid();
    reset_signals();
    let Err(_) = delete(foreign, container);
    exit_now(START_ERROR_CODE)
}

fn delete(foreign: &ForeignPlan, container: &str) -> Result<Infallible, Errno> {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let words = ["delete", "--force", container].map(OsStr::new);
    let string = |word: &OsStr| CString::new(word.as_bytes()).map_err(|_| Errno::INVAL);
    // The bundle may be on its way out.
    let line = command_line(foreign, Path::new("/dev/null"), &words);
    let line = line.iter().map(|word| string(word)).collect::<Result<Vec<_>, _>>()?;
    let env = string(OsStr::new(PATH))?;
    Err(execve(line.first().ok_or(Errno::INVAL)?, &line, &[env]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_runtime_forgets_what_it_still_has() {
        let directory = tempfile::tempdir().unwrap();
        let (program, state) = (directory.path().join("runtime"), directory.path().join("state"));
        let script = "#!/bin/sh\n[ \"$1 $2 $4 $8 $9\" = '--quiet --root --log delete --force' ] && rmdir \"$3/${10}\"\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let [kept, lost] = [1, 2].map(|number| ContainerId::from_random([number; 32]));
        for id in [&kept, &lost] {
            fs::create_dir_all(state.join(id.as_str())).unwrap();
        }
        let plan = ForeignPlan {
            program,
            args: vec!["--quiet".to_owned()],
            state: state.clone(),
            bundle: directory.path().to_owned(),
            config: Value::Null,
        };
        forget_container(&plan, &lost).unwrap();
        assert!(!state.join(lost.as_str()).exists() && state.join(kept.as_str()).exists());
        let broken = ForeignPlan { program: "/no/such/runtime".into(), ..plan };
        forget_container(&broken, &lost).unwrap();
        let error = forget_container(&broken, &kept).unwrap_err().to_string();
        assert!(error.contains("/no/such/runtime delete"), "{error}");
    }

    #[test]
    fn a_runtimes_last_error_is_told() {
        let check = |log: &str, want: Option<&str>| assert_eq!(last_error(log).as_deref(), want, "{log}");
        check("", None);
        check("runc: no json\n", None);
        check("{\"level\":\"warning\",\"msg\":\"slow\"}\n", None);
        check(
            "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"last\",\"time\":\"x\"}\n\
             {\"level\":\"debug\",\"msg\":\"more\"}\n",
            Some("last"),
        );
    }

    #[test]
    fn a_child_that_does_not_end_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(await_end(&mut child, Duration::ZERO).unwrap().is_none());
        let mut child = Command::new("true").spawn().unwrap();
        assert!(await_end(&mut child, CALL_LIMIT).unwrap().unwrap().success());
    }
}
