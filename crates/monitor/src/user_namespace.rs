//! A pod's user namespace: made with pause, entered by all that is born into the pod.
//!
//! Pause is born in it, with the pod's other new namespaces, which therefore belong to it. It has no ids until the
//! monitor, from outside, has written the two maps; then the monitor keeps a descriptor of it, which is also what
//! mounts are mapped by. Who enters it keeps the host's root as its user, with no right outside any more and all rights
//! inside, until it becomes root inside ([`become_root`]): what has to be opened by a path that only the host's root
//! may walk is opened before that, and what shall belong to the pod is made after it.
//! Source: user_namespaces(7).

use std::os::fd::OwnedFd;

use berth_sys::clone::Child;
use rustix::fs::{Gid, Mode, OFlags, Uid, open};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::idmap::IdMaps;
use crate::protocol::ResolvedUser;
use crate::stage::{Stage, StageError};

/// Gives the user namespace into which `pause` was born its ids, and takes hold of it. The child has to be unreaped, so
/// that its number can't be another's.
pub(crate) fn establish(pause: &Child, maps: &IdMaps) -> Result<OwnedFd, StageError> {
    let pid = pause.pid.as_raw_nonzero();
    for (file, line) in [("uid_map", maps.uids.line()), ("gid_map", maps.gids.line())] {
        std::fs::write(format!("/proc/{pid}/{file}"), &line).map_err(|error| StageError {
            stage: Stage::JoinPod,
            object: format!("write {:?} to {file} of the user namespace", line.trim_end()),
            errno: Errno::from_io_error(&error),
        })?;
    }
    let namespace = format!("/proc/{pid}/ns/user");
    open(&namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(StageError::at(Stage::JoinPod, namespace))
}

/// Becomes root of the user namespace that this process has entered, with all rights inside.
pub(crate) fn become_root() -> Result<(), StageError> {
    let (gid, uid) = (Gid::ROOT, Uid::ROOT);
    let switch = || {
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    };
    switch().map_err(StageError::at(Stage::JoinPod, "root of the user namespace"))
}

/// Refuses a user or group that the namespace does not have: nobody can become it.
pub(crate) fn check_user(user: &ResolvedUser, maps: &IdMaps) -> Result<(), StageError> {
    let groups = [user.gid].into_iter().chain(user.groups.iter().copied());
    let strange = std::iter::once((user.uid, maps.uids))
        .chain(groups.map(|gid| (gid, maps.gids)))
        .find(|(id, range)| range.host_id(*id).is_none());
    match strange {
        None => Ok(()),
        Some((id, range)) => {
            let object = format!("id {id} is not in the pod's user namespace, which has {}", range.length());
            Err(StageError { stage: Stage::FindUser, object, errno: None })
        }
    }
}
