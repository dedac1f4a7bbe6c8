//! SIGTERM as something to be read, with who sent it, for a process that has blocked all signals.

use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

use crate::clone::last_errno;

/// Opens a descriptor, not blocking, that can be read when SIGTERM has come. The signal must be blocked, or it ends
/// this process as before. Source: signalfd(2).
///
/// # Errors
/// The errno of the call.
pub fn open() -> Result<OwnedFd, Errno> {
    // SAFETY: sigset_t is plain data, for which zero is a valid (empty) value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid sigset_t for the duration of the call.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above, and SIGTERM is a signal.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGTERM) };
    // SAFETY: `set` is initialised and outlives the call; -1 asks for a new descriptor.
    match unsafe { libc::signalfd(-1, ptr::from_ref(&set), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) } {
        // SAFETY: the call has just returned this descriptor, and nobody else knows it.
        fd @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last_errno()),
    }
}

/// Takes the signal and returns the process that sent it, as this one's pid namespace numbers it: 0 for one outside of
/// that.
///
/// # Errors
/// EAGAIN when none has come.
pub fn take(fd: impl AsFd) -> Result<u32, Errno> {
    const SENDER: usize = offset_of!(libc::signalfd_siginfo, ssi_pid);
    let mut information = [0; size_of::<libc::signalfd_siginfo>()];
    rustix::io::read(fd, &mut information)?;
    let mut sender = [0; size_of::<u32>()];
    sender.copy_from_slice(&information[SENDER..SENDER + size_of::<u32>()]);
    Ok(u32::from_ne_bytes(sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_with_its_sender() {
        // On this thread alone, which is the one that the signal is sent to.
        crate::exec::block_signals();
        let fd = open().unwrap();
        assert_eq!(take(&fd).unwrap_err(), Errno::AGAIN);
        // SAFETY: raise has no precondition; the signal is blocked.
        unsafe { libc::raise(libc::SIGTERM) };
        assert_eq!(take(&fd).unwrap(), std::process::id());
        assert_eq!(take(&fd).unwrap_err(), Errno::AGAIN);
    }
}
