//! The last steps before a workload's own code runs, and the end of a process that must not unwind.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use crate::clone::last_errno;

/// Replaces this process by `path`; returns only on failure, with the process as it was.
/// Source: execve(2).
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(ptr::null())).collect::<Vec<_>>()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: `path` is NUL-terminated; both arrays are NULL-terminated lists of pointers into CStrings that
    // are borrowed for the whole call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// Ends this process at once with `code`, running no destructor and flushing nothing: the way out of a
/// child that shares its parent's buffers. Source: _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition; nothing of this process runs afterwards.
    unsafe { libc::_exit(code) }
}

/// Blocks every signal that can be blocked for this thread; pidfds and sockets bring all news instead.
pub fn block_signals() {
    set_mask(libc::SIG_SETMASK, |set| {
        // SAFETY: `set` is a valid sigset_t for the duration of the call.
        unsafe { libc::sigfillset(set) };
    });
}

/// Gives this process the signal state that `execve` should hand to a workload: every disposition default,
/// nothing blocked. (Rust ignores SIGPIPE at start, and an ignored signal stays ignored across exec.)
pub fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid disposition for every signal; for SIGKILL, SIGSTOP and the two that
        // libc keeps for itself the call fails without effect, which is what is wanted.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_mask(libc::SIG_SETMASK, |set| {
        // SAFETY: `set` is a valid sigset_t for the duration of the call.
        unsafe { libc::sigemptyset(set) };
    });
}

/// Lets the kernel reap this process's children by itself, for a parent that never asks how they ended.
/// Source: waitpid(2), notes on SIGCHLD set to SIG_IGN.
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Ignores all signals for good, those of the C library's own too. Blocked ones would wait, and those that queue count
/// against what this process's user may have waiting anywhere (`RLIMIT_SIGPENDING`).
pub fn ignore_signals() {
    /// As the kernel has it: a handler, flags, what returns from it, and which signals are blocked meanwhile.
    #[repr(C)]
    struct KernelAction([libc::c_ulong; 4]);
    let ignore = KernelAction([libc::SIG_IGN as libc::c_ulong, 0, 0, 0]);
    let old = std::ptr::null_mut::<KernelAction>();
    // The last is the size of a set of signals, one bit for each.
    const SET_BYTES: usize = 8;
    for number in 1..=64 {
        // SAFETY: the kernel reads an action from the pointer, which is to one that lives until the call returns, and
        // writes none. What can't be ignored is refused.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, &raw const ignore, old, SET_BYTES) };
    }
    set_mask(libc::SIG_SETMASK, |set| {
        // SAFETY: `set` is valid for writes, as `set_mask` says.
        unsafe { libc::sigemptyset(set) };
    });
}

/// Undoes [`ignore_children`], so that exit statuses can be waited for.
pub fn notice_children() {
    // SAFETY: SIG_DFL is a valid disposition for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Marks every descriptor from `first` on close-on-exec, whatever opened it. Source: close_range(2), since
/// Linux 5.11; the answer to CVE-2024-21626, where a descriptor of the runtime survived into the workload.
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    close_numbers(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor above the standard ones but `keep`, as a child does first: what it holds of its parent's
/// would keep pipes open that should end.
///
/// # Errors
/// The errno of the call.
pub fn close_others(keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for number in keep {
        if number > first {
            close_numbers(first, number - 1, 0)?;
        }
        first = first.max(number + 1);
    }
    close_from(first)
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// The errno of the call.
pub fn close_from(first: u32) -> Result<(), Errno> {
    close_numbers(first, u32::MAX, 0)
}

fn close_numbers(first: u32, last: u32, flags: u32) -> Result<(), Errno> {
    // SAFETY: the arguments are integers. Closing descriptors that an OwnedFd still names is the purpose: the callers
    // are children that exec, wait for signals for ever, or leave by _exit, and never drop such a value.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

fn set_mask(how: i32, fill: impl FnOnce(*mut libc::sigset_t)) {
    // SAFETY: sigset_t is plain data, for which zero is a valid (empty) value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    fill(&raw mut set);
    // SAFETY: `set` is initialised and outlives the call; the old mask is not asked for.
    unsafe { libc::sigprocmask(how, &raw const set, ptr::null_mut()) };
}
