//! Everything that an agent's pods are made of, as the kernel and the disk have it, and whose each thing is.
//!
//! ```text
//! look (kernel, disk) ─objects─▶ judge ◀─owners─ records, drivers       judge ─▶ owned │ left │ missing ─▶ repair
//! ```
//! - `look`: one pass over processes, namespaces, mounts, cgroups, links and so on. It takes what carries our names and
//!   nothing else: names derive from ids of 256 random bits, so an object tells whose it is, or was.
//! - `owners`: who can own something now, and what must be there because a record says so.
//! - `judge`: pure. What has no owner is *left*; what a record wants and nobody saw is *missing*.
//! - `repair`: takes away what is left, in the order in which a pod is taken down. Every step treats absent as done. Only
//!   for somebody who asks, it also takes away what can't be read, and what belongs to that.
//! - `agent`: the inventory of an agent that runs, and what it removes when it starts; `tidy`: what it removes later;
//!   `vacant`: the inventory of a node where none runs.
//!
//! **While pods come and go.** A record is written before the first object of what it describes is made, and deleted after
//! the last is gone; sandboxes without a pod are known to the agent alone. Objects are looked at first and owners after them, so an object without an owner had lost it before
//! that. The kernel finishes some removals in its own time: what is suspect in one look counts only if it is so in another.
//!
//! **What is not ours is not here**: no process outside of our cgroups that only calls itself a monitor, no port of the
//! bridge with another name, no file that is called otherwise. A cgroup below a parent that a request named is told from
//! another runtime's by its id alone, so there only what a record knows counts.

mod agent;
mod judge;
mod look;
mod owners;
mod processes;
mod repair;
mod tidy;
mod vacant;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use berth_cgroup::CgroupPath;
use berth_net::{Forward, IfName};
use berth_store::RowKey;
use ipnet::IpNet;

use crate::error::Result;

pub use vacant::{Vacant, VacantSettings};

pub(crate) use judge::{Judged, judge};
pub(crate) use look::{Places, look};
pub(crate) use owners::Owners;
pub(crate) use repair::Keeper;

/// What a repair says of what it has taken away.
pub const REMOVED: &str = "removed";

/// How long the kernel gets to finish what it does in its own time.
const SETTLE: Duration = Duration::from_millis(300);

/// The kinds of things, in the order in which they are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A process, by its title and pid.
    Process,
    /// A namespace that is not the host's, as `/proc/PID/ns` calls it; it goes with its processes.
    Namespace,
    /// A Unix socket, by its path; it goes with its directory.
    Socket,
    /// A mount in the host's table.
    Mount,
    /// A control group.
    Cgroup,
    /// The host's end of a veth pair.
    Link,
    /// A subnet that the bridge has a gateway and the kernel a route for.
    Route,
    /// A port of the host that leads to a pod.
    Port,
    /// A directory or file below root or state.
    File,
    /// An unpacked layer of images.
    Layer,
    /// A manifest or config of images.
    Blob,
    /// A layer or blob on its way in or out.
    Ingest,
    /// The addresses of a pod.
    Lease,
    /// A row of the database.
    Row,
    /// A descriptor that the agent holds.
    Descriptor,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Namespace => "namespace",
            Self::Socket => "socket",
            Self::Mount => "mount",
            Self::Cgroup => "cgroup",
            Self::Link => "link",
            Self::Route => "route",
            Self::Port => "port",
            Self::File => "file",
            Self::Layer => "layer",
            Self::Blob => "blob",
            Self::Ingest => "ingest",
            Self::Lease => "lease",
            Self::Row => "row",
            Self::Descriptor => "descriptor",
        })
    }
}

/// Whether a thing is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Somebody owns it.
    Owned,
    /// It is there, and nobody owns it.
    Left,
    /// A record says that it is there, and it is not.
    Missing,
    /// A record that nobody understands, or what belongs to it: kept until somebody asks for a repair.
    Unreadable,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owned => "owned",
            Self::Left => "left",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
        })
    }
}

/// One thing of the inventory, for those who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Whether it is as it should be.
    pub standing: Standing,
    /// What it is.
    pub kind: Kind,
    /// Unique among its kind.
    pub name: String,
    /// Whose it is; absent for what is left.
    pub owner: Option<String>,
    /// What a repair did; absent where none was asked for.
    pub outcome: Option<String>,
}

/// What is to be done about what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// Nothing is changed.
    Report,
    /// What is left is taken away, and what can't be read.
    Repair,
}

