//! The checklist that turns a fresh fork of the monitor into a workload. Read it top to bottom: each step is one
//! call, and says why it stands where it stands.
//!
//! The child inherits the monitor's memory, so the plan is at hand; it never returns into the monitor's loop. On a
//! failed step it reports the [`Stage`] and exits; everything that it made (mounts, namespaces) dies with it. Its
//! cgroup and directories belong to the agent, which made them.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::clone::new_cgroup_namespace;
use berth_sys::exec::{cloexec_from, close_others, execve, exit_now, reset_signals};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags, accessat, open, openat2};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Signal, set_parent_process_death_signal, setsid};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};

use crate::birth::{Entrance, enter_pod};
use crate::credentials;
use crate::fifo::make_fifos;
use crate::fork::join_cgroup;
use crate::handshake::Gate;
use crate::hook::{await_hooks_outside, run_hooks};
use crate::image_source::open_images;
use crate::label;
use crate::mapped;
use crate::plan::{HookPoint, LaunchPlan, ProcessPlan, Sharing};
use crate::protocol::ResolvedUser;
use crate::root_dir::RootDir;
use crate::rootfs;
use crate::stage::{Stage, StageError};
use crate::streams::Streams;
use crate::terminal::Terminal;
use crate::user;
use crate::user_namespace;

/// The exit code of a child that failed before its workload ran, as containerd reports it.
pub(crate) const START_ERROR_CODE: i32 = 128;

/// Where a search begins when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the child takes over from the monitor besides the plan.
#[derive(Debug)]
pub(crate) struct Birthright<'a> {
    /// Where it reports and waits.
    pub(crate) gate: Gate,
    /// The way into the pod.
    pub(crate) entrance: Entrance<'a>,
    /// The streams; not used with a terminal.
    pub(crate) streams: Streams,
}

impl Birthright<'_> {
    /// Lets go of everything else of the monitor's: logs, connections, other containers' pipes.
    pub(crate) fn close_the_rest(&self) {
        let mut kept = vec![self.gate.as_fd(), self.entrance.pause];
        kept.extend(self.streams.as_fds());
        kept.extend(self.entrance.user.map(|user| user.namespace));
        let _ = close_others(&kept);
    }
}

/// Runs in the child; never returns.
pub(crate) fn become_container(plan: &LaunchPlan, birthright: Birthright<'_>) -> ! {
    birthright.close_the_rest();
    hide();
    let gate = birthright.gate;
    let Err(error) = run(plan, &gate, &birthright.entrance, birthright.streams);
    gate.fail(error);
    exit_now(START_ERROR_CODE)
}

fn run(
    plan: &LaunchPlan,
    gate: &Gate,
    entrance: &Entrance<'_>,
    streams: Streams,
) -> Result<std::convert::Infallible, StageError> {
    let mut warnings = Vec::new();
    // A session of its own first, so that a terminal can become its controlling one and no signal to the monitor's
    // group arrives here.
    Stage::Fork.begin()?;
    setsid().map_err(StageError::at(Stage::Fork, "session"))?;

    // The cgroup before anything that costs memory, so that the container pays for itself; on v2 clone3 did it.
    Stage::JoinCgroup.begin()?;
    join_cgroup(&plan.cgroup)?;
    // While /proc is the host's and we are root there.
    Stage::SetOomScore.begin()?;
    set_oom_score(plan.process.oom_score_adj, &mut warnings)?;

    // The volumes while mounts still propagate, then no mount of ours travels to the host any more.
    Stage::OpenVolumes.begin()?;
    let mut sources = rootfs::open_sources(&plan.mounts, entrance.user.as_ref(), || pod_shm(entrance.pause))
        .map_err(StageError::mount(Stage::OpenVolumes))?;
    rootfs::make_private().map_err(StageError::mount(Stage::OpenVolumes))?;

    // What is made from here on has exactly the mode that the plan gives it.
    rustix::process::umask(Mode::empty());
    // What takes the host's rights before these may end: in a user namespace no layer can be read as it is and no
    // device be made.
    if let Some(user) = &entrance.user {
        mapped::map_layers(plan, user).map_err(StageError::mount(Stage::MountRoot))?;
    }
    let staging = &plan.rootfs.staging;
    Stage::OpenImage.begin()?;
    open_images(&plan.mounts, &mut sources, staging).map_err(StageError::mount(Stage::OpenImage))?;
    let nodes = entrance.user.as_ref().map(|user| mapped::make_nodes(&plan.devices, staging, user));
    let nodes = nodes.transpose().map_err(StageError::mount(Stage::MakeDevices))?;
    Stage::MountRoot.begin()?;
    let root = rootfs::mount_overlay(&plan.rootfs, plan.file_label.as_deref())
        .map_err(StageError::mount(Stage::MountRoot))?;

    // The pod's namespaces before proc, sysfs and mqueue are mounted: each shows the namespaces of its mounter.
    Stage::JoinPod.begin()?;
    let root = enter_pod(entrance, plan, gate, &streams, root)?;
    // The cgroup namespace after the cgroup, since its root is where we are now, and after a user namespace, to belong
    // to it; before cgroup2 is mounted.
    if plan.cgroup_namespace == Sharing::Own {
        new_cgroup_namespace().map_err(StageError::at(Stage::JoinCgroup, "cgroup namespace"))?;
    }
    Stage::Mount.begin()?;
    rootfs::mount_all(&root, &plan.mounts, sources, plan.file_label.as_deref())
        .map_err(StageError::mount(Stage::Mount))?;
    Stage::MakeDevices.begin()?;
    match nodes {
        None => rootfs::make_devices(&root, &plan.devices),
        Some(nodes) => rootfs::mount_devices(&root, &plan.devices, &nodes),
    }
    .map_err(StageError::mount(Stage::MakeDevices))?;
    make_fifos(&root, &plan.fifos).map_err(StageError::mount(Stage::MakeDevices))?;
    rootfs::make_links(&root, &plan.links).map_err(StageError::mount(Stage::MakeDevices))?;
    let terminal = if plan.stdio.tty { Some(Terminal::open_in(&root)?) } else { None };

    // While the host's programs can be reached, and the container's root from there.
    Stage::RunHook.begin()?;
    await_hooks_outside(plan, gate)?;
    run_hooks(plan, HookPoint::CreateContainer)?;
    // While /proc is the host's: no mount of the container lies over the files. After the hooks, or the first of them
    // would run under the labels.
    Stage::SetLabel.begin()?;
    label::ask_for(&plan.process)?;

    // Masks after all mounts, or a volume could be laid over one; the root's flag last, since places were made in it.
    Stage::ProtectPaths.begin()?;
    rootfs::mask(&root, &plan.masked_paths).map_err(StageError::mount(Stage::ProtectPaths))?;
    rootfs::protect(&root, &plan.readonly_paths).map_err(StageError::mount(Stage::ProtectPaths))?;
    enter_root(&root, plan)?;

    // In the new root, where no path can lead to the host.
    Stage::FindUser.begin()?;
    let user = user::resolve(&plan.process.user).map_err(StageError::user)?;
    entrance.user.map_or(Ok(()), |users| user_namespace::check_user(&user, users.maps))?;
    let terminal = become_workload(&plan.process, &user, streams, terminal)?;
    let hooks = || run_hooks(plan, HookPoint::StartContainer);
    wait_then_execute(&plan.process, gate, user, (warnings, terminal), hooks)
}

