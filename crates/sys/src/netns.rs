//! Work in another network namespace, without anyone staying there.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread::{Builder, scope};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The stack of a thread that makes a few system calls.
const STACK_BYTES: usize = 128 * 1024;

/// Runs `work` in the network namespace behind `namespace`, on a thread that exists for this alone, and waits for it.
/// What it makes there, such as a socket, keeps its namespace wherever it is used. Source: setns(2).
///
/// # Errors
/// The thread can't be had, or may not enter; `CANCELED` if `work` panicked.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, which ends there")]
pub fn within<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> Result<T, Errno> {
    let namespace: BorrowedFd<'_> = namespace.as_fd();
    scope(|scope| {
        let visit = move || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let thread = Builder::new().name("netns".to_owned()).stack_size(STACK_BYTES);
        let visitor = thread
            .spawn_scoped(scope, visit)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        visitor.join().unwrap_or(Err(Errno::CANCELED))
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags, open};

    use super::*;

    #[test]
    fn a_refused_visit_does_no_work() {
        // A mount namespace is no network namespace, and needs no rights to be refused as one.
        let mount = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert_eq!(within(&mount, || panic!("in the wrong place")), Err(Errno::INVAL) as Result<(), _>);
    }
}
