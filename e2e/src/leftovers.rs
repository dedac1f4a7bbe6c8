//! What the kernel and the disk hold for one agent, as a set of lines; the difference of two says what was left behind.
//!
//! Only what is this agent's is looked at, so that other tests and other people may work on the same machine. What belongs
//! to sandboxes that wait for pods is left out while there is an agent: they come and go as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::processes::{self, Process};
use crate::site::Site;
use crate::tools::poll;

/// Where agents claim the names that they use alone.
const CLAIMS: &str = "/run/berth-claims";

/// Where an agent's things are found.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The network that it lives on.
    pub site: &'a Site,
    /// No other agent lives there, so all of the namespace's processes, links and rules are this one's.
    pub alone: bool,
    /// The directory that holds all of the agent's own.
    pub dir: &'a Path,
    /// The parent of all of its cgroups.
    pub cgroup: &'a str,
    /// The bridge stays while the agent does.
    pub bridge: &'a str,
    /// The agent's own process.
    pub agent: Option<u32>,
}

/// How to leave nothing behind, whatever happened.
impl Scope<'_> {
    /// Removes everything, the directory too.
    pub fn wipe(&self) {
        self.kill_processes();
        self.unmount();
        self.remove_network();
        self.remove_cgroups();
        let _ = fs::remove_dir_all(self.dir);
    }

    /// Kills all that is the agent's, and the agent.
    pub(crate) fn kill_processes(&self) {
        processes::kill_all(|process| owns(self, process));
    }

    fn unmount(&self) {
        let mounted = fs::read_to_string("/proc/self/mounts").unwrap();
        let points = mounted.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for point in points.filter(|point| Path::new(point).starts_with(self.dir)) {
            let _ = Command::new("umount").args(["--lazy", point]).status();
        }
    }

    /// An agent leaves its bridge to its successor, and the files that names are claimed by; a dead one its pods' links.
    pub(crate) fn remove_network(&self) {
        let _ = self.site.command("ip").args(["link", "delete", self.bridge]).output();
        for kind in ["bridges", "tables"].into_iter().filter(|_| self.alone) {
            let of_network = Path::new(CLAIMS).join(kind).join(self.site.inode().to_string());
            let _ = fs::remove_dir_all(of_network);
        }
    }

    /// Removes the agent's root in all hierarchies, with all that is below.
    pub(crate) fn remove_cgroups(&self) {
        for root in cgroup_roots(self.cgroup) {
            for path in below(&root).iter().filter(|path| path.is_dir()).chain([&root]) {
                if let Ok(found) = fs::metadata(path) {
                    let claim = format!("{}-{}", found.dev(), found.ino());
                    let _ = fs::remove_file(Path::new(CLAIMS).join("cgroups").join(claim));
                }
                poll(Duration::from_secs(1), || fs::remove_dir(path).ok());
            }
        }
    }
}

/// A sandbox that waits for a pod, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    /// The id that its pod will have.
    pub id: String,
    /// Its monitor's process id.
    pub monitor: u32,
}

/// One moment of an agent's things.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// What there is now.
    pub fn take(scope: &Scope<'_>) -> Self {
        let mut lines = BTreeSet::new();
        let spares = if scope.agent.is_some() { spares(scope) } else { Vec::new() };
        lines.extend(processes(scope));
        lines.extend(mounts(scope.dir));
        lines.extend(cgroups(scope.cgroup));
        lines.extend(files(scope.dir));
        lines.extend(scope.agent.into_iter().flat_map(descriptors));
        if scope.alone {
            lines.extend(links(scope));
            lines.extend(rules(scope.site));
        }
        lines.retain(|line| !spares.iter().any(|spare| is_of(line, &spare.id)));
        Self(lines)
    }

    /// What `later` has more, and what it lacks; the agent is free to have fewer descriptors open.
    pub fn changes(&self, later: &Self) -> Vec<String> {
        let more = later.0.difference(&self.0).map(|line| format!("+ {line}"));
        let less = self.0.difference(&later.0).filter(|line| !line.starts_with("descriptor "));
        let less = less.map(|line| format!("- {line}"));
        more.chain(less).collect()
    }

    /// Whether something is half gone, or the agent is looking at the machine, which takes milliseconds.
    pub fn is_passing(&self) -> bool {
        self.0.iter().any(|line| line.ends_with("(zombie)") || is_of_a_look(line))
    }

    /// What there is of one pod.
    pub fn of_pod(&self, id: &str) -> Vec<String> {
        self.0.iter().filter(|line| is_of(line, id)).cloned().collect()
    }

    /// How many lines begin so.
    pub fn count(&self, beginning: &str) -> usize {
        self.0.iter().filter(|line| line.starts_with(beginning)).count()
    }

    /// As before, but for the agent's own processes and descriptors, which a restart replaces.
    pub fn with_agent_of(&self, later: &Self) -> Self {
        let agent = |line: &&String| {
            let zygote_or_agent = line.ends_with(" serve") || line.ends_with("zygote");
            line.starts_with("descriptor ") || (line.starts_with("process ") && zygote_or_agent)
        };
        let rest = self.0.iter().filter(|line| !agent(line));
        Self(rest.chain(later.0.iter().filter(agent).filter(|line| !is_of_a_look(line))).cloned().collect())
    }

    /// The lines that begin in one of these ways.
    pub fn only(&self, beginnings: &[&str]) -> Vec<String> {
        let wanted =
            self.0.iter().filter(|line| beginnings.iter().any(|beginning| line.starts_with(beginning)));
        wanted.cloned().collect()
    }
}

