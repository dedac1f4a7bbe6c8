//! The command line that `ps` shows for this process.
//!
//! A forked process keeps its parent's argument strings; overwriting them in place is the only way to change
//! what `/proc/PID/cmdline` says without CAP_SYS_RESOURCE.

use std::fs;
use std::ptr;
use std::sync::OnceLock;

use crate::clone::SingleThreaded;

/// Overwrites this process's argument strings by `title`, cut to the room that they take. The short name
/// (`comm`, 15 bytes) is set from `comm`. Does nothing when `/proc` can't be read.
///
/// `std::env::args` shows the new text afterwards; call it only where the arguments have been read.
pub fn set(comm: &std::ffi::CStr, title: &str) {
    set_name(comm);
    let Some((start, end)) = argument_area() else {
        return;
    };
    let room = end.saturating_sub(start);
    if room < 2 {
        return;
    }
    let length = title.len().min(room - 1);
    let area = ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel says that start..end is the memory of this process's argument strings, which the
    // kernel mapped writable at exec and which nobody unmaps; `length` is below its size. Rust's std copies
    // arguments on each call of `args`, so no reference into it exists.
    unsafe { ptr::write_bytes(area, 0, room) };
    // SAFETY: as above, and `title` can't overlap the argument strings, being borrowed from Rust's memory.
    unsafe { ptr::copy_nonoverlapping(title.as_ptr(), area, length) };
}

/// Sets the short name alone.
pub fn set_name(comm: &std::ffi::CStr) {
    let _ = rustix::thread::set_name(comm);
}

/// The first address of this process's argument strings, and the one behind them: a forked process has them where its
/// parent has. `None` if `/proc` can't be read.
pub(crate) fn argument_area() -> Option<(usize, usize)> {
    areas().map(|[start, end, ..]| (start, end))
}

/// Overwrites the environment that this process was started with, which whoever may look into it finds below `/proc` as
/// long as it lives: the agent's may hold secrets. This process sees no variable afterwards.
pub fn forget_environment(_witness: &SingleThreaded) {
    let Some([_, _, start, end]) = areas() else { return };
    let area = ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel says that start..end is the memory of this process's environment strings, which it mapped
    // writable at exec and which nobody unmaps. No other thread reads them, as the witness says; what reads one later
    // finds an empty text.
    unsafe { ptr::write_bytes(area, 0, end.saturating_sub(start)) };
}

/// Where the argument strings begin and end, and the environment strings.
fn areas() -> Option<[usize; 4]> {
    static AREAS: OnceLock<Option<[usize; 4]>> = OnceLock::new();
    *AREAS.get_or_init(find_areas)
}

/// Fields 48 to 51 of `/proc/self/stat` (proc_pid_stat(5)): `arg_start`, `arg_end`, `env_start`, `env_end`.
fn find_areas() -> Option<[usize; 4]> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // After the command name come fields 3, 4, …
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some([field(48)?, field(49)?, field(50)?, field(51)?])
}
