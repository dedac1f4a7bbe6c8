//! Many pods at once.

use std::time::Duration;

use anyhow::Result;

use super::closed;
use super::life::{IDLE, Life, Pod, Times};
use crate::peer::Peer;

/// Pods of one runtime that run and have nothing to do. They are stopped by whoever has started them; of a run that
/// fails, the runtime's home takes them with it.
#[derive(Debug)]
pub(crate) struct Fleet<'a> {
    /// Whose.
    pub(crate) peer: &'a Peer,
    name: String,
    /// In the order in which they were asked for.
    pub(crate) pods: Vec<Pod>,
}

/// What starting or stopping many has taken.
#[derive(Debug)]
pub(crate) struct Voyage {
    /// From the first call until the last answer.
    pub(crate) took: Duration,
    /// Of every call.
    pub(crate) times: Times,
}

impl<'a> Fleet<'a> {
    /// None yet; their names will begin like this.
    pub(crate) fn new(peer: &'a Peer, name: &str) -> Self {
        Self { peer, name: name.to_owned(), pods: Vec::new() }
    }

    /// Starts more of them, so many at a time, until there are so many.
    pub(crate) fn grow(&mut self, pods: usize, callers: usize) -> Result<Voyage> {
        let known = self.pods.len();
        let (started, took) = closed(self.peer, callers, pods.saturating_sub(known), |cri, number| {
            let mut life = Life::new(self.peer, cri);
            let pod = life.start(&format!("{}-{}", self.name, known + number), IDLE)?;
            Ok((pod, life.times))
        })?;
        let (pods, times): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        self.pods.extend(pods);
        Ok(Voyage { took, times: times.concat() })
    }

    /// Stops and removes the last of them, so many at a time, until there are so many left.
    pub(crate) fn shrink(&mut self, pods: usize, callers: usize) -> Result<Voyage> {
        let gone = self.pods.split_off(pods.min(self.pods.len()));
        let (times, took) = closed(self.peer, callers, gone.len(), |cri, number| {
            let mut life = Life::new(self.peer, cri);
            life.stop(&gone[number])?;
            Ok(life.times)
        })?;
        Ok(Voyage { took, times: times.concat() })
    }
}