/// Changes to the container's root and its working directory.
fn enter_root(root: &RootDir, plan: &LaunchPlan) -> Result<(), StageError> {
    let cwd = &plan.process.cwd;
    Stage::ChangeDirectory.begin()?;
    root.open_or_make(cwd, crate::root_dir::Make::Directory)
        .map_err(StageError::at(Stage::ChangeDirectory, cwd.display().to_string()))?;
    Stage::ChangeRoot.begin()?;
    if plan.rootfs.read_only {
        rootfs::make_read_only(root).map_err(StageError::mount(Stage::ChangeRoot))?;
    }
    rootfs::pivot(root).map_err(StageError::mount(Stage::ChangeRoot))
}

/// Everything between the right namespaces and `execve`, the same for a container and an exec session: directory,
/// streams, credentials. Returns the terminal's master side for the monitor.
pub(crate) fn become_workload(
    process: &ProcessPlan,
    user: &ResolvedUser,
    streams: Streams,
    terminal: Option<Terminal>,
) -> Result<Option<OwnedFd>, StageError> {
    change_directory(&process.cwd)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (streams, master) = match terminal {
        None => (streams, None),
        Some(terminal) => terminal.take().map(|(streams, master)| (streams, Some(master)))?,
    };
    Stage::ConnectStreams.begin()?;
    streams.give_to(user)?;
    streams.connect()?;
    credentials::assume(process, user)?;
    // After the change of user, which resets it. Should the monitor die, so does this process.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(StageError::at(Stage::SetUser, "death signal"))?;
    Ok(master)
}

/// The gate, and what lies behind it: `hooks`, then the program. The monitor is handed warnings and terminal.
pub(crate) fn wait_then_execute(
    process: &ProcessPlan,
    gate: &Gate,
    user: ResolvedUser,
    (warnings, terminal): (Vec<String>, Option<OwnedFd>),
    hooks: impl FnOnce() -> Result<(), StageError>,
) -> Result<std::convert::Infallible, StageError> {
    let env = environment(&process.env, &user);
    Stage::WaitAtGate.begin()?;
    gate.wait(user, warnings, terminal.as_ref().map(AsFd::as_fd))
        .map_err(StageError::at(Stage::WaitAtGate, "monitor"))?;
    drop(terminal);
    hooks()?;
    execute(process, &env)
}

/// `HOME` as the user's entry says, where the plan has none (as containerd and CRI-O give it).
pub(crate) fn environment(env: &[String], user: &ResolvedUser) -> Vec<String> {
    let mut env = env.to_vec();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    }
    env
}

