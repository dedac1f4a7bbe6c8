//! The epoll of a monitor: descriptors in, tokens out.
//!
//! A registration lives as long as the open file behind it, and a child that has not come to its exec yet still
//! holds copies of the monitor's files. So closing a descriptor is not enough: each registration owns a duplicate of
//! what it watches and takes it out of the epoll by name.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

/// Events taken from the kernel at once.
const BATCH: usize = 16;

/// What is waited for; `S` says what each event means.
#[derive(Debug)]
pub(crate) struct Poller<S> {
    epoll: OwnedFd,
    sources: BTreeMap<u64, (OwnedFd, S)>,
    next_token: u64,
}

impl<S: Clone> Poller<S> {
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, sources: BTreeMap::new(), next_token: 1 })
    }

    /// Reports when `fd` can be read or its other side is closed, until it is forgotten. Returns its token, which is
    /// never used again.
    pub(crate) fn watch(&mut self, fd: impl AsFd, source: S) -> Result<u64, Errno> {
        let token = self.next_token;
        let copy = fcntl_dupfd_cloexec(fd, 3)?;
        epoll::add(&self.epoll, &copy, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        self.next_token += 1;
        self.sources.insert(token, (copy, source));
        Ok(token)
    }

    /// Forgets all sources for which `which` holds.
    pub(crate) fn forget(&mut self, which: impl Fn(u64, &S) -> bool) {
        let epoll = &self.epoll;
        self.sources.retain(|&token, (fd, source)| {
            let forget = which(token, source);
            if forget {
                let _ = epoll::delete(epoll, fd);
            }
            !forget
        });
    }

    /// Waits for the next batch of tokens, which may hold some that have been forgotten meanwhile; none once the limit
    /// has passed.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> Result<Vec<u64>, Errno> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut events = Vec::with_capacity(BATCH);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(error) => Err(error),
        }
    }

    /// What a token means; `None` when it has been forgotten.
    pub(crate) fn source(&self, token: u64) -> Option<S> {
        self.sources.get(&token).map(|(_, source)| source.clone())
    }
}
