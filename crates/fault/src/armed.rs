//! What a build for tests has more: the list of points, and the look into the file.
//!
//! The file is opened once by each process and then read by its descriptor, so that a child which has changed its root, its
//! user or its namespaces still sees what is armed. A forked child has its own: the parent's may have been closed in it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, Signal, getpid, kill_process};

pub use linkme;

/// Names the file that says which point is broken.
pub const VARIABLE: &str = "BERTH_FAULT";

/// More than a few actions with their names take.
const MAX_BYTES: usize = 256;

#[doc(hidden)]
#[linkme::distributed_slice]
pub static POINTS: [&'static str];

/// The names of all points in this program, sorted.
pub fn points() -> Vec<&'static str> {
    let mut points = POINTS.to_vec();
    points.sort_unstable();
    points
}

/// What happens at a point.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Fail,
    Hang,
    Kill,
}

/// What is to happen at this point, if anything. That disarms it, and arms what the next line says.
pub(crate) fn take(point: &str) -> Option<Action> {
    static OPENED: Mutex<Option<(Pid, File)>> = Mutex::new(None);
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if opened.as_ref().is_none_or(|(owner, _)| *owner != getpid()) {
        // The parent's number may be another file's here, which must not be closed.
        std::mem::forget(opened.take());
        let path = std::env::var_os(VARIABLE)?;
        let file = File::options().read(true).write(true).open(path).ok()?;
        // Above the standard streams, which a child puts in their places later.
        *opened = Some((getpid(), fcntl_dupfd_cloexec(&file, 3).ok()?.into()));
    }
    let (_, file) = opened.as_ref()?;
    let mut text = [0; MAX_BYTES];
    let length = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (action, name) = line.split_once(' ')?;
    if name != point {
        return None;
    }
    let action = match action {
        "fail" => Action::Fail,
        "hang" => Action::Hang,
        "kill" => Action::Kill,
        _ => return None,
    };
    file.set_len(0).ok()?;
    file.write_all_at(rest.as_bytes(), 0).ok()?;
    Some(action)
}

/// How long a point hangs: past every limit of an agent in such a build.
const HANG: Duration = Duration::from_secs(8);

/// The longest limit that an agent in such a build has.
pub(crate) const LONGEST_LIMIT: Duration = Duration::from_secs(5);

/// Holds the thread up.
#[allow(clippy::disallowed_methods, reason = "not a wait for a state, but what waits for nothing")]
pub(crate) fn hang() {
    std::thread::sleep(HANG);
}

/// Holds the task up.
#[allow(clippy::disallowed_methods, reason = "not a wait for a state, but what waits for nothing")]
pub(crate) async fn hang_in_task() {
    tokio::time::sleep(HANG).await;
}

/// Ends this process with nothing cleaned up.
pub(crate) fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    // The first process of a pid namespace is spared by its own signals, but not by what a trap raises.
    std::process::abort()
}
