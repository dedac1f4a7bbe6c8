//! Where many databases are opened, as fast as that goes.

use std::fs;
use std::iter::from_fn;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{available_parallelism, scope};

use berth_e2e::run;

/// Memory to open databases in, one directory for each processor. Its file system can't set blocks aside: to do that for
/// each database would take ten times as long as all else. It goes with this value.
#[derive(Debug)]
pub(super) struct Memory(PathBuf);

impl Memory {
    pub(super) fn new(point: &Path) -> Self {
        fs::create_dir(point).unwrap();
        run(Command::new("mount").args(["-t", "ramfs", "torn"]).arg(point));
        Self(point.to_owned())
    }

    pub(super) fn directory(&self, number: usize) -> PathBuf {
        let path = self.0.join(number.to_string());
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Has all processors at work on all of these, and returns what is said of them.
    pub(super) fn each<T: Sync, R: Send>(&self, all: &[T], work: impl Fn(&T, &Path) -> R + Sync) -> Vec<R> {
        let next = AtomicUsize::new(0);
        let take_turns = |number| {
            let directory = self.directory(number);
            let mine = from_fn(|| all.get(next.fetch_add(1, Ordering::Relaxed)));
            mine.map(|one| work(one, &directory)).collect::<Vec<_>>()
        };
        scope(|scope| {
            let processors = 0..available_parallelism().unwrap().get();
            let threads: Vec<_> = processors.map(|number| scope.spawn(move || take_turns(number))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}