/// Something that carries one of our names.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) tie: Tie,
    pub(crate) grip: Grip,
}

/// What an object's name says of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It is the agent's own.
    Agent,
    /// It is the pod's or container's with this id, or with an id that begins so.
    Id(String),
    /// The same, if there is such a pod or container; else it is no affair of ours.
    IfKnown(String),
    /// The owner is known by the whole name, or there is none.
    Name,
    /// A record that could not be read, with the reason.
    Unreadable(String),
}

/// How an object is taken away.
#[derive(Debug, Clone)]
pub(crate) enum Grip {
    /// Not at all, or together with another one.
    None,
    Process(i32),
    Mount(PathBuf),
    Cgroup(CgroupPath),
    Link(IfName),
    Subnet(IpNet),
    Forward(Forward),
    Path(PathBuf),
    /// In the image store.
    Stored(PathBuf),
    /// Of the owner with this id.
    Lease(String),
    Row(RowKey),
}

/// Judges twice, as the module's documentation has it: what is suspect once is dropped. The second look is the one that
/// counts; where the first finds nothing suspect there is none.
pub(crate) async fn inspect<F>(mut pass: impl FnMut() -> F) -> Result<Vec<Judged>>
where
    F: Future<Output = Result<Vec<Judged>>>,
{
    let first = pass().await?;
    let suspects: BTreeSet<_> = first.iter().filter(|judged| judged.is_suspect()).map(Judged::key).collect();
    if suspects.is_empty() {
        return Ok(first);
    }
    settle().await;
    let mut second = pass().await?;
    second.retain(|judged| !judged.is_suspect() || suspects.contains(&judged.key()));
    Ok(second)
}

/// Lets what is under way come to an end, which nobody reports.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no event to wait for: whatever is left stays as it is"
)]
async fn settle() {
    tokio::time::sleep(SETTLE).await;
}

/// Whether a text is an id of 64 hexadecimal digits.
pub(crate) fn is_id(text: &str) -> bool {
    text.parse::<berth_monitor::id::PodId>().is_ok()
}

/// The last of the ids that a path begins with, `POD/CONTAINER/…`. What lies deeper is the container's own affair, also
/// where another runtime in it gives ids to its containers.
pub(crate) fn leading_id(path: &str) -> Option<&str> {
    path.split('/').take_while(|component| is_id(component)).take(2).last()
}

/// The last component of a path that is an id.
pub(crate) fn id_in(path: &str) -> Option<&str> {
    path.rsplit('/').find(|component| is_id(component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_id_of_a_path_is_its_owner() {
        let (pod, container) = ("a".repeat(64), "b".repeat(64));
        let check = |path: &str, expected: Option<&str>| assert_eq!(id_in(path), expected, "{path}");
        check(&format!("/berth/{pod}/{container}/exec-1"), Some(&container));
        check(&format!("/berth/{pod}/sandbox"), Some(&pod));
        check("/berth/sandbox", None);
        check(&format!("/berth/{pod}0"), None);
    }

    #[test]
    fn what_a_container_makes_below_its_own_cgroup_is_its_own() {
        let (pod, container, nested) = ("a".repeat(64), "b".repeat(64), "d".repeat(64));
        let check = |path: &str, expected: Option<&str>| assert_eq!(leading_id(path), expected, "{path}");
        check(&format!("{pod}/{container}/docker/{nested}"), Some(&container));
        check(&format!("{pod}/{container}/{nested}"), Some(&container));
        check(&format!("{pod}/{container}"), Some(&container));
        check(&format!("{pod}/sandbox"), Some(&pod));
        check(&format!("inner/{pod}"), None);
        check("", None);
    }

    #[tokio::test]
    async fn what_is_suspect_only_once_is_no_finding() {
        let object =
            |name: &str| Object { kind: Kind::File, name: name.to_owned(), tie: Tie::Name, grip: Grip::None };
        let check = async |looks: [&[&str]; 2], expected: &[&str]| {
            let mut looks = looks.into_iter();
            let pass = || {
                let names = looks.next().unwrap_or_default();
                let judged = judge(names.iter().map(|name| object(name)).collect(), &Owners::default());
                std::future::ready(Ok(judged))
            };
            let found: Vec<_> =
                inspect(pass).await.unwrap().into_iter().map(|judged| judged.object.name).collect();
            assert_eq!(found, expected);
        };
        check([&["stays", "goes"], &["stays", "comes"]], &["stays"]).await;
        check([&[], &["comes"]], &[]).await;
    }
}
