//! The processes of the machine, and which of them belong to an agent.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::tools::poll;

/// What `/proc` says of one process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    /// Its short name.
    pub(crate) name: String,
    /// Its command line, or its short name where it has none.
    pub(crate) title: String,
    /// Dead, and not waited for.
    pub(crate) zombie: bool,
    /// Its network namespace.
    pub(crate) net: Option<u64>,
    /// `/proc/PID/cgroup`.
    pub(crate) cgroups: String,
}

/// All processes that can be looked at now.
pub(crate) fn all() -> Vec<Process> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(look_at).collect()
}

/// Those that `own` accepts, and the zombies that these have not waited for.
pub(crate) fn owned(own: impl Fn(&Process) -> bool) -> Vec<Process> {
    let (mine, others): (Vec<_>, Vec<_>) = all().into_iter().partition(|process| own(process));
    let zombies =
        others.into_iter().filter(|other| other.zombie && mine.iter().any(|one| one.pid == other.parent));
    let zombies: Vec<_> = zombies.collect();
    mine.into_iter().chain(zombies).collect()
}

/// Kills those that `own` accepts until none is left, or for a while at least.
pub(crate) fn kill_all(own: impl Fn(&Process) -> bool) {
    poll(Duration::from_secs(5), || {
        let alive: Vec<_> = all().into_iter().filter(|process| !process.zombie && own(process)).collect();
        for process in &alive {
            let _ = kill_process(Pid::from_raw(process.pid).unwrap(), Signal::KILL);
        }
        alive.is_empty().then_some(())
    });
}

/// None where it ended meanwhile.
fn look_at(pid: i32) -> Option<Process> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    let zombie = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    let arguments = read("cmdline")?.replace('\0', " ").trim().to_owned();
    let name = head.split_once('(')?.1.to_owned();
    Some(Process {
        pid,
        parent,
        title: if arguments.is_empty() { format!("[{name}]") } else { arguments },
        name,
        zombie,
        net: fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|meta| meta.ino()),
        cgroups: read("cgroup")?,
    })
}
