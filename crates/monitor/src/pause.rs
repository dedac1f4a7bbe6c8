//! The pause process: it holds the pod's namespaces open, and does nothing else.
//!
//! Forked from the monitor into the pod's new namespaces, never exec'd. Before it rests it prepares what only a
//! process inside can: the hostname, the kernel parameters, a netlink socket and a handle of the network namespace
//! for the agent (so that nobody has to enter it later), and the pod's `/dev/shm`. Its root becomes an empty read-only
//! tmpfs with the one directory `shm`, it runs as nobody, and has no capability. Then it hands over and gives up the rest,
//! for which nobody need wait: it keeps no descriptor, may only make the system calls that waiting takes, and has no memory
//! but a page or two.
//!
//! In a shared pid namespace it is process 1: it ignores SIGCHLD, so the kernel reaps every orphan at once, with no
//! wake-up of pause. It dies with the monitor.

use std::io::{Error as IoError, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_fault::point;
use berth_sys::clone::{SingleThreaded, unshare};
use berth_sys::exec::{close_from, exit_now, ignore_children, ignore_signals};
use berth_sys::mountattr::{MountAttributes, Reach, set_attributes};
use berth_sys::rest::{self, Rest};
use berth_sys::seccomp::{self, Instruction};
use rustix::fs::{Mode, OFlags, mkdirat, open};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::bare;
use crate::fork::shared_namespaces;
use crate::handshake::Gate;
use crate::idmap::{IdMaps, IdRange};
use crate::launch::hide;
use crate::plan::{SandboxPlan, Sharing, Sysctl};
use crate::rootfs;
use crate::stage::{Stage, StageError};
use crate::user_namespace;

/// Where the pod's `/dev/shm` lies in pause's own mount namespace.
pub(crate) const SHM_PATH: &str = "/shm";

/// The user that pause ends as, as in the image that other runtimes use for it.
const NOBODY: u32 = 65535;

/// Runs in the child; never returns.
pub(crate) fn become_pause(
    witness: SingleThreaded,
    plan: &SandboxPlan,
    bare: Option<OwnedFd>,
    socket: OwnedFd,
) -> ! {
    let gate = Gate::new(socket);
    match prepare(&witness, plan, bare, &gate) {
        Ok(handles) => {
            let handles: Vec<BorrowedFd<'_>> = handles.iter().map(AsFd::as_fd).collect();
            if gate.ready(&handles).is_ok() {
                rest(&witness);
            }
        }
        Err(error) => gate.fail(error),
    }
    exit_now(1)
}

/// Sets the namespaces up, shuts itself in and gives up all rights; returns `[netlink socket, network namespace]` of a pod with its own.
fn prepare(
    witness: &SingleThreaded,
    plan: &SandboxPlan,
    bare: Option<OwnedFd>,
    gate: &Gate,
) -> Result<Vec<OwnedFd>, StageError> {
    let fail = |object: &'static str| StageError::at(Stage::JoinPod, object);
    point!("prepare pause").pass().map_err(StageError::broken(Stage::JoinPod))?;
    berth_sys::title::set(c"pause", &format!("pause: {}", plan.pod));
    ignore_children();
    if plan.user_namespace.is_some() {
        gate.await_word().map_err(fail("maps of the user namespace"))?;
        unshare(witness, shared_namespaces(plan)).map_err(fail("new namespaces"))?;
    }
    if let Some(hostname) = &plan.hostname {
        rustix::system::sethostname(hostname.as_bytes()).map_err(fail("hostname"))?;
    }
    if plan.net == Sharing::Own {
        // Best effort: the files are missing where IPv6 is switched off. A pod could pose as a router to all others
        // (CVE-2020-10749). Duplicate address detection would hold every IPv6 address back for a second; addresses are
        // ours to give.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/accept_ra", "0");
        if plan.ipv6 {
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        }
    }
    // While only the host's root may walk to it.
    let place = || {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(&plan.directory, directory, Mode::empty()).map_err(fail("directory of the pod"))
    };
    let place = bare.is_none().then(place).transpose()?;
    let mut sysctls: Vec<&Sysctl> = plan.sysctls.iter().collect();
    if plan.user_namespace.is_some() {
        // Before Linux 6.10 the parameters of an IPC namespace are for the host's root to set, after that for the
        // owner's.
        sysctls.retain(|sysctl| write_sysctl(sysctl).is_err());
        user_namespace::become_root()?;
    }
    sysctls.into_iter().try_for_each(write_sysctl)?;
    let handles = match plan.net {
        Sharing::Own => network_handles().map_err(fail("network namespace"))?,
        Sharing::Host => Vec::new(),
    };
    match (bare, place) {
        (Some(bare), _) => shut_in_bare(witness, plan, &bare),
        (None, Some(place)) => shut_in(plan, &place),
        (None, None) => Err(Errno::NODEV),
    }
    .map_err(fail("root of pause"))?;
    drop_rights(plan.user_namespace.as_ref()).map_err(fail("credentials of pause"))?;
    // From containers that share its pid namespace; the change of user does so only as long as the kernel is set to.
    hide();
    Ok(handles)
}

/// The files below `/proc/sys/net`, `kernel/shm*`, `kernel/msg*`, `kernel/sem` and `fs/mqueue` are those of the
/// namespaces of whoever opens them.
fn write_sysctl(Sysctl { path, value }: &Sysctl) -> Result<(), StageError> {
    let file = std::fs::OpenOptions::new().write(true).open(Path::new("/proc/sys").join(path));
    let written = file.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error: IoError| StageError {
        stage: Stage::JoinPod,
        object: format!("set sysctl {} to {value:?}", path.replace('/', ".")),
        errno: Errno::from_io_error(&error),
    })
}

