//! Lives of pods that have more to come through: a command that does not end, an agent that dies, and a sandbox that was
//! made before them.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::cri::Answer;
use berth_e2e::{Cri, Node, eventually};
use tonic::Code;

use super::client::{Goal, Life};
use super::pods::MadePod;

/// A pod in which a command is killed for taking too long.
#[derive(Debug)]
pub(crate) struct WithSlowCommand(pub(crate) MadePod);

impl Life for WithSlowCommand {
    fn step(&self, cri: &Cri, goal: Goal) -> Answer<bool> {
        if !self.0.step(cri, goal)? {
            return Ok(false);
        }
        if goal == Goal::Gone {
            return Ok(true);
        }
        let container_id = self.0.container_id(cri)?;
        let cmd = ["sleep", "1000"].map(str::to_owned).to_vec();
        match cri.exec_sync(ExecSyncRequest { container_id, cmd, timeout: 1 }) {
            Err(status) if status.code() == Code::DeadlineExceeded => Ok(true),
            Err(status) => Err(status),
            Ok(ran) => panic!("a command that does not end has: {ran:?}"),
        }
    }
}

/// A pod whose agent is killed while it runs.
#[derive(Debug)]
pub(crate) struct WithDeadAgent<'a> {
    node: &'a Node,
    pod: MadePod,
    was_killed: Cell<bool>,
}

impl<'a> WithDeadAgent<'a> {
    pub(crate) fn new(node: &'a Node, pod: MadePod) -> Self {
        Self { node, pod, was_killed: Cell::new(false) }
    }
}

impl Life for WithDeadAgent<'_> {
    fn step(&self, cri: &Cri, goal: Goal) -> Answer<bool> {
        let reached = self.pod.step(cri, goal)?;
        if reached && goal == Goal::Used && !self.was_killed.replace(true) {
            self.node.kill9();
            return Ok(false);
        }
        Ok(reached)
    }
}

/// A pod that comes when sandboxes wait, since another one has come before it.
#[derive(Debug)]
pub(crate) struct AfterAnother<'a> {
    pub(crate) node: &'a Node,
    pub(crate) other: MadePod,
    pub(crate) pod: MadePod,
}

impl AfterAnother<'_> {
    /// How many sandboxes wait on its node. They are made one after the other, so that with two of them one is ready.
    pub(crate) const SPARES: usize = 2;

    /// Waits until the spares are there, or until the step has broken, so that they may never be.
    fn await_spares(&self) {
        eventually("spare sandboxes, or a step that breaks", Duration::from_secs(20), || {
            let is_broken = fs::read_to_string(self.node.fault()).unwrap().is_empty();
            (is_broken || self.node.spares().len() == Self::SPARES).then_some(())
        });
    }
}

impl Life for AfterAnother<'_> {
    fn step(&self, cri: &Cri, goal: Goal) -> Answer<bool> {
        if goal == Goal::Gone {
            return Ok(self.pod.step(cri, goal)? && self.other.step(cri, goal)?);
        }
        if !self.other.step(cri, goal)? {
            return Ok(false);
        }
        self.await_spares();
        self.pod.step(cri, goal)
    }
}
