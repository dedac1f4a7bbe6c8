//! News from containers and pause: they are ready, have failed, write, have ended.

use std::os::fd::OwnedFd;

use berth_logs::Stream;
use rustix::io::Errno;

use super::{Monitor, Source, died_early, now_ns, other, reap};
use crate::container::{Phase, ReplyTo};
use crate::fork::{Heard, hear};
use crate::id::ContainerId;
use crate::output::{Output, Pumped};
use crate::plan::PidNamespace;
use crate::poller::Poller;
use crate::protocol::{Answer, AttachEnd, Event, Exit, Failure, ResolvedUser, exit_record_path};

impl Monitor {
    /// Takes in everything that a child has said so far.
    pub(super) fn hear_container(&mut self, id: &ContainerId) {
        loop {
            let Some(container) = self.containers.get_mut(id) else {
                return;
            };
            let Some(gate) = &container.gate else { return };
            match hear(gate) {
                Heard::Nothing => return,
                Heard::Ready { user, warnings, handles } => self.container_ready(id, user, warnings, handles),
                Heard::Born(pidfd) => self.container_born(id, pidfd),
                Heard::AwaitsHooks => self.container_awaits_hooks(id),
                Heard::Failed(failure) => self.container_failed(id, failure),
                Heard::End => {
                    let (phase, is_foreign) = (container.phase.clone(), container.foreign.is_some());
                    self.close_gate(id);
                    // While it is being made or waits, the end means that the child has died: its pidfd brings the
                    // rest.
                    if let Phase::Starting { reply, at_ns } = phase {
                        self.container_runs(id, reply, at_ns);
                    }
                    if is_foreign {
                        self.reap_container(id);
                    }
                }
            }
        }
    }

    pub(super) fn close_gate(&mut self, id: &ContainerId) {
        self.poller.forget(|_, source| *source == Source::Gate(id.clone()));
        if let Some(container) = self.containers.get_mut(id) {
            container.gate = None;
        }
    }

