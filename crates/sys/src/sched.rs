//! How soon a thread runs that has been woken.

use std::time::Duration;

use rustix::io::Errno;

use crate::clone::last_errno;

/// As the kernel's `include/uapi/linux/sched/types.h`, its first version.
#[repr(C)]
#[derive(Debug, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

const RESET_ON_FORK: u64 = 1;

/// A sixth of the usual length.
const SHORT: Duration = Duration::from_micros(500);

/// Asks for short turns for the calling thread: it gets no more time than others, but gets it sooner after it was woken,
/// also before one that has begun a longer turn. Processes and threads that it makes have turns of the usual length. Since
/// Linux 6.12; older kernels take no notice. A thread to which somebody has given another policy, or more weight than
/// usual, stays as it is. Source: sched_setattr(2), and the kernel's `Documentation/scheduler/sched-eevdf.rst`.
///
/// # Errors
/// A filter of system calls, mostly; nothing has changed then.
pub fn take_short_turns() -> Result<(), Errno> {
    let mut attributes = SchedAttr::default();
    let size = size_of::<SchedAttr>();
    // SAFETY: the kernel writes at most so many bytes as are given to the pointer, which is to a value of that size that
    // lives until the call returns, and any integers are a valid one; pid 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got != 0 {
        return Err(last_errno());
    }
    // What is reset with a fork is weight of this kind, too.
    if attributes.policy != libc::SCHED_OTHER as u32 || attributes.nice < 0 {
        return Ok(());
    }
    attributes.size = size as u32;
    attributes.flags = RESET_ON_FORK;
    attributes.runtime_ns = SHORT.as_nanos() as u64;
    // SAFETY: the kernel reads as many bytes as the first field says from the pointer, which is to a value that lives
    // until the call returns.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In nanoseconds, as the kernel shows it since Linux 6.6; none where it shows no scheduling.
    fn length_of_turns() -> Option<u64> {
        let shown = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = shown.lines().find(|line| line.starts_with("se.slice "))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn turns_are_short_for_the_caller_alone() {
        let usual = length_of_turns();
        let short = std::thread::spawn(|| {
            rustix::process::setpriority_process(None, 5).unwrap();
            take_short_turns().unwrap();
            assert_eq!(rustix::process::getpriority_process(None).unwrap(), 5);
            let of_child = std::thread::spawn(length_of_turns).join().unwrap();
            (length_of_turns(), of_child)
        });
        let (short, of_child) = short.join().unwrap();
        // An older kernel goes on as usual.
        assert!(short == Some(500_000) || short == usual, "{short:?}");
        assert_eq!(of_child, usual);
    }
}
