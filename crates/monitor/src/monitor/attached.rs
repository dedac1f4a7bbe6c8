//! Clients that are attached to containers: they get what is written from now on, and can write to stdin or resize the
//! terminal by the descriptor that they are given.
//!
//! The descriptor for input is a copy of the one that the monitor keeps, so any number of clients can come and go. With
//! `stdin_once` the monitor gives its own away: when that client closes it, or dies, the container's input has ended.

use std::os::fd::{AsFd, OwnedFd};

use berth_sys::packet::Packet;
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::{Monitor, Outcome, other, wrong_state};
use crate::container::{Container, Phase, ReplyTo};
use crate::id::ContainerId;
use crate::protocol::{Answer, AttachEnd, Event, Failure, Message};
use crate::viewers::{MAX_VIEWERS, Viewer};

/// The streams that a client wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Monitor {
    pub(super) fn attach(
        &mut self,
        id: &ContainerId,
        wanted: Wanted,
        packet: Packet,
        reply: ReplyTo,
    ) -> Outcome {
        let container = self.find_mut(id)?;
        if !matches!(container.phase, Phase::Running { .. }) {
            return Err(wrong_state("is not running"));
        }
        let mut fds = packet.fds.into_iter();
        let (stdout, stderr) = (writer(wanted.stdout, &mut fds)?, writer(wanted.stderr, &mut fds)?);
        container.sinks.viewers.add(Viewer { owner: reply, stdout, stderr }).map_err(|_| {
            wrong_state(&format!("has {MAX_VIEWERS} attached clients, as many as it can have"))
        })?;
        match hand_out(container, wanted.stdin) {
            Ok(handle) => {
                let (tty, stdin) =
                    (container.stdio.tty, wanted.stdin && handle.is_some() && container.stdio.stdin);
                let fds: Vec<_> = handle.iter().map(AsFd::as_fd).collect();
                self.reply_with(reply, Answer::Attached { tty, stdin }, &fds);
                Ok(None)
            }
            Err(errno) => {
                self.detach(reply);
                Err(other("copy the container's input")(errno))
            }
        }
    }

    pub(super) fn detach(&mut self, owner: ReplyTo) {
        self.forget_viewers(|viewer| viewer == owner);
    }

    /// Forgets the viewers of a client that is gone.
    pub(super) fn detach_all_of(&mut self, client: u64) {
        self.forget_viewers(|viewer| viewer.client == client);
    }

    fn forget_viewers(&mut self, which: impl Fn(ReplyTo) -> bool) {
        for container in self.containers.values_mut() {
            container.sinks.viewers.forget(&which);
        }
    }

    /// Tells clients why they get nothing more.
    pub(super) fn tell_viewers(&mut self, viewers: Vec<ReplyTo>, end: AttachEnd) {
        for owner in viewers {
            let event = Event::AttachEnded { session: owner.request, end };
            self.send_to(owner.client, &Message::Event(event));
        }
    }

    /// Hands out the network namespace of a pod that has its own.
    pub(super) fn open_network(&mut self, reply: ReplyTo) {
        let namespace = self.handles.get(1).map(|handle| fcntl_dupfd_cloexec(handle, 3));
        match namespace.transpose() {
            Ok(namespace) => {
                let fds: Vec<_> = namespace.iter().map(AsFd::as_fd).collect();
                self.reply_with(reply, Answer::Done, &fds);
            }
            Err(errno) => self.reply(reply, Err(other("copy the network namespace's handle")(errno))),
        }
    }
}

/// The terminal for whoever attaches, or the input for whoever has some.
fn hand_out(container: &mut Container, input: bool) -> Result<Option<OwnedFd>, Errno> {
    let stdio = container.stdio;
    if stdio.tty || (input && !stdio.stdin_once) {
        container.stdin.as_ref().map(|fd| fcntl_dupfd_cloexec(fd, 3)).transpose()
    } else if input {
        Ok(container.stdin.take())
    } else {
        Ok(None)
    }
}

/// The next descriptor that came, if one is to be there.
fn writer(wanted: bool, fds: &mut impl Iterator<Item = OwnedFd>) -> Result<Option<OwnedFd>, Failure> {
    if !wanted {
        return Ok(None);
    }
    let missing = || Failure::Other { detail: "the request brought too few descriptors".to_owned() };
    let fd = fds.next().ok_or_else(missing)?;
    rustix::io::ioctl_fionbio(&fd, true).map_err(other("make a client's pipe not block"))?;
    Ok(Some(fd))
}
