//! Processes and the namespaces that they are in, as `/proc` tells. One that ends meanwhile is not there.
//!
//! A process is ours by its cgroup, which it cannot leave; by its title only if it is root's and says that it is the
//! monitor of a pod of which there is a directory here. Source: proc_pid_cgroup(5), proc_pid_stat(5), namespaces(7).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{Grip, Kind, Object, Places, Tie, id_in, leading_id};

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// What a monitor's command line begins with.
const MONITOR_TITLE: &str = "berth-monitor: ";

/// What `/proc` says of one process.
#[derive(Debug)]
struct Process {
    pid: i32,
    parent: i32,
    /// Its command line, or its short name where it has none.
    title: String,
    is_roots: bool,
    /// `/proc/PID/cgroup`.
    cgroups: String,
}

/// Our processes, and whose namespaces are whose, by the name that `/proc/PID/ns` has for them.
pub(crate) fn look_at_processes(places: &Places) -> (Vec<Object>, BTreeMap<String, Tie>) {
    let host: BTreeSet<String> = namespaces_of("self").collect();
    let (mut objects, mut namespaces) = (Vec::new(), BTreeMap::new());
    let mut ours: Vec<_> =
        all().into_iter().filter_map(|process| Some((tie_of(&process, places)?, process))).collect();
    // Pause before containers, so that what a pod shares is the pod's.
    ours.sort_by_key(|(_, process)| (!process.title.starts_with("pause: "), process.pid));
    for ((tie, grip), process) in ours {
        for namespace in namespaces_of(&process.pid.to_string()).filter(|name| !host.contains(name)) {
            namespaces.entry(namespace).or_insert_with(|| tie.clone());
        }
        let name = format!("{} (pid {})", process.title, process.pid);
        objects.push(Object { kind: Kind::Process, name, tie, grip });
    }
    namespaces.extend(host.into_iter().map(|name| (name, Tie::Agent)));
    (objects, namespaces)
}

/// Whether a process that was found to be this object still is; ids of processes are used again.
pub(crate) fn is_still(places: &Places, pid: i32, object: &Object) -> bool {
    look_at(pid).is_some_and(|process| {
        format!("{} (pid {pid})", process.title) == object.name
            && tie_of(&process, places).is_some_and(|(tie, _)| tie == object.tie)
    })
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| look_at(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn look_at(pid: i32) -> Option<Process> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let text = |name: &str| Some(String::from_utf8_lossy(&read(name)?).into_owned());
    let stat = text("stat")?;
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    // Those that are dead and not waited for hold nothing any more.
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let arguments = text("cmdline")?.replace('\0', " ").trim().to_owned();
    let title = if arguments.is_empty() { format!("[{}]", head.split_once('(')?.1) } else { arguments };
    let is_roots = fs::metadata(format!("/proc/{pid}")).ok()?.uid() == 0;
    Some(Process { pid, parent, title, is_roots, cgroups: text("cgroup")? })
}

/// Whose it is; `None` for a process that is not ours.
fn tie_of(process: &Process, places: &Places) -> Option<(Tie, Grip)> {
    if Some(process.pid) == places.agent || Some(process.parent) == places.agent {
        return Some((Tie::Agent, Grip::None));
    }
    let inside = format!("{}/", places.cgroup_root.as_str());
    let paths = || process.cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    if let Some(id) = paths().filter_map(|path| path.strip_prefix(&inside)).find_map(leading_id) {
        // Killed with its cgroup.
        return Some((Tie::Id(id.to_owned()), Grip::None));
    }
    let monitored = process
        .title
        .strip_prefix(MONITOR_TITLE)
        .filter(|id| super::is_id(id) && process.is_roots && places.state.join("pods").join(id).exists());
    if let Some(id) = monitored {
        return Some((Tie::Id(id.to_owned()), Grip::Process(process.pid)));
    }
    // Below a parent that nobody may know any more.
    paths().find_map(id_in).map(|id| (Tie::IfKnown(id.to_owned()), Grip::Process(process.pid)))
}

fn namespaces_of(pid: &str) -> impl Iterator<Item = String> {
    let links = NAMESPACES.map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
    links.into_iter().filter_map(|link| Some(link.ok()?.to_str()?.to_owned()))
}
