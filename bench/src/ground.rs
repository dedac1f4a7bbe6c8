//! The ground on which all runtimes stand: one filesystem for their directories, made anew for each run.
//!
//! ```text
//! /tmp/berth-bench-PID.image    ext4 as mkfs makes it
//! /tmp/berth-bench-PID          where it is mounted
//! └─ NAME                       the home of one runtime; the floor's directory
//! ```
//! On the machine's own filesystem one would measure that, too: how full and old it is, and whether it has a journal. An
//! ext4 without one, as virtual machines may have, looks at all files that were removed within the last minutes before it
//! makes a new one, so that whoever has removed many makes all others slower.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use berth_e2e::run;
use rustix::mount::{UnmountFlags, unmount};

/// Its size; the file has holes.
const BYTES: u64 = 24 << 30;

/// Nothing is left to be initialized in the background while something is measured.
const FORMAT: [&str; 5] = ["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];

/// Goes with all that is on it.
#[derive(Debug)]
pub(crate) struct Ground(PathBuf);

impl Ground {
    /// Makes it.
    pub(crate) fn make() -> Result<Self> {
        let ground = Self(Path::new("/tmp").join(format!("berth-bench-{}", std::process::id())));
        fs::create_dir(&ground.0).with_context(|| format!("make {}", ground.0.display()))?;
        let image = ground.image();
        let file = File::create(&image).with_context(|| format!("make {}", image.display()))?;
        file.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").args(FORMAT).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&ground.0));
        ground.go_past_the_cache();
        Ok(ground)
    }

    /// Else what goes to the disk is copied once more, by threads of the kernel that compete with the runtimes. Where the
    /// machine's filesystem can't have that, it is done without.
    fn go_past_the_cache(&self) {
        let device = run(Command::new("findmnt").args(["--noheadings", "--output", "SOURCE"]).arg(&self.0));
        let _ = Command::new("losetup").args(["--direct-io=on", device.trim()]).output();
    }

    /// Where it is mounted.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    fn image(&self) -> PathBuf {
        self.0.with_extension("image")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.0);
        let _ = fs::remove_file(self.image());
    }
}
