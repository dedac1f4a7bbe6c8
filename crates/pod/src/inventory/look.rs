//! One pass over the kernel and the disk: everything that carries one of our names. Blocks; changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use berth_cgroup::{CgroupPath, Cgroups};
use berth_image::{StoredKind, list_stored};
use berth_net::Survey;

use super::processes::look_at_processes;
use super::{Grip, Kind, Object, Tie, id_in, is_id, leading_id};
use crate::error::{Error, Result};

/// Where an agent's things are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) cgroup_root: CgroupPath,
    pub(crate) cgroups: Cgroups,
    pub(crate) survey: Survey,
    /// The agent's process, if one runs.
    pub(crate) agent: Option<i32>,
}

impl Places {
    /// The image store.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The parents of what is named by ids: those of the pods, and that of the containers.
    pub(crate) fn parents(&self) -> [PathBuf; 3] {
        [self.state.join("pods"), self.root.join("pods"), self.root.join("containers")]
    }
}

/// Looks at everything once.
///
/// # Errors
/// Something can't be looked at, so that nobody can say what is there.
pub(crate) fn look(places: &Places) -> Result<Vec<Object>> {
    let (mut objects, namespaces) = look_at_processes(places);
    if let Some(agent) = places.agent {
        objects.extend(descriptors(places, agent, &namespaces));
    }
    let owned = namespaces.into_iter().filter(|(_, tie)| *tie != Tie::Agent);
    objects.extend(owned.map(|(name, tie)| Object { kind: Kind::Namespace, name, tie, grip: Grip::None }));
    objects.extend(mounts(places)?);
    objects.extend(cgroups(places)?);
    objects.extend(network(places)?);
    objects.extend(files(places)?);
    objects.extend(stored(places)?);
    Ok(objects)
}

/// Mounts of the host's table in directories of pods and containers. Any other below root and state is the operator's.
fn mounts(places: &Places) -> Result<Vec<Object>> {
    let table = "/proc/self/mountinfo";
    let text = fs::read_to_string(table).map_err(Error::file("read", table))?;
    let parents = places.parents();
    let points = text.lines().filter_map(|line| Some(unescape(line.split(' ').nth(4)?)));
    let ours = points.filter_map(|point| {
        let inside = parents.iter().find_map(|parent| Path::new(&point).strip_prefix(parent).ok())?;
        let id = inside.iter().next()?.to_str().filter(|id| is_id(id))?.to_owned();
        Some(object(Kind::Mount, &point, Tie::Id(id), Grip::Mount(point.clone().into())))
    });
    Ok(ours.collect())
}

/// Of pods below our root, and of their containers; what lies deeper belongs to these.
fn cgroups(places: &Places) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    let children = |path: &CgroupPath| -> Result<Vec<CgroupPath>> {
        let names = places.cgroups.list_children(path)?;
        Ok(names.iter().filter_map(|name| path.join(name).ok()).collect())
    };
    for pod in children(&places.cgroup_root)? {
        if !id_of_name(pod.as_str()).is_some_and(is_id) {
            continue;
        }
        for path in children(&pod)?.into_iter().chain([pod]) {
            let id = id_in(path.as_str()).unwrap_or_default().to_owned();
            objects.push(object(Kind::Cgroup, path.as_str(), Tie::Id(id), Grip::Cgroup(path.clone())));
        }
    }
    Ok(objects)
}

fn id_of_name(path: &str) -> Option<&str> {
    path.rsplit('/').next()
}

fn network(places: &Places) -> Result<Vec<Object>> {
    let survey = &places.survey;
    let links = survey.links()?.into_iter().map(|link| {
        object(Kind::Link, link.name.as_str(), Tie::Id(link.pod_id), Grip::Link(link.name.clone()))
    });
    let routes = survey
        .subnets()?
        .into_iter()
        .map(|subnet| object(Kind::Route, &subnet.to_string(), Tie::Name, Grip::Subnet(subnet)));
    let ports = survey
        .forwards()?
        .into_iter()
        .map(|forward| object(Kind::Port, &forward.to_string(), Tie::Name, Grip::Forward(forward)));
    Ok(links.chain(routes).chain(ports).collect())
}