/// Replaces this process by the program, found as execvp(3) would.
///
/// The filter comes last, so that a profile needs to allow nothing of ours but `execve` (and `capset`, without
/// no_new_privs). Under it we may be unable even to say what failed, so what can be known about the program is found
/// out before.
fn execute(process: &ProcessPlan, env: &[String]) -> Result<std::convert::Infallible, StageError> {
    Stage::Execute.begin()?;
    let args = &process.args;
    let program = args.first().map(String::as_str).unwrap_or_default();
    let fail = |errno| StageError { stage: Stage::Execute, object: program.to_owned(), errno: Some(errno) };
    let strings = |strings: &[String]| {
        strings
            .iter()
            .map(|s| CString::new(s.as_str()).map_err(|_| fail(Errno::INVAL)))
            .collect::<Result<Vec<_>, _>>()
    };
    let (c_args, c_env) = (strings(args)?, strings(env)?);
    cloexec_from(3).map_err(fail)?;
    reset_signals();
    let mut worst = Errno::NOENT;
    let mut is_filtered = false;
    for candidate in candidates(program, env) {
        let path = CString::new(candidate).map_err(|_| fail(Errno::INVAL))?;
        let tried = match accessat(CWD, &path, Access::EXEC_OK, AtFlags::EACCESS) {
            Err(errno) => errno,
            Ok(()) => {
                if !std::mem::replace(&mut is_filtered, true) {
                    credentials::install_filter(process)?;
                }
                execve(&path, &c_args, &c_env)
            }
        };
        match tried {
            Errno::NOENT | Errno::NOTDIR => {}
            // Found but not allowed: keep looking, and say so if nothing else turns up.
            Errno::ACCESS => worst = Errno::ACCESS,
            errno => return Err(fail(errno)),
        }
    }
    Err(fail(worst))
}

fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.is_empty() || program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| if dir.is_empty() { program.to_owned() } else { format!("{dir}/{program}") })
        .collect()
}

/// Keeps processes of the container from looking into this one, which may be in their pid namespace already and still
/// holds the host's binary and descriptors of the monitor's (CVE-2016-9962, CVE-2019-5736); exec ends it.
pub(crate) fn hide() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Enters `namespaces` of the process behind `pidfd` in one call; setns(2), pidfd since Linux 5.8.
#[expect(clippy::disallowed_methods, reason = "this is the place where namespaces are entered")]
pub(crate) fn join(pidfd: BorrowedFd<'_>, namespaces: ThreadNameSpaceType) -> Result<(), StageError> {
    if namespaces.is_empty() {
        return Ok(());
    }
    rustix::thread::move_into_thread_name_spaces(pidfd, namespaces)
        .map_err(StageError::at(Stage::JoinPod, format!("{namespaces:?}")))
}

/// A detached copy of the pod's `/dev/shm`, fetched from pause's mount namespace, where it lives so that the host's
/// mount table holds nothing of the pod.
#[expect(
    clippy::disallowed_methods,
    reason = "a short visit to pause's mount namespace, by this child alone"
)]
pub(crate) fn pod_shm(pause: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let home = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::thread::move_into_thread_name_spaces(pause, ThreadNameSpaceType::MOUNT)?;
    let shm = rootfs::clone_tree(rustix::fs::CWD, Path::new(crate::pause::SHM_PATH), OpenTreeFlags::empty());
    rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    shm
}

pub(crate) fn set_oom_score(score: Option<i32>, warnings: &mut Vec<String>) -> Result<(), StageError> {
    let Some(score) = score else { return Ok(()) };
    let file = "/proc/self/oom_score_adj";
    match std::fs::write(file, score.to_string()) {
        // Lowering the score needs CAP_SYS_RESOURCE: a node without it still runs pods.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            warnings.push(format!("oom_score_adj {score} can't be set without CAP_SYS_RESOURCE"));
            Ok(())
        }
        Err(error) => Err(StageError {
            stage: Stage::SetOomScore,
            object: score.to_string(),
            errno: Errno::from_io_error(&error),
        }),
        Ok(()) => Ok(()),
    }
}

/// Enters the working directory by a descriptor: no link of the image may lead through `/proc/self/fd` to a directory
/// outside (CVE-2024-21626).
fn change_directory(path: &Path) -> Result<(), StageError> {
    let fail = StageError::at(Stage::ChangeDirectory, path.display().to_string());
    let enter = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let root = open("/", flags, Mode::empty())?;
        rustix::process::fchdir(openat2(&root, path, flags, Mode::empty(), resolve)?)
    };
    enter().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_slash_is_looked_for_along_the_last_path() {
        let env = |entries: &[&str]| entries.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>();
        for (program, env, want) in [
            ("/bin/sh", env(&["PATH=/a"]), vec!["/bin/sh"]),
            ("./x", env(&[]), vec!["./x"]),
            ("sh", env(&["PATH=/a:/b"]), vec!["/a/sh", "/b/sh"]),
            ("sh", env(&["PATH=/a", "PATH=:/c"]), vec!["sh", "/c/sh"]),
            ("", env(&["PATH=/a"]), vec![""]),
        ] {
            assert_eq!(candidates(program, &env), want, "{program:?}");
        }
        assert_eq!(candidates("sh", &[]).len(), 6);
    }
}
