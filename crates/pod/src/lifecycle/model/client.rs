//! What clients ask of a [`Node`], and what they are answered.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_dice::Dice;

use super::node::{Container, Node, Pod};
use super::rules::Word;
use super::world::{Id, Monitor};
use crate::lifecycle::Again;
use crate::lifecycle::container::{self, Answer, Event, Life, Request, Stage, create_again};
use crate::lifecycle::sandbox::{self, Contact, run_again};
use crate::lifecycle::stopping::{Opening, Stopping};
use crate::record::SandboxPhase;

impl Node {
    pub(super) fn run(&mut self, is_other: bool) {
        match &self.pod {
            None => {
                self.pod = Some(Pod {
                    phase: SandboxPhase::Making,
                    contact: Contact::Gone,
                    is_silent: false,
                    call_again: None,
                    is_other,
                    containers: BTreeMap::new(),
                });
            }
            // It is waited for.
            Some(pod) if pod.phase == SandboxPhase::Making => {}
            Some(pod) => {
                let again = run_again(pod.is_other == is_other, pod.phase.seen());
                self.rules.check_run(pod.is_other == is_other, again == Again::Same);
            }
        }
    }

    pub(super) fn finish_run(&mut self, dice: &mut Dice) {
        let Some(pod) = self.pod.as_mut().filter(|pod| pod.phase == SandboxPhase::Making) else { return };
        if dice.once_in(5) {
            // What was lost on the way makes no pod of it that clients see.
            pod.phase = pod.phase.after(sandbox::Event::Lost);
            self.check();
            self.pod = None;
            return;
        }
        (pod.phase, pod.contact) = (pod.phase.after(sandbox::Event::Made), Contact::Open);
        (self.world.monitor, self.world.has_pause) = (Monitor::Well, true);
        self.rules.pod_made();
    }

    pub(super) fn ask_pod(&mut self, request: sandbox::Request) {
        let word = self.pod_word(request);
        self.rules.check_pod_word(request, self.contact(), word);
    }

    pub(super) fn stop_pod(&mut self) {
        if self.state().is_some() {
            let _ = self.carry_out_stop_of_pod();
        }
    }

    pub(super) fn remove_pod(&mut self) {
        if self.state().is_some() && self.carry_out_stop_of_pod().is_ok() {
            let mut ids = self.all().into_iter();
            if ids.all(|id| self.carry_out_removal(id).is_ok()) {
                // The kernel may have yet to let go of something.
                let phase = self.pod.take().map(|pod| pod.phase.after(sandbox::Event::Removed));
                assert_eq!(phase.and_then(SandboxPhase::seen), None);
                self.rules.pod_removed();
            }
        }
    }

    pub(super) fn create(&mut self, name: usize, is_other: bool, dice: &mut Dice) {
        self.ask_pod(sandbox::Request::CreateContainer);
        if self.pod_word(sandbox::Request::CreateContainer) != Word::Done {
            return;
        }
        let half_made: Vec<Id> = self.all_in(&[Stage::HalfMade]);
        if half_made.into_iter().any(|id| self.tear_down(id).is_err()) {
            return;
        }
        let Some(pod) = &mut self.pod else { return };
        if let Some((id, existing)) = pod.containers.iter().find(|(_, container)| container.name == name) {
            let again = create_again(existing.is_other == is_other, existing.life.stage());
            self.rules.check_create(*id, existing.is_other == is_other, again == Again::Same);
            return;
        }
        self.ids += 1;
        let (id, life) = (self.ids, Life::default());
        pod.containers.insert(id, Container { life, stopping: None, name, is_other });
        let does_not_answer = self.world.monitor == Monitor::HeldUp;
        if does_not_answer || dice.once_in(6) {
            if dice.once_in(2) {
                self.world.launch(id, true);
            }
            self.note_silence();
            // It can't always be taken down at once.
            if dice.once_in(2) {
                let _ = self.tear_down(id);
            }
            return;
        }
        self.world.launch(id, dice.once_in(2));
        self.rules.created(id);
        self.take_in(id, Event::Launched);
    }