/// Directories of pods and containers, records of containers' exits in them, and sockets.
fn files(places: &Places) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for parent in places.parents() {
        for (path, name) in entries(&parent)? {
            if is_id(&name) {
                let shown = path.display().to_string();
                objects.push(object(Kind::File, &shown, Tie::Id(name), Grip::Path(path)));
            }
        }
    }
    for (directory, pod) in entries(&places.state.join("pods"))?.into_iter().filter(|(_, name)| is_id(name)) {
        for (path, name) in entries(&directory)? {
            let shown = path.display().to_string();
            if let Some(container) = name.strip_suffix(".exit").filter(|id| is_id(id)) {
                objects.push(object(Kind::File, &shown, Tie::Id(container.to_owned()), Grip::Path(path)));
            } else if is_socket(&path) {
                objects.push(object(Kind::Socket, &shown, Tie::Id(pod.clone()), Grip::None));
            }
        }
    }
    let ruins = berth_store::ruins(&places.root).into_iter().map(|path| {
        let tie = Tie::Unreadable("a database that could not be read".to_owned());
        object(Kind::File, &path.display().to_string(), tie, Grip::Path(path))
    });
    objects.extend(ruins);
    let own = ["berth.db", "berth.db-shm", "berth.db-wal", "reserve", "lock", "images", "pods", "containers"];
    let own = own.map(|name| places.root.join(name)).into_iter().chain([places.state.join("pods")]);
    objects.extend(
        own.filter(|path| path.exists())
            .map(|path| object(Kind::File, &path.display().to_string(), Tie::Agent, Grip::None)),
    );
    Ok(objects)
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn stored(places: &Places) -> Result<Vec<Object>> {
    let stored = list_stored(&places.images())?.into_iter().map(|(kind, path)| {
        let kind = match kind {
            StoredKind::Layer => Kind::Layer,
            StoredKind::Blob => Kind::Blob,
            StoredKind::Ingest => Kind::Ingest,
        };
        object(kind, &path.display().to_string(), Tie::Name, Grip::Stored(path))
    });
    Ok(stored.collect())
}

/// A handle of a namespace is owned by whoever is in it: held longer, it would keep the namespace alive.
fn descriptors(places: &Places, agent: i32, namespaces: &BTreeMap<String, Tie>) -> Vec<Object> {
    let held = fs::read_dir(format!("/proc/{agent}/fd")).into_iter().flatten().flatten();
    let held = held.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        let number = entry.file_name().to_str()?.to_owned();
        Some(object(
            Kind::Descriptor,
            &format!("{number} to {target}"),
            tie_of_target(places, &target, namespaces),
            Grip::None,
        ))
    });
    held.collect()
}

fn tie_of_target(places: &Places, target: &str, namespaces: &BTreeMap<String, Tie>) -> Tie {
    let is_namespace =
        target.split_once(":[").is_some_and(|(kind, _)| !["socket", "pipe", "anon_inode"].contains(&kind));
    if is_namespace {
        return namespaces.get(target).cloned().unwrap_or(Tie::Name);
    }
    let path = target.strip_suffix(" (deleted)").unwrap_or(target);
    let in_cgroups = path.split_once(&format!("{}/", places.cgroup_root.as_str())).map(|(_, below)| below);
    let in_files = || {
        let below = |parent| Path::new(path).strip_prefix(parent).ok()?.to_str();
        places.parents().iter().find_map(below)
    };
    let id = in_cgroups.or_else(in_files).and_then(leading_id);
    id.map_or(Tie::Agent, |id| Tie::Id(id.to_owned()))
}

/// What is in a directory, with its name; nothing where there is none.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let entries = entries.map_err(Error::file("list directory", directory))?.flatten();
            Ok(entries
                .filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
                .collect())
        }
    }
}

pub(crate) fn object(kind: Kind, name: &str, tie: Tie, grip: Grip) -> Object {
    Object { kind, name: name.to_owned(), tie, grip }
}

/// The kernel writes space, tab, newline and backslash as three octal digits. Source: proc_pid_mountinfo(5).
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (escaped, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(escaped, plain);
    }
    out
}
