//! A container's process, from its clone to the workload: what the kernel needs done, each with one call.
//!
//! Plain mount(2) on paths is enough here, where no image is hostile; it takes the fewest calls. The host's mounts are
//! private already, in the mount namespace that the floor runs in.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use berth_sys::clone::new_cgroup_namespace;
use berth_sys::exec::{execve, exit_now};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};

use super::groups::Group;
use super::place::{HARDENED, POD_FILES, PROGRAM, Place};
use super::watch::{Step, Stopwatch};

/// What it says on its way; the pipe closes when the program is executed.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Launched(Stopwatch),
    Failed(String),
}

/// What a container is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) place: &'a Place,
    pub(super) group: &'a Group,
    /// Holds the namespaces to be joined.
    pub(super) pause: BorrowedFd<'a>,
}

/// Runs in the clone; never returns.
pub(super) fn become_container(parts: Parts<'_>, word: OwnedFd, mut watch: Stopwatch) -> ! {
    watch.lap(Step::CloneContainer);
    let mut word = File::from(word);
    let Err(error) = launch(parts, &mut word, watch);
    let _ = say(&mut word, &Word::Failed(format!("{error:#}")));
    exit_now(1)
}

/// Waits until the program has been executed.
pub(super) fn hear(word: OwnedFd, watch: &mut Stopwatch) -> Result<()> {
    let mut text = Vec::new();
    File::from(word).read_to_end(&mut text)?;
    let mut words = serde_json::Deserializer::from_slice(&text).into_iter::<Word>();
    match words.next().context("the container died before it was launched")?? {
        Word::Launched(its) => watch.follow(its),
        Word::Failed(why) => anyhow::bail!("container: {why}"),
    }
    match words.next() {
        Some(Ok(Word::Failed(why))) => anyhow::bail!("container: {why}"),
        _ => watch.lap(Step::Execute),
    }
    Ok(())
}

fn launch(parts: Parts<'_>, word: &mut File, mut watch: Stopwatch) -> Result<Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    parts.group.enter()?;
    watch.lap(Step::EnterCgroups);
    mount_root(parts.place)?;
    watch.lap(Step::MountRoot);
    join(parts.pause)?;
    // On version 1 a cgroup namespace is not expected, and no runtime makes one.
    let is_unified = parts.group.by_controller().next().is_none();
    if is_unified {
        new_cgroup_namespace().context("new cgroup namespace")?;
    }
    watch.lap(Step::JoinPod);
    rustix::process::chdir(parts.place.root())?;
    mount_filesystems(parts)?;
    watch.lap(Step::MountFilesystems);
    make_devices()?;
    watch.lap(Step::MakeDevices);
    change_root().context("change the root")?;
    watch.lap(Step::ChangeRoot);
    say(word, &Word::Launched(watch))?;
    execute(&[c"sleep", c"1000000"])
}

fn mount_root(place: &Place) -> Result<()> {
    let mut options = b"lowerdir=".to_vec();
    options.extend(place.layer().as_os_str().as_bytes());
    options.extend(b",upperdir=");
    options.extend(place.upper().as_os_str().as_bytes());
    options.extend(b",workdir=");
    options.extend(place.work().as_os_str().as_bytes());
    // It is never mounted again, so nobody needs it synced when it is unmounted, and the whole filesystem with it.
    options.extend(b",volatile");
    let options = CString::new(options)?;
    let mounted = mount("floor", place.root(), "overlay", MountFlags::empty(), options.as_c_str());
    mounted.context("mount the overlay")
}

#[expect(clippy::disallowed_methods, reason = "a clone of its own, which becomes the workload")]
fn join(pause: BorrowedFd<'_>) -> Result<()> {
    let namespaces = ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    let joined = rustix::thread::move_into_thread_name_spaces(pause, namespaces);
    joined.context("join pause's namespaces")
}

/// In the container's root, which is the working directory.
fn mount_filesystems(Parts { place, group, .. }: Parts<'_>) -> Result<()> {
    let (in_dev, read_only) = (MountFlags::NOSUID | MountFlags::NOEXEC, HARDENED | MountFlags::RDONLY);
    new_mount("proc", "proc", HARDENED, c"")?;
    new_mount("tmpfs", "dev", MountFlags::NOSUID, c"mode=0755,size=65536k")?;
    for directory in ["dev/pts", "dev/mqueue", "dev/shm"] {
        fs::create_dir(directory)?;
    }
    new_mount("devpts", "dev/pts", in_dev, c"mode=0620,ptmxmode=0666,gid=5")?;
    new_mount("mqueue", "dev/mqueue", HARDENED, c"")?;
    bind(&place.shm(), Path::new("dev/shm"))?;
    new_mount("sysfs", "sys", read_only, c"")?;
    if group.by_controller().next().is_none() {
        new_mount("cgroup2", "sys/fs/cgroup", read_only, c"")?;
    } else {
        new_mount("tmpfs", "sys/fs/cgroup", HARDENED, c"mode=0755,size=64k")?;
    }
    for (controller, directory) in group.by_controller() {
        let target = Path::new("sys/fs/cgroup").join(controller);
        fs::create_dir(&target)?;
        bind(directory, &target)?;
    }
    POD_FILES.iter().try_for_each(|name| bind(&place.pod_file(name), &Path::new("etc").join(name)))
}

fn new_mount(kind: &str, target: &str, flags: MountFlags, options: &CStr) -> Result<()> {
    mount(kind, target, kind, flags, options).with_context(|| format!("mount {kind} on /{target}"))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount_bind(source, target).with_context(|| format!("bind {} to /{}", source.display(), target.display()))
}

/// Source: OCI runtime-spec, config-linux.md, "Default Devices" and "Dev symbolic links".
fn make_devices() -> Result<()> {
    rustix::process::umask(Mode::empty());
    let devices =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    for (name, major, minor) in devices {
        let (path, mode) = (Path::new("dev").join(name), Mode::from_raw_mode(0o666));
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor))
            .with_context(|| format!("make /{}", path.display()))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, Path::new("dev").join(name))?;
    }
    Ok(())
}

/// To the working directory. Source: pivot_root(2), the section on `pivot_root(".", ".")`.
fn change_root() -> rustix::io::Result<()> {
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Becomes the program; by its first argument a multi-call program knows what to be.
pub(super) fn execute(args: &[&CStr]) -> Result<Infallible> {
    let program = CString::new(format!("/{PROGRAM}"))?;
    let args: Vec<CString> = args.iter().map(|arg| (*arg).to_owned()).collect();
    Err(execve(&program, &args, &[c"PATH=/bin".to_owned()])).context("execute the program")
}

fn say(word: &mut File, what: &Word) -> Result<()> {
    Ok(word.write_all(&serde_json::to_vec(what)?)?)
}