    pub(super) fn container_runs(&mut self, id: &ContainerId, reply: ReplyTo, at_ns: i64) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.phase = Phase::Running { started_at_ns: at_ns };
        self.has_launched = true;
        let pid = container.pid();
        self.run_start_hooks(id, (reply, Answer::Started { pid, at_ns }), at_ns);
    }

    pub(super) fn container_ready(
        &mut self,
        id: &ContainerId,
        user: ResolvedUser,
        warnings: Vec<String>,
        terminal: Vec<OwnedFd>,
    ) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Phase::Launching { reply } = container.phase else {
            return;
        };
        if let Some(master) = terminal.into_iter().next() {
            let stdin = match watch_terminal(&mut self.poller, id, &master) {
                Ok(stdin) => stdin,
                // Nobody would read what it prints, and it would wait for that once the terminal is full.
                Err(errno) => {
                    container.kill();
                    return self.container_failed(id, other("watch the container's terminal")(errno));
                }
            };
            container.stdin = Some(stdin);
            container.outputs = [Some(Output::new(master, Stream::Stdout, container.log_line_bytes)), None];
        }
        container.phase = Phase::AtGate;
        container.user = user.clone();
        let pid = container.pid();
        self.reply(reply, Ok(Answer::Launched { pid, user, warnings }));
    }

    pub(super) fn container_failed(&mut self, id: &ContainerId, failure: Failure) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if let Phase::Launching { reply } | Phase::Starting { reply, .. } = container.phase {
            let behind_gate = matches!(container.phase, Phase::Starting { .. });
            container.phase = Phase::Failed { reply, failure, behind_gate };
        }
    }

    /// The first process has ended: its last words, its status, the news.
    pub(super) fn reap_container(&mut self, id: &ContainerId) {
        // What it said before its end may wait in the same batch of events.
        self.hear_container(id);
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.foreign.is_some() && matches!(container.phase, Phase::Starting { .. }) {
            // Whether it has run at all, the attendant will say; its end brings us here again.
            return self.poller.forget(|_, source| *source == Source::Child(id.clone()));
        }
        let Some(code) = reap(&container.child) else {
            return;
        };
        self.poller.forget(|_, source| source.is_of(id));
        // One that has failed has been deleted by its attendant.
        let is_deleted = matches!(container.phase, Phase::Failed { .. });
        let foreign = container.foreign.clone().filter(|_| !is_deleted);
        let midwife = container.midwife.take();
        self.conclude_container(id, code);
        // It went before the child was ready, whether that was noticed or not; another runtime's attendant may go
        // later.
        midwife.into_iter().for_each(|midwife| self.wait_for(midwife));
        if let Some(foreign) = foreign {
            self.delete_foreign(id, &foreign);
            self.reap_strangers();
        }
    }

    fn conclude_container(&mut self, id: &ContainerId, code: i32) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let oom_killed = container
            .oom_file
            .as_deref()
            .is_some_and(|file| berth_cgroup::read_oom_kills(file).is_ok_and(|n| n > 0));
        // Without a pid namespace of its own, others may have outlived the first process and hold its output open.
        if container.pid_namespace != PidNamespace::Own {
            let _ = berth_cgroup::kill_all(&container.cgroup);
        }
        let (dropped_log_bytes, log_error) = container.finish_output(&mut self.buffers);
        let (cut, viewers) = (std::mem::take(&mut container.sinks.cut), container.sinks.viewers.end());
        let start_error = None;
        let mut exit = Exit { code, at_ns: now_ns(), oom_killed, start_error, dropped_log_bytes, log_error };
        let (started_at_ns, answer) = match container.phase.clone() {
            // It never reached its gate: there has been no container.
            Phase::Launching { reply } => return self.forget_failed(id, reply, died_early()),
            Phase::Failed { reply, failure, behind_gate: false } => {
                return self.forget_failed(id, reply, failure);
            }
            // Its client has been told that it exists, so it ends like any other, whatever kept it from running.
            Phase::Failed { reply, failure, behind_gate: true } => {
                exit.start_error = Some(failure.to_string());
                (None, Some((reply, failure)))
            }
            Phase::Starting { at_ns, .. } => (Some(at_ns), None),
            Phase::Running { started_at_ns } => (Some(started_at_ns), None),
            Phase::AtGate | Phase::Exited { .. } => (None, None),
        };
        container.phase = Phase::Exited { started_at_ns, exit: exit.clone() };
        let (unwanted, outside) = (container.unwanted, container.take_outside());
        self.tell_viewers(cut, AttachEnd::TooSlow);
        self.tell_viewers(viewers, AttachEnd::Exited);
        if unwanted {
            self.containers.remove(id);
            return self.run_stop_hooks(outside, Vec::new());
        }
        self.record_exit(id, &exit);
        self.announce(Event::ContainerExited { container: id.clone(), exit });
        if let Some((reply, failure)) = answer {
            self.reply(reply, Err(failure));
        }
        self.run_stop_hooks(outside, Vec::new());
    }

    pub(super) fn forget_failed(&mut self, id: &ContainerId, reply: ReplyTo, failure: Failure) {
        let outside = self.containers.remove(id).and_then(|mut container| container.take_outside());
        self.call_off_hooks(id);
        self.run_stop_hooks(outside, vec![(reply, Err(failure))]);
    }

    /// The record is for an agent that finds no monitor to ask; that it can't be written is no reason to stop.
    pub(super) fn record_exit(&self, id: &ContainerId, exit: &Exit) {
        if let Ok(text) = serde_json::to_vec(exit) {
            let _ = std::fs::write(exit_record_path(&self.plan.directory, id), text);
        }
    }

    pub(super) fn pump(&mut self, id: &ContainerId, channel: usize) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let Some(slot) = container.outputs.get_mut(channel) else {
            return;
        };
        let Some(output) = slot else { return };
        if output.pump(&mut container.sinks, &mut self.buffers) == Pumped::End {
            output.finish(&mut container.sinks, &mut self.buffers);
            *slot = None;
            // A terminal that has hung up takes no input either.
            container.stdin = container.stdin.take().filter(|_| !container.stdio.tty);
            self.poller.forget(|_, source| *source == Source::Output(id.clone(), channel));
        }
        let cut = std::mem::take(&mut container.sinks.cut);
        self.tell_viewers(cut, AttachEnd::TooSlow);
    }

    pub(super) fn pause_exited(&mut self) {
        self.poller.forget(|_, source| *source == Source::Pause);
        if let Some(pause) = self.pause.take() {
            let _ = reap(&pause);
        }
        self.containers
            .values()
            .filter(|container| container.is_alive())
            .for_each(|container| container.kill());
        self.announce(Event::PauseExited);
    }
}

/// Has the poller tell of what a terminal has to say; returns the way to write to it.
fn watch_terminal(poller: &mut Poller<Source>, id: &ContainerId, master: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::ioctl_fionbio(master, true)?;
    poller.watch(master, Source::Output(id.clone(), 0))?;
    rustix::io::fcntl_dupfd_cloexec(master, 3)
}