fn network_handles() -> Result<Vec<OwnedFd>, Errno> {
    // Protocol 0 of netlink is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let namespace = open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(vec![socket, namespace])
}

/// Replaces the root, which is the host's, by one that holds only the pod's `/dev/shm`.
fn shut_in(plan: &SandboxPlan, place: &OwnedFd) -> Result<(), Errno> {
    rootfs::make_private().map_err(|error| error.errno.unwrap_or(Errno::IO))?;
    let root = mount_root(plan, place)?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// The same where nothing of the host's is to be left behind: over the empty directory.
fn shut_in_bare(witness: &SingleThreaded, plan: &SandboxPlan, bare: &OwnedFd) -> Result<(), Errno> {
    bare::enter_copy(bare, witness)?;
    let empty = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let root = mount_root(plan, &empty)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

/// Mounts an empty read-only tmpfs with the pod's `/dev/shm`.
fn mount_root(plan: &SandboxPlan, place: &OwnedFd) -> Result<OwnedFd, Errno> {
    let root = rootfs::detached_tmpfs(0o755, None)?;
    rootfs::attach(root.as_fd(), place, Path::new(""))?;
    if plan.ipc == Sharing::Own {
        let name = SHM_PATH.trim_start_matches('/');
        mkdirat(&root, name, Mode::from_raw_mode(0o755))?;
        let shm = rootfs::detached_tmpfs(0o1777, Some(plan.shm_bytes))?;
        rootfs::attach(shm.as_fd(), &root, Path::new(name))?;
    }
    set_attributes(root.as_fd(), Reach::This, MountAttributes { read_only: true, ..Default::default() })?;
    Ok(root)
}

/// A small user namespace does not have the usual nobody; its last user has as little.
fn drop_rights(user_namespace: Option<&IdMaps>) -> Result<(), Errno> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{CapabilitySet, CapabilitySets};
    crate::credentials::limit_bounding_set(0)?;
    rustix::thread::set_thread_groups(&[])?;
    let last = |range: Option<IdRange>| range.map_or(NOBODY, |range| NOBODY.min(range.length() - 1));
    let gid = Gid::from_raw(last(user_namespace.map(|maps| maps.gids)));
    let uid = Uid::from_raw(last(user_namespace.map(|maps| maps.uids)));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    rustix::thread::set_no_new_privs(true)?;
    // After the change of user, which resets it.
    set_parent_process_death_signal(Some(Signal::KILL))
}

/// Waits for ever, able to do nothing else.
fn rest(witness: &SingleThreaded) -> ! {
    let _ = close_from(0);
    ignore_signals();
    berth_sys::title::forget_environment(witness);
    let rest = Rest::prepare();
    let _ = seccomp::install(&resting_filter(), 0);
    rest.begin(witness)
}

/// Allows the calls that waiting and dying take, and kills the process for any other.
///
/// The instruction numbers are those of the kernel's classic BPF (`linux/bpf_common.h`): load a word, jump if equal,
/// return.
fn resting_filter() -> Vec<Instruction> {
    const LOAD_SYSCALL_NUMBER: u64 = 0x20;
    const JUMP_IF_EQUAL: u64 = 0x15;
    const RETURN: u64 = 0x06;
    const ALLOW: u64 = 0x7fff_0000;
    const KILL_PROCESS: u64 = 0x8000_0000;
    let instruction = |code: u64, jump_true: u64, k: u64| Instruction(code | jump_true << 16 | k << 32);
    let allowed = rest::CALLS;
    let mut program = vec![instruction(LOAD_SYSCALL_NUMBER, 0, 0)];
    for (index, call) in allowed.iter().enumerate() {
        let to_allow = (allowed.len() - index) as u64;
        program.push(instruction(JUMP_IF_EQUAL, to_allow, u64::from(*call)));
    }
    program.push(instruction(RETURN, 0, KILL_PROCESS));
    program.push(instruction(RETURN, 0, ALLOW));
    program
}
