//! A mount namespace that holds an empty directory and nothing else. The zygote makes one; every pause begins in a copy of
//! it instead of one of the host's, which may have hundreds of mounts, and has nothing to unmount: that waits for all
//! processors. Pauses of pods with a user namespace can't: they have no right to enter it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_sys::clone::{Cloned, NewNamespaces, SingleThreaded, clone3, unshare};
use berth_sys::exec::exit_now;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal, set_parent_process_death_signal};
use rustix::thread::LinkNameSpaceType;

use crate::rootfs;

/// Makes one; a child that ends again lends its mount namespace. Blocks for a moment.
///
/// # Errors
/// A right or a filesystem that is missing; nothing is left.
pub(crate) fn make(witness: &SingleThreaded) -> Result<OwnedFd, Errno> {
    let (ready, telling) = pipe_with(PipeFlags::CLOEXEC)?;
    let namespaces = NewNamespaces { mount: true, ..NewNamespaces::default() };
    let child = match clone3(witness, namespaces, None)? {
        Cloned::Child => become_lender(&telling),
        Cloned::Parent(child) => child,
    };
    drop(telling);
    let made = match rustix::io::read(&ready, &mut [0; 1]) {
        Ok(1) => {
            let path = format!("/proc/{}/ns/mnt", child.pid.as_raw_nonzero());
            open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        }
        Ok(_) => Err(Errno::NODEV),
        Err(errno) => Err(errno),
    };
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    made
}

fn become_lender(telling: &OwnedFd) -> ! {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if empty_out().is_ok() && rustix::io::write(telling, &[0]).is_ok() {
        loop {
            rustix::event::pause();
        }
    }
    exit_now(1)
}

fn empty_out() -> Result<(), Errno> {
    rootfs::make_private().map_err(|error| error.errno.unwrap_or(Errno::IO))?;
    let root = rootfs::detached_tmpfs(0o755, Some(0))?;
    // Any directory will do.
    let place = open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rootfs::attach(root.as_fd(), &place, Path::new(""))?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Moves this process into a copy of one; its root is the empty directory then.
#[expect(
    clippy::disallowed_methods,
    reason = "pause, alone in its process, leaves the host's mounts for good"
)]
pub(crate) fn enter_copy(bare: &OwnedFd, witness: &SingleThreaded) -> Result<(), Errno> {
    rustix::thread::move_into_link_name_space(bare.as_fd(), Some(LinkNameSpaceType::Mount))?;
    unshare(witness, NewNamespaces { mount: true, ..NewNamespaces::default() })
}
