//! A network namespace that stands for a machine's network. Only the network is its own: the file system, the cgroups
//! and the process ids are the machine's, and so is what is looked at through them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::processes;
use crate::tools::run;

/// A named network namespace with its loopback up. It is deleted with this value.
#[derive(Debug)]
pub struct Site {
    name: String,
    inode: u64,
}

impl Site {
    /// Makes one.
    #[track_caller]
    pub fn make() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("be2e-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]));
        run(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]));
        let inode = fs::metadata(path(&name)).unwrap().ino();
        Self { name, inode }
    }

    /// The inode that tells this namespace from all others.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// A command that runs inside. Not by `ip netns exec`, which would hide the cgroups under a new `/sys`.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path(&self.name).display())).arg("--").arg(program.into());
        command
    }

    /// Runs a tool inside and returns what it prints.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        run(self.command(program).args(args))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        processes::kill_all(|process| process.net == Some(self.inode));
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}