    pub(super) fn start(&mut self, id: Id, dice: &mut Dice) {
        if self.ask(Request::Start, id) != Word::Done {
            return;
        }
        if self.world.monitor == Monitor::HeldUp {
            self.note_silence();
            self.kill(id);
            return self.hear_all();
        }
        let wall_ns = self.world.wall_ns;
        let Some(process) = self.world.processes.get_mut(&id).filter(|process| process.lives) else {
            return self.hear_all();
        };
        if dice.once_in(6) {
            // Its program can't be executed: the end comes before the answer.
            self.world.end(id, 128);
            return self.hear_all();
        }
        process.started_at_ns = Some(wall_ns);
        if dice.once_in(8) {
            return self.connection_breaks(dice.once_in(2));
        }
        self.take_in(id, Event::Started { at_ns: wall_ns });
    }

    pub(super) fn stop(&mut self, id: Id, grace: Duration, dice: &mut Dice) {
        self.ask(Request::Stop, id);
        let stage = self.seen_stage(id);
        if container::answer(Request::Stop, stage) != Answer::Do {
            return;
        }
        let waiter = self.rules.asks(id, grace, self.now);
        let now = self.now;
        let Some(container) = self.container(id) else { return };
        let opening = Stopping::ask(&mut container.stopping, stage, grace, now, waiter);
        self.rules.check_signal(opening == Opening::Signal);
        if opening == Opening::Signal {
            let is_heard = self.speaks();
            if self.world.processes.get(&id).is_some_and(|process| process.obeys) && dice.once_in(2) {
                self.world.end(id, 143);
            }
            if !is_heard && let Some(stopping) = self.stopping(id) {
                stopping.went_unheard(now);
            }
        }
        self.meet_stops();
    }

    pub(super) fn remove(&mut self, id: Id) {
        self.ask(Request::Remove, id);
        if self.seen_stage(id) != Stage::Gone {
            let _ = self.carry_out_removal(id);
        }
    }

    /// What a request is answered before anything is done.
    pub(super) fn ask(&mut self, request: Request, id: Id) -> Word {
        let stage = self.stage(id);
        let by_container = word_of(container::answer(request, stage));
        let by_pod = match request {
            Request::Start => self.pod_word(sandbox::Request::StartContainer),
            Request::ReopenLog => self.pod_word(sandbox::Request::ReopenLog),
            Request::Join => self.pod_word(sandbox::Request::JoinContainer),
            Request::Stop | Request::Remove | Request::Update | Request::Stats => Word::Done,
        };
        let word = match (request, by_pod, by_container) {
            (_, _, Word::NotFound) => Word::NotFound,
            (Request::Join, _, Word::Refused) | (_, Word::Done, _) => by_container,
            _ => by_pod,
        };
        self.rules.check_word(request, id, stage, self.contact(), word);
        word
    }

    fn pod_word(&self, request: sandbox::Request) -> Word {
        match sandbox::answer(request, self.state(), self.contact()) {
            sandbox::Answer::Do | sandbox::Answer::Done => Word::Done,
            sandbox::Answer::NotFound => Word::NotFound,
            sandbox::Answer::OutOfReach => Word::Unreachable,
            sandbox::Answer::Refused => Word::Refused,
        }
    }

    /// As clients know it.
    fn seen_stage(&self, id: Id) -> Stage {
        Some(self.stage(id)).filter(|stage| *stage != Stage::HalfMade).unwrap_or(Stage::Gone)
    }
}

fn word_of(answer: Answer) -> Word {
    match answer {
        Answer::Do | Answer::Done => Word::Done,
        Answer::NotFound => Word::NotFound,
        Answer::Refused(_) => Word::Refused,
    }
}
