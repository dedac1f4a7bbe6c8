//! What the agent orders: the answer at once, or later from what becomes of a child.

use std::os::fd::AsFd;

use berth_fault::{Point, point};
use berth_logs::LogFile;
use berth_sys::packet::Packet;
use rustix::io::Errno;

use super::attached::Wanted;
use super::{Monitor, Outcome, Source, now_ns, other, wrong_state};
use crate::container::{Container, Phase, ReplyTo};
use crate::fork::{self, Home, read_plan};
use crate::handshake::open_gate;
use crate::id::ContainerId;
use crate::plan::{LaunchPlan, PidNamespace};
use crate::poller::Poller;
use crate::protocol::{Answer, Failure, Order};

impl Monitor {
    pub(super) fn carry_out(&mut self, order: Order, packet: Packet, reply: ReplyTo) -> Outcome {
        if let Some(step) = step_of(&order) {
            step.pass()?;
        }
        match order {
            Order::Launch => self.launch(packet, reply),
            Order::Start { container } => self.start_container(&container, reply),
            Order::Signal { container, signal } => self.signal(&container, signal),
            Order::Kill { container } => self.kill(&container),
            Order::ReopenLog { container } => self.reopen_log(&container),
            Order::Forget { container } => self.forget(&container, reply),
            Order::Exec => self.exec(packet, reply),
            Order::KillExec { session } => {
                self.kill_session(ReplyTo { client: reply.client, request: session })
            }
            Order::Attach { container, stdin, stdout, stderr } => {
                self.attach(&container, Wanted { stdin, stdout, stderr }, packet, reply)
            }
            Order::Detach { session } => {
                self.detach(ReplyTo { client: reply.client, request: session });
                Ok(Some(Answer::Done))
            }
            Order::CheckLog { container } => self.check_log(&container),
            Order::Occupy { hostname } => self.occupy(&hostname),
            Order::OpenNetwork => {
                self.open_network(reply);
                Ok(None)
            }
            Order::Shutdown => {
                self.shut_down(Some(reply));
                Ok(None)
            }
        }
    }

    pub(super) fn launch(&mut self, packet: Packet, reply: ReplyTo) -> Outcome {
        let mut fds = packet.fds.into_iter();
        let plan: LaunchPlan = read_plan(fds.next())?;
        let id = plan.container.clone();
        if self.containers.contains_key(&id) {
            return Err(wrong_state("exists already"));
        }
        let pause = self.pause.as_ref().ok_or_else(|| wrong_state("has lost its pod's pause process"))?;
        let target = match &plan.pid_namespace {
            PidNamespace::Container(other) => Some(self.find(other)?.child.pidfd.as_fd()),
            PidNamespace::Pod => Some(pause.pidfd.as_fd()),
            PidNamespace::Own | PidNamespace::Host => None,
        };
        if plan.foreign.is_some() {
            self.adopt_orphans()?;
        }
        let home = Home { plan: &self.plan, pause, user_namespace: self.user_namespace.as_ref() };
        let container = fork::fork_container(&self.witness, &home, plan, target, reply)?;
        if let Err(error) = watch_container(&mut self.poller, &id, &container) {
            self.poller.forget(|_, source| source.is_of(&id));
            container.kill();
            self.wait_for(container.child);
            return Err(other("watch the container's process")(error));
        }
        self.containers.insert(id, Box::new(container));
        Ok(None)
    }

    pub(super) fn start_container(&mut self, id: &ContainerId, reply: ReplyTo) -> Outcome {
        let container = self.find_mut(id)?;
        match (&container.phase, &container.gate) {
            (Phase::AtGate, Some(gate)) => {
                open_gate(gate).map_err(|error| match error {
                    // It was killed there, and its end has not come to this monitor yet.
                    Errno::PIPE | Errno::CONNRESET => wrong_state("has exited"),
                    error => other("open the container's gate")(error),
                })?;
                container.phase = Phase::Starting { reply, at_ns: now_ns() };
                Ok(None)
            }
            (Phase::AtGate, None) | (Phase::Failed { .. } | Phase::Exited { .. }, _) => {
                Err(wrong_state("has exited"))
            }
            (Phase::Launching { .. }, _) => Err(wrong_state("is being made")),
            (Phase::Starting { .. } | Phase::Running { .. }, _) => {
                Err(wrong_state("has been started already"))
            }
        }
    }

    pub(super) fn signal(&mut self, id: &ContainerId, number: i32) -> Outcome {
        let container = self.find(id)?;
        if !container.is_alive() {
            return Err(wrong_state("has exited"));
        }
        berth_sys::clone::send_signal(&container.child.pidfd, number)
            .map_err(other("signal the container's process"))?;
        Ok(Some(Answer::Done))
    }

    pub(super) fn kill(&mut self, id: &ContainerId) -> Outcome {
        let container = self.find(id)?;
        if container.is_alive() {
            container.kill();
        }
        Ok(Some(Answer::Done))
    }

    pub(super) fn reopen_log(&mut self, id: &ContainerId) -> Outcome {
        let container = self.find_mut(id)?;
        if !container.is_alive() {
            return Err(wrong_state("has exited"));
        }
        if let Some(log) = &mut container.sinks.log {
            log.reopen().map_err(|error| Failure::Other { detail: error.to_string() })?;
        }
        Ok(Some(Answer::Done))
    }

    fn check_log(&self, id: &ContainerId) -> Outcome {
        let log = self.find(id)?.sinks.log.as_ref();
        let error = log.and_then(LogFile::last_error).map(|error| error.to_string());
        Ok(Some(Answer::Log { dropped_bytes: log.map_or(0, LogFile::dropped_bytes), error }))
    }

    pub(super) fn forget(&mut self, id: &ContainerId, reply: ReplyTo) -> Outcome {
        match self.containers.get_mut(id) {
            Some(container) if container.is_alive() => container.unwanted = true,
            _ => drop(self.containers.remove(id)),
        }
        self.call_off_hooks(id);
        Ok(self.await_stop_hooks(id, reply))
    }
}

/// The orders that are steps of a pod's life, not what goes on beside it.
fn step_of(order: &Order) -> Option<Point> {
    match order {
        Order::Launch => Some(point!("carry out launch")),
        Order::Start { .. } => Some(point!("carry out start")),
        Order::Signal { .. } => Some(point!("carry out signal")),
        Order::Kill { .. } => Some(point!("carry out kill")),
        Order::ReopenLog { .. } => Some(point!("carry out reopening of log")),
        Order::Forget { .. } => Some(point!("carry out forget")),
        Order::Exec => Some(point!("carry out exec")),
        Order::Shutdown => Some(point!("carry out shutdown")),
        Order::KillExec { .. } => Some(point!("carry out kill of command")),
        Order::Occupy { .. } => Some(point!("carry out occupation")),
        Order::Attach { .. } | Order::Detach { .. } | Order::CheckLog { .. } | Order::OpenNetwork => None,
    }
}

fn watch_container(
    poller: &mut Poller<Source>,
    id: &ContainerId,
    container: &Container,
) -> Result<(), Errno> {
    poller.watch(&container.child.pidfd, Source::Child(id.clone()))?;
    if let Some(gate) = &container.gate {
        poller.watch(gate, Source::Gate(id.clone()))?;
    }
    for (channel, output) in container.outputs.iter().enumerate() {
        if let Some(output) = output {
            poller.watch(output.source(), Source::Output(id.clone(), channel))?;
        }
    }
    Ok(())
}
