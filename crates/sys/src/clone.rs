//! `clone3(2)`: a new process, optionally in new namespaces and straight in its cgroup.
//!
//! A child made by a raw clone runs on a copy of its parent's memory. If another thread held the allocator's
//! lock at that moment, the child would hang at its first allocation; so cloning asks for a
//! [`SingleThreaded`] witness, which can only be had from the kernel's own count of threads.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::Pid;

/// Proof that this process had exactly one thread when asked. It cannot be sent to another thread, and the
/// code that holds one must not start any.
#[derive(Debug)]
pub struct SingleThreaded(std::marker::PhantomData<*const ()>);

impl SingleThreaded {
    /// Counts the threads in `/proc/self/task`; `None` if there are others, or if the count can't be read.
    pub fn verify() -> Option<Self> {
        let threads = fs::read_dir("/proc/self/task").ok()?.count();
        (threads == 1).then_some(Self(std::marker::PhantomData))
    }

    /// For a child that a process of one thread has forked: it has one, too.
    pub fn in_child(&self) -> Self {
        Self(std::marker::PhantomData)
    }
}

/// libc's constant of this name does not fit its own type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// New namespaces for the child, the `CLONE_NEW*` flags of `clone(2)` by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewNamespaces {
    /// `CLONE_NEWUSER`: the child has all capabilities in it, no id is mapped yet, and the others belong to it.
    pub user: bool,
    /// `CLONE_NEWPID`: the child is process 1 in it.
    pub pid: bool,
    /// `CLONE_NEWNS`: a copy of the parent's mount table.
    pub mount: bool,
    /// `CLONE_NEWNET`: with a loopback device that is down.
    pub net: bool,
    /// `CLONE_NEWIPC`.
    pub ipc: bool,
    /// `CLONE_NEWUTS`: a copy of the parent's hostname.
    pub uts: bool,
}

/// What [`clone3`] returns, once in each of the two processes.
#[derive(Debug)]
pub enum Cloned {
    /// In the child.
    Child,
    /// In the parent.
    Parent(Child),
}

/// A child of this process, held by its pidfd so that a recycled number can never be meant.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace: for showing and for `/proc` only.
    pub pid: Pid,
    /// Readable when the child has exited; closing it does not reap.
    pub pidfd: OwnedFd,
}

/// Forks this process, `SIGCHLD` on exit, the child in `namespaces` and, on cgroup v2, in `cgroup` (an open
/// directory) from its first instruction. Source: clone(2), `clone3`; `CLONE_INTO_CGROUP` since Linux 5.7.
///
/// # Errors
/// The errno of the call; no child exists then.
pub fn clone3(
    witness: &SingleThreaded,
    namespaces: NewNamespaces,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, Errno> {
    // SIGCHLD for the parent.
    clone3_with(witness, namespaces, cgroup, 0, libc::SIGCHLD as u64)
}

/// The same for a child that is not this process's own but its parent's, which then has to wait for it. It sends that
/// parent what this process would have sent. Source: clone(2), `CLONE_PARENT`.
///
/// # Errors
/// The errno of the call, `INVAL` for the first process of a pid namespace; no child exists then.
pub fn clone3_sibling(witness: &SingleThreaded, namespaces: NewNamespaces) -> Result<Cloned, Errno> {
    clone3_with(witness, namespaces, None, libc::CLONE_PARENT as u64, 0)
}

fn clone3_with(
    _witness: &SingleThreaded,
    namespaces: NewNamespaces,
    cgroup: Option<BorrowedFd<'_>>,
    more_flags: u64,
    exit_signal: u64,
) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let flag = |wanted: bool, flag: libc::c_int| if wanted { flag as u64 } else { 0 };
    let mut flags = libc::CLONE_PIDFD as u64
        | more_flags
        | flag(namespaces.user, libc::CLONE_NEWUSER)
        | flag(namespaces.pid, libc::CLONE_NEWPID)
        | flag(namespaces.mount, libc::CLONE_NEWNS)
        | flag(namespaces.net, libc::CLONE_NEWNET)
        | flag(namespaces.ipc, libc::CLONE_NEWIPC)
        | flag(namespaces.uts, libc::CLONE_NEWUTS);
    let mut cgroup_fd = 0;
    if let Some(directory) = cgroup {
        flags |= CLONE_INTO_CGROUP;
        cgroup_fd = directory.as_raw_fd() as u64;
    }
    // SAFETY: every field of clone_args is an integer, for which zero is valid and means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = exit_signal;
    args.cgroup = cgroup_fd;
    // SAFETY: no CLONE_VM, so the child runs on its own copy of the memory with the same stack; `args` and
    // `pidfd` outlive the call. The witness says that no other thread exists whose locks the copy could
    // hold, so the child may use the allocator as if after a plain fork.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(last_errno()),
        0 => Ok(Cloned::Child),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::OVERFLOW)?;
            // SAFETY: the kernel stored a new descriptor in `pidfd` for a successful call with CLONE_PIDFD;
            // nobody else knows its number.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent(Child { pid, pidfd }))
        }
    }
}

/// Gives this process a cgroup namespace whose root is where it is now. Source: cgroup_namespaces(7).
///
/// # Errors
/// The errno of the call.
pub fn new_cgroup_namespace() -> Result<(), Errno> {
    // SAFETY: CLONE_NEWCGROUP changes only what paths /proc and cgroupfs show, no memory and no descriptors.
    match unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Moves this process, which shares nothing with another, into new mount, net, ipc and uts namespaces, as far as they are
/// wanted; they belong to its user namespace. The others of `namespaces` are for births. Source: unshare(2).
///
/// # Errors
/// The errno of the call; the process stays where it was.
pub fn unshare(_witness: &SingleThreaded, namespaces: NewNamespaces) -> Result<(), Errno> {
    let flag = |wanted: bool, flag: libc::c_int| if wanted { flag } else { 0 };
    let flags = flag(namespaces.mount, libc::CLONE_NEWNS)
        | flag(namespaces.net, libc::CLONE_NEWNET)
        | flag(namespaces.ipc, libc::CLONE_NEWIPC)
        | flag(namespaces.uts, libc::CLONE_NEWUTS);
    // SAFETY: these change what system calls of this process act on, no memory and no descriptors; there is no
    // other thread to be left behind, as the witness says.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Sends the signal with this number, real-time ones included, to the process behind `pidfd`.
/// Source: pidfd_send_signal(2).
///
/// # Errors
/// The errno of the call: `SRCH` when the process has been reaped, `INVAL` for a number that is no signal.
pub fn send_signal(pidfd: impl AsFd, number: i32) -> Result<(), Errno> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means what kill(2) would send; the rest are integers.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), number, null, 0u32) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The errno of the libc call that has just failed on this thread.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
/// A child of this process that has ended and still has to be waited for, whichever comes first. Source: waitid(2).
pub fn ended_child() -> Option<Pid> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is writable memory of the size that the call fills, for the duration of the call.
    let status = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) };
    if status != 0 {
        return None;
    }
    // SAFETY: all bytes were zero, which is a valid siginfo_t, before the kernel wrote one.
    let info = unsafe { info.assume_init() };
    // SAFETY: after a successful waitid the member for SIGCHLD is the one in use; a process id of zero, as in memory
    // that the kernel has left alone, says that there is no such child.
    Pid::from_raw(unsafe { info.si_pid() })
}