/// Links have the beginning of an id in their names.
fn is_of(line: &str, id: &str) -> bool {
    line.contains(&id[..12])
}

fn is_of_a_look(line: &str) -> bool {
    line.starts_with("descriptor /proc")
}

/// Whether a process is the agent's: it lives in the agent's network namespace, or in one of its cgroups.
pub(crate) fn owns(scope: &Scope<'_>, process: &Process) -> bool {
    let below = format!(":{}", scope.cgroup);
    let in_cgroup = process.cgroups.lines().any(|line| {
        line.split_once(&below).is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('/'))
    });
    in_cgroup || (scope.alone && process.net == Some(scope.site.inode()))
}

/// The sandboxes that wait for pods.
pub(crate) fn spares(scope: &Scope<'_>) -> Vec<Spare> {
    let waiting = processes::owned(|process| process.name == "berth-spare" && owns(scope, process));
    // A pause that has just been forked is called as its monitor is.
    let monitors: Vec<_> = waiting.iter().map(|process| process.pid).collect();
    let spare = |process: Process| {
        let id = process.title.strip_prefix("berth-monitor: ").filter(|id| *id != "zygote")?.to_owned();
        Some(Spare { id, monitor: process.pid.unsigned_abs() })
    };
    waiting.into_iter().filter(|process| !monitors.contains(&process.parent)).filter_map(spare).collect()
}

fn processes(scope: &Scope<'_>) -> Vec<String> {
    let owned = processes::owned(|process| owns(scope, process));
    let line = |process: Process| {
        let state = if process.zombie { " (zombie)" } else { "" };
        format!("process {} {}{state}", process.pid, process.title)
    };
    owned.into_iter().map(line).collect()
}

/// Of the machine's own mount table.
fn mounts(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = dir.to_str().unwrap();
    table.lines().filter(|line| line.contains(dir)).map(|line| format!("mount {line}")).collect()
}

/// In every hierarchy, what is below the agent's root; the root itself stays with the agent.
fn cgroups(root: &str) -> Vec<String> {
    let inside = cgroup_roots(root).into_iter().flat_map(|root| below(&root));
    inside.filter(|path| path.is_dir()).map(|path| format!("cgroup {}", path.display())).collect()
}

/// The directories of the agent's root in all hierarchies.
pub(crate) fn cgroup_roots(root: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let paths = hierarchies.chain(["/sys/fs/cgroup".into()]).filter(|path| !path.is_symlink());
    paths.map(|path| path.join(root.trim_start_matches('/'))).filter(|path| path.is_dir()).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let own = ["root", "state"].into_iter().flat_map(|part| below(&dir.join(part)));
    // The database's journal comes and goes as it likes; the parents of what `berth run` makes are made once.
    let passing = |path: &str| path.ends_with("-wal") || path.ends_with("-shm");
    let parent = |path: &str| ["state/run", "run/logs", "run/pods"].iter().any(|end| path.ends_with(end));
    let settled = own.map(|path| path.display().to_string()).filter(|path| !passing(path) && !parent(path));
    settled.map(|path| format!("file {path}")).collect()
}

/// Everything below a directory; symbolic links are not followed.
fn below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

/// The agent's open descriptors by kind. Sockets are left out: clients come and go; so are the counters of cgroups that
/// are there, which it opens when it first reads them. Those of a cgroup that has gone, "(deleted)", should be gone
/// too.
fn descriptors(agent: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{agent}/fd")) else {
        return Vec::new();
    };
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut counts = BTreeMap::<String, usize>::new();
    for target in targets {
        let target = target.to_string_lossy().into_owned();
        let kind = target.split_once(":[").map_or(target.as_str(), |(kind, _)| kind);
        let counter = kind.starts_with("/sys/fs/cgroup/") && Path::new(kind).exists();
        if kind != "socket" && !counter && !kind.ends_with("-wal") && !kind.ends_with("-shm") {
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    counts.into_iter().map(|(kind, count)| format!("descriptor {kind}, {count} times")).collect()
}

fn links(scope: &Scope<'_>) -> Vec<String> {
    let text = scope.site.run("ip", &["-o", "link"]);
    let names = text.lines().filter_map(|line| line.split([' ', '@', ':']).nth(2));
    names.filter(|name| *name != scope.bridge).map(|name| format!("link {name}")).collect()
}

fn rules(site: &Site) -> Vec<String> {
    let text = site.run("nft", &["--stateless", "list", "ruleset"]);
    text.lines().map(|line| format!("rule {}", line.trim())).collect()
}
