//! A small file system below a node's directory, so that a test can fill it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::tools::run;

/// The name of what fills it.
const BALLAST: &str = "ballast";

/// What kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// In memory: directories take no room.
    Tmpfs,
    /// In a file, by a loop device: everything takes room.
    Ext4,
}

/// One, mounted. The node that it belongs to unmounts it.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes one and mounts it on a directory, made when missing.
    pub(crate) fn mount(path: &Path, kind: DiskKind, mib: u64) -> Self {
        fs::create_dir_all(path).unwrap();
        match kind {
            DiskKind::Tmpfs => {
                run(Command::new("mount")
                    .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "e2e"])
                    .arg(path));
            }
            DiskKind::Ext4 => {
                let image = path.with_extension("image");
                File::create(&image).unwrap().set_len(mib << 20).unwrap();
                run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
                run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path));
            }
        }
        Self { path: path.to_owned() }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it up but for so many KiB, or a few less.
    pub fn fill(&self, left_kib: u64) {
        let file = File::options().write(true).create(true).truncate(false).open(self.ballast()).unwrap();
        let mut bytes = file.metadata().unwrap().len();
        for step in [1 << 20, 64 << 10, 4 << 10, 1 << 10] {
            while self.free_kib() >= left_kib + step / 1024 {
                if fallocate(&file, FallocateFlags::empty(), bytes, step).is_err() {
                    break;
                }
                bytes += step;
            }
        }
    }

    /// Makes room again.
    pub fn clear(&self) {
        let _ = fs::remove_file(self.ballast());
    }

    /// How much others can still take.
    pub fn free_kib(&self) -> u64 {
        let found = statvfs(&self.path).unwrap();
        found.f_bavail * found.f_frsize / 1024
    }

    fn ballast(&self) -> PathBuf {
        self.path.join(BALLAST)
    }
}
