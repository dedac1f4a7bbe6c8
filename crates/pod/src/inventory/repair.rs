//! Takes away what is left and what can't be read, in the order of [`Kind`](super::Kind): processes first, whose cgroups
//! and directories can't go before them, rows last. As in the way that every pod is taken down, each step treats absent
//! as done, and one that fails does not keep the others from being tried.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use berth_store::{Change, Durability, Store, with_causes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::processes::is_still;
use super::{Grip, Judged, Object, Places, Standing};
use crate::error::{Error, Result};
use crate::host::{Host, blocking};
use crate::lifecycle::stopping::DEATH_LIMIT;
use crate::record::ContainerRecord;
use crate::sandbox::remove_directory;

/// Who has a hand on what several use.
#[derive(Debug, Clone)]
pub(crate) enum Keeper {
    /// An agent that runs.
    Agent(Arc<Host>),
    /// Nobody: the database, if there is one, is all.
    Nobody(Option<Store>),
}

/// Takes everything away that is left; returns for each judged thing what was done, if anything.
pub(crate) async fn repair(places: &Places, keeper: &Keeper, judged: &[Judged]) -> Vec<Option<String>> {
    let mut outcomes = Vec::with_capacity(judged.len());
    for found in judged {
        let outcome = match found.standing {
            Standing::Left | Standing::Unreadable => Some(match remove(places, keeper, found).await {
                Ok(None) => super::REMOVED.to_owned(),
                Ok(Some(why)) => why.to_owned(),
                Err(error) => format!("not removed: {}", with_causes(&error)),
            }),
            Standing::Missing => Some("can't be made good: remove the pod".to_owned()),
            Standing::Owned => None,
        };
        outcomes.push(outcome);
    }
    outcomes
}

/// What came of a repair, by a look after it: what went together with something else is removed as well, and a row that
/// is still there is not.
pub(crate) fn settled(
    judged: &[Judged],
    outcomes: Vec<Option<String>>,
    after: &[Judged],
) -> Vec<Option<String>> {
    let stays: BTreeSet<_> = after.iter().map(Judged::key).collect();
    let settle = |(found, outcome): (&Judged, Option<String>)| {
        let is_removable = matches!(found.standing, Standing::Left | Standing::Unreadable);
        let is_there = stays.contains(&found.key());
        let is_row = found.object.kind == super::Kind::Row;
        match outcome.as_deref() {
            _ if is_removable && !is_there => Some(super::REMOVED.to_owned()),
            Some(super::REMOVED) if is_row && is_there => Some("not removed: it is there again".to_owned()),
            _ => outcome,
        }
    };
    judged.iter().zip(outcomes).map(settle).collect()
}

/// Takes one thing away; `Some` says what happens to it instead.
async fn remove(places: &Places, keeper: &Keeper, found: &Judged) -> Result<Option<&'static str>> {
    let object = &found.object;
    match (&object.grip, keeper) {
        (Grip::None, _) => return Ok(Some(without_grip(object))),
        (Grip::Stored(path), Keeper::Agent(host)) => host.images.remove_strays(vec![path.clone()]).await?,
        (Grip::Lease(owner), Keeper::Agent(host)) => host.leases().release(owner),
        (Grip::Row(row), keeper) => match keeper.store() {
            Some(store) if found.standing == Standing::Unreadable => store.discard(row.clone()).await?,
            Some(store) if row.table == <ContainerRecord as berth_store::Record>::TABLE => {
                let change = Change::new().delete::<ContainerRecord>(row.key.clone());
                store.commit(change, Durability::Process).await?;
            }
            Some(_) | None => return Ok(Some("goes with its pod")),
        },
        (Grip::Forward(forward), Keeper::Agent(host)) => {
            let (host, forward) = (host.clone(), *forward);
            let is_known = found.standing == Standing::Unreadable;
            let close = move || match is_known {
                true => host.network.unforward(&[forward]),
                false => host.network.unforward_strays(&[forward]),
            };
            blocking(close).await??;
        }
        (_, _) => {
            let (places, object) = (places.clone(), object.clone());
            blocking(move || remove_from_host(&places, &object)).await??;
        }
    }
    Ok(None)
}

impl Keeper {
    pub(crate) fn store(&self) -> Option<&Store> {
        match self {
            Self::Agent(host) => Some(&host.store),
            Self::Nobody(store) => store.as_ref(),
        }
    }
}

fn without_grip(object: &Object) -> &'static str {
    match object.kind {
        super::Kind::Descriptor => "stays until the agent starts anew, which harms no pod",
        super::Kind::Process => "killed with its cgroup",
        super::Kind::Namespace => "goes with its processes",
        super::Kind::Socket => "goes with its directory",
        super::Kind::Mount
        | super::Kind::Cgroup
        | super::Kind::Link
        | super::Kind::Route
        | super::Kind::Port
        | super::Kind::File
        | super::Kind::Layer
        | super::Kind::Blob
        | super::Kind::Ingest
        | super::Kind::Lease
        | super::Kind::Row => "can't be removed",
    }
}

/// What needs no agent. Blocks, also for processes to die.
pub(crate) fn remove_from_host(places: &Places, object: &Object) -> Result<()> {
    match &object.grip {
        Grip::Process(pid) => kill(places, *pid, object),
        Grip::Mount(point) => detach_mount(point),
        Grip::Cgroup(path) => Ok(places.cgroups.open(path).remove(DEATH_LIMIT)?),
        Grip::Link(name) => Ok(places.survey.remove_link(name)?),
        Grip::Subnet(subnet) => Ok(places.survey.remove_subnet(subnet)?),
        Grip::Forward(forward) => Ok(places.survey.remove_forwards(&[*forward])?),
        Grip::Path(path) | Grip::Stored(path) if path.is_dir() => remove_unmounted(path),
        Grip::Path(path) | Grip::Stored(path) => match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove file", path)(error))
            }
            _ => Ok(()),
        },
        Grip::None | Grip::Lease(_) | Grip::Row(_) => Ok(()),
    }
}

/// Kills a process that is still the one that was found, and waits for its end.
fn kill(places: &Places, pid: i32, object: &Object) -> Result<()> {
    let failed = |errno: Errno| Error::Spawn(errno.into());
    let Some(handle) = Pid::from_raw(pid) else { return Ok(()) };
    let pidfd = match pidfd_open(handle, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    // Looked at after it was opened: from here on the descriptor means this process and no later one of its number.
    if !is_still(places, pid, object) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let deadline = Instant::now() + DEATH_LIMIT;
    let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
        Ok(0) => Err(Error::TooLong { limit: DEATH_LIMIT }),
        _ => Ok(()),
    }
}

/// Takes the topmost mount from a point; what is mounted there is left as it is. One that is gone is fine.
fn detach_mount(point: &Path) -> Result<()> {
    match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::file("unmount", point)(errno.into())),
    }
}

/// Removes a directory in which nothing is mounted: below a mount lies what belongs to somebody else.
fn remove_unmounted(directory: &Path) -> Result<()> {
    let table = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(table).map_err(Error::file("read", table))?;
    let mut points = text.lines().filter_map(|line| line.split(' ').nth(4));
    if let Some(point) = points.find(|point| Path::new(point).starts_with(directory)) {
        return Err(Error::Mounted { point: point.into() });
    }
    remove_directory(directory)
}
