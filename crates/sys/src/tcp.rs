//! An option of TCP sockets that `rustix` does not offer.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::io::Errno;

use crate::clone::last_errno;

/// Not in libc yet. Source: the kernel's `include/uapi/linux/tcp.h`.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Bounds the time between two attempts of the kernel's to reach a peer that does not answer, be it with data or with the
/// question whether it takes data again: 1 s to 120 s, which is what sockets begin with. Since Linux 6.15.
///
/// # Errors
/// `NOPROTOOPT` on an older kernel, `INVAL` for another time; the socket stays as it was.
pub fn set_longest_retry(socket: impl AsFd, longest: Duration) -> Result<(), Errno> {
    let milliseconds = libc::c_int::try_from(longest.as_millis()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the socket is open for as long as it is borrowed; the kernel reads an int from the pointer, which is to one
    // that lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const milliseconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
