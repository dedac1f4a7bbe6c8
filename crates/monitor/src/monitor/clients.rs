//! Connections: who comes, who is told what, who has gone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use berth_sys::packet;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use serde::Deserialize;

use super::{Monitor, Source};
use crate::container::ReplyTo;
use crate::fork::memfd_of;
use crate::protocol::{Answer, ContainerReport, Event, FEATURES, Failure, Hello, Message, Request, Versions};

/// How long nobody is accepted once that has failed.
const DEAF_TIME: Duration = Duration::from_secs(1);

impl Monitor {
    pub(super) fn accept(&mut self) {
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => self.greet(client),
            // Who came has left again.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => {}
            // For want of descriptors, most likely. Who came stays in the queue, of which epoll would tell without end.
            Err(_) => {
                self.poller.forget(|_, source| *source == Source::Listener);
                self.deaf_until = Some(Instant::now() + DEAF_TIME);
            }
        }
    }

    /// Listens again after a pause.
    pub(super) fn listen_again(&mut self) {
        if self.deaf_until.is_some_and(|until| until <= Instant::now()) {
            let watched = self.poller.watch(&self.listener, Source::Listener);
            self.deaf_until = watched.is_err().then(|| Instant::now() + DEAF_TIME);
        }
    }

    /// Tells a new client everything, then listens to it.
    pub(super) fn greet(&mut self, client: OwnedFd) {
        if self.try_to_greet(client).is_none() {
            self.leave_if_spare();
        }
    }

    /// `None` if it is not heard: it has gone, or this process lacks something.
    fn try_to_greet(&mut self, client: OwnedFd) -> Option<()> {
        let Versions { oldest, newest } = Versions::spoken();
        let hello = Message::Hello(Hello {
            version: newest,
            oldest: Some(oldest),
            pod: self.plan.pod.clone(),
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            pause_pid: self.pause.as_ref().map(|pause| pause.pid.as_raw_nonzero().get()),
            features: FEATURES.map(str::to_owned).to_vec(),
        });
        let reports: Vec<ContainerReport> =
            self.containers.iter().filter_map(|(id, container)| container.report(id)).collect();
        let reports = memfd_of(&reports).ok()?;
        let handles: Vec<BorrowedFd<'_>> =
            std::iter::once(&reports).chain(&self.handles).map(AsFd::as_fd).collect();
        // Who has been greeted is heard: what can't be watched, for want of descriptors say, gets no greeting.
        let token = self.poller.watch(&client, Source::Client).ok()?;
        if rustix::io::ioctl_fionbio(&client, true).is_err() || send(&client, &hello, &handles).is_err() {
            self.poller.forget(|other, _| other == token);
            return None;
        }
        self.clients.insert(token, client);
        Some(())
    }

    /// Reads and answers one request.
    pub(super) fn serve(&mut self, client: u64) {
        let Some(socket) = self.clients.get(&client) else {
            return;
        };
        let packet = match packet::receive(socket) {
            Ok(Some(packet)) => packet,
            Err(Errno::AGAIN) => return,
            Ok(None) | Err(_) => return self.disconnect(client),
        };
        let (id, order) = match serde_json::from_slice(&packet.bytes) {
            Ok(Request { id, order, version: _ }) => (id, order),
            Err(error) => return self.refuse(client, &packet.bytes, &error),
        };
        let reply = ReplyTo { client, request: id };
        match self.carry_out(order, packet, reply) {
            Ok(None) => {}
            Ok(Some(answer)) => self.reply(reply, Ok(answer)),
            Err(failure) => self.reply(reply, Err(failure)),
        }
    }

    /// Answers an order of a newer agent that this build does not know; what has not even a number ends the connection.
    pub(super) fn refuse(&mut self, client: u64, request: &[u8], error: &serde_json::Error) {
        match serde_json::from_slice(request) {
            Ok(Numbered { id }) => {
                let detail = format!("the monitor does not know the order: {error}");
                self.reply(ReplyTo { client, request: id }, Err(Failure::Other { detail }));
            }
            Err(_) => self.disconnect(client),
        }
    }

    /// Forgets a client; its exec sessions have lost their only reader and are killed.
    pub(super) fn disconnect(&mut self, client: u64) {
        self.poller.forget(|token, _| token == client);
        self.clients.remove(&client);
        for session in self.sessions.values().filter(|session| session.owner.client == client) {
            session.kill();
        }
        self.detach_all_of(client);
        self.leave_if_spare();
    }

    pub(super) fn reply(&mut self, to: ReplyTo, result: Result<Answer, Failure>) {
        self.send_to(to.client, &Message::Reply { id: to.request, result });
    }

    /// A good answer with what is handed out.
    pub(super) fn reply_with(&mut self, to: ReplyTo, answer: Answer, fds: &[BorrowedFd<'_>]) {
        let message = Message::Reply { id: to.request, result: Ok(answer) };
        let Some(socket) = self.clients.get(&to.client) else {
            return;
        };
        if send(socket, &message, fds).is_err() {
            self.disconnect(to.client);
        }
    }

    pub(super) fn send_to(&mut self, client: u64, message: &Message) {
        let Some(socket) = self.clients.get(&client) else {
            return;
        };
        if send(socket, message, &[]).is_err() {
            self.disconnect(client);
        }
    }

    pub(super) fn announce(&mut self, event: Event) {
        let message = Message::Event(event);
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        clients.into_iter().for_each(|client| self.send_to(client, &message));
    }
}

/// What every request has, whatever it orders.
#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

fn send(socket: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    packet::send(socket, &bytes, fds)
}
