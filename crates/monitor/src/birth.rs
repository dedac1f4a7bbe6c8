//! How a container's child comes into its pod: by joining pause's namespaces or, in a pod with a user namespace, by
//! being born there.
//!
//! ```text
//! monitor ──clone3──▶ child: the host's root, in a copy of the host's mounts; opens and mounts what takes the host's rights
//!                       │ setns(pause: user, net, ipc, uts)       no right outside any more
//!                       └─clone3(CLONE_PARENT: mnt, pid)──▶ newborn: its namespaces belong to the user namespace
//! monitor ◀──Born + pidfd─────────────────────────────────────┘
//! ```
//! A mount or pid namespace belongs to the user namespace of whoever makes it, and rights in the former come from
//! rights in the latter; so both have to be made by a process that has entered the pod's, and that process cannot
//! change its own pid namespace. The newborn is the monitor's child all the same, and the one that forked it exits once
//! the monitor has been told. What is open stays open: root, volumes and devices come along as descriptors of mounts
//! that are attached nowhere.
//! Source: clone(2), mount_namespaces(7), "Restrictions on mount namespaces".

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::clone::{Cloned, NewNamespaces, SingleThreaded, clone3_sibling};
use berth_sys::exec::exit_now;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, getpid, pidfd_open, setsid};
use rustix::thread::ThreadNameSpaceType;

use crate::handshake::Gate;
use crate::hook::Cover;
use crate::idmap::IdMaps;
use crate::launch::join;
use crate::plan::{LaunchPlan, PidNamespace};
use crate::root_dir::RootDir;
use crate::rootfs;
use crate::stage::{Stage, StageError};
use crate::streams::Streams;
use crate::user_namespace::become_root;

/// What a container's child needs to come into its pod.
#[derive(Debug)]
pub(crate) struct Entrance<'a> {
    /// Pause, whose namespaces are the pod's.
    pub(crate) pause: BorrowedFd<'a>,
    /// Which of them are entered, besides those that the child was born in.
    pub(crate) namespaces: ThreadNameSpaceType,
    /// The pod's own user namespace.
    pub(crate) user: Option<PodUsers<'a>>,
}

/// A user namespace, as mounts are mapped by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodUsers<'a> {
    pub(crate) namespace: BorrowedFd<'a>,
    pub(crate) maps: &'a IdMaps,
}

/// Enters the pod with the container's root, which is attached at the plan's staging directory, and returns it as it is
/// attached afterwards. In a pod with a user namespace, another process returns than has called.
pub(crate) fn enter_pod(
    entrance: &Entrance<'_>,
    plan: &LaunchPlan,
    gate: &Gate,
    streams: &Streams,
    root: RootDir,
) -> Result<RootDir, StageError> {
    let Some(user) = &entrance.user else {
        join(entrance.pause, entrance.namespaces)?;
        return Ok(root);
    };
    streams.give_to_root_of(user.maps)?;
    let fail = || StageError::at(Stage::MountRoot, plan.rootfs.staging.display().to_string());
    let tree = rootfs::clone_tree(&root, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH).map_err(fail())?;
    join(entrance.pause, entrance.namespaces | ThreadNameSpaceType::USER)?;
    be_born(gate, plan.pid_namespace == PidNamespace::Own).map_err(StageError::at(Stage::Fork, "newborn"))?;
    // Where only the host's root may walk to, which this process is until it becomes root inside.
    let cover = Cover::find(plan).map_err(fail())?;
    if cover.is_none() {
        attach_anew(&tree, &plan.rootfs.staging).map_err(fail())?;
    }
    become_root()?;
    if let Some(cover) = cover {
        cover.lay(&plan.rootfs.staging).map_err(fail())?;
        attach_anew(&tree, &plan.rootfs.staging).map_err(fail())?;
    }
    Ok(RootDir::new(tree))
}

/// The mounts that came with the mount namespace are locked together; one that is attached in it can become its root.
fn attach_anew(tree: &OwnedFd, staging: &Path) -> Result<(), Errno> {
    let place = open(staging, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rootfs::attach(tree.as_fd(), &place, Path::new(""))
}

/// Returns in the newborn only. The pipe holds the process that bore it back until the monitor has been told: as long
/// as it lives, the monitor waits for it.
fn be_born(gate: &Gate, own_pid_namespace: bool) -> Result<(), Errno> {
    let witness = SingleThreaded::verify().ok_or(Errno::BUSY)?;
    let (told, telling) = pipe_with(PipeFlags::CLOEXEC)?;
    let namespaces = NewNamespaces { mount: true, pid: own_pid_namespace, ..NewNamespaces::default() };
    match clone3_sibling(&witness, namespaces)? {
        Cloned::Parent(_) => {
            drop(telling);
            let _ = rustix::io::read(&told, &mut [0; 1]);
            exit_now(0)
        }
        Cloned::Child => {
            gate.born(pidfd_open(getpid(), PidfdFlags::empty())?.as_fd())?;
            drop((told, telling));
            setsid().map(drop)
        }
    }
}
