//! The process that holds a pod's namespaces: from its clone to its rest.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use berth_sys::exec::exit_now;
use berth_sys::packet;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::groups::Group;
use super::network::route_socket;
use super::watch::{Step, Stopwatch};

/// Its word that it rests, with a netlink socket and a handle of its network namespace.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Ready(Stopwatch),
    Failed(String),
}

/// What its parent holds of the pod's network namespace.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) socket: OwnedFd,
    pub(super) namespace: OwnedFd,
}

/// Runs in the clone; never returns.
pub(super) fn become_pause(group: &Group, word: &OwnedFd, mut watch: Stopwatch) -> ! {
    watch.lap(Step::ClonePause);
    let said = match prepare(group) {
        Ok(network) => {
            let handles = [network.socket.as_fd(), network.namespace.as_fd()];
            say(word, &Word::Ready(watch), &handles)
        }
        Err(error) => say(word, &Word::Failed(format!("{error:#}")), &[]),
    };
    while said.is_ok() {
        rustix::event::pause();
    }
    exit_now(1)
}

/// Waits until it rests.
pub(super) fn hear(word: &OwnedFd, watch: &mut Stopwatch) -> Result<Network> {
    let packet = packet::receive(word)?.context("pause died before it was ready")?;
    match serde_json::from_slice(&packet.bytes)? {
        Word::Ready(its) => watch.follow(its),
        Word::Failed(why) => bail!("pause: {why}"),
    }
    watch.lap(Step::PreparePause);
    let mut fds = packet.fds.into_iter();
    let (socket, namespace) = fds.next().zip(fds.next()).context("pause gave no handles")?;
    Ok(Network { socket, namespace })
}

fn prepare(group: &Group) -> Result<Network> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    group.enter()?;
    rustix::system::sethostname(b"floor").context("set the hostname")?;
    let namespace = open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Network { socket: route_socket()?, namespace })
}

fn say(word: &OwnedFd, what: &Word, handles: &[BorrowedFd<'_>]) -> Result<()> {
    Ok(packet::send(word, &serde_json::to_vec(what)?, handles)?)
}
