//! A node with one pod, to which things happen, and which does what the states say, as the driver does with real ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_dice::Dice;

use super::rules::{Deed, Rank, Rules, Waiter};
use super::world::{Id, Monitor, World};
use crate::events::EventKind;
use crate::lifecycle::container::{self, Answer, Event, Life, Request, Stage, events_of};
use crate::lifecycle::sandbox::{self, Contact, Remedy, Silence, remedy};
use crate::lifecycle::stopping::{Due, Sight, Stopping};
use crate::record::SandboxPhase;
use crate::view::PodState;

/// An id that nothing ever has.
const NEVER: Id = Id::MAX;

/// A process did not die.
#[derive(Debug)]
pub(super) struct Unkillable;

#[derive(Debug)]
pub(super) struct Container {
    pub(super) life: Life,
    pub(super) stopping: Option<Stopping<Waiter>>,
    pub(super) name: usize,
    pub(super) is_other: bool,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) phase: SandboxPhase,
    pub(super) contact: Contact,
    /// The monitor has left an order unanswered.
    pub(super) is_silent: bool,
    pub(super) call_again: Option<Instant>,
    pub(super) is_other: bool,
    pub(super) containers: BTreeMap<Id, Container>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) now: Instant,
    pub(super) world: World,
    pub(super) rules: Rules,
    pub(super) pod: Option<Pod>,
    pub(super) ids: Id,
}

impl Node {
    pub(super) fn new() -> Self {
        Self { now: Instant::now(), world: World::new(), rules: Rules::default(), pod: None, ids: 0 }
    }

    /// Mostly one that is there; else one that has gone, or never was.
    pub(super) fn some_id(&self, dice: &mut Dice) -> Id {
        match (self.all().as_slice(), dice.below(10)) {
            (_, 0) => NEVER,
            ([], _) | (_, 1) => self.ids.saturating_sub(dice.below(5)),
            (all, _) => dice.one_of(all),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state() == Some(PodState::Ready)
    }

    pub(super) fn workload_ends(&mut self, id: Id, dice: &mut Dice) {
        self.world.end(id, dice.one_of(&[0, 1, 137]));
    }

    pub(super) fn process_goes_on(&mut self, id: Id) {
        self.world.go_on(id);
    }

    pub(super) fn hear(&mut self, dice: &mut Dice) {
        if dice.once_in(2) {
            return self.hear_all();
        }
        if self.contact() == Contact::Open
            && let Some((id, exit)) = self.world.news.pop_front()
        {
            self.take_in(id, Event::Ended(exit));
        }
    }

    pub(super) fn monitor_becomes(&mut self, monitor: Monitor) {
        if self.world.monitor == Monitor::Dead {
            return;
        }
        self.world.monitor = monitor;
        self.world.see_ends();
        let Some(pod) = self.pod.as_mut().filter(|_| monitor != Monitor::HeldUp) else { return };
        pod.is_silent = false;
        if pod.contact == Contact::Open && !self.world.has_pause {
            self.rules.pod_lost();
            self.lose_pod();
        }
    }

    pub(super) fn monitor_dies(&mut self) {
        if self.world.monitor != Monitor::Dead {
            self.world.kill_monitor();
            self.call(false);
        }
    }

    pub(super) fn pause_dies(&mut self) {
        self.world.has_pause = false;
        if self.contact() == Contact::Open && self.world.is_attended() {
            self.rules.pod_lost();
            self.lose_pod();
        }
    }

    pub(super) fn connection_breaks(&mut self, lacks_something: bool) {
        if self.contact() == Contact::Open {
            self.call(lacks_something);
        }
    }

    /// The next one has the records, and nothing else.
    pub(super) fn agent_dies(&mut self) {
        self.rules.agent_died();
        let Some(pod) = &mut self.pod else { return };
        if pod.phase == SandboxPhase::Making {
            self.pod = None;
            return;
        }
        pod.phase = read_again(&pod.phase);
        for container in pod.containers.values_mut() {
            (container.life, container.stopping) = (read_again(&container.life), None);
        }
        self.call(false);
        if self.contact() != Contact::Blocked {
            for id in self.all_in(&[Stage::HalfMade]) {
                let _ = self.tear_down(id);
            }
        }
    }

    /// Goes on to the next moment at which something is due, at most.
    pub(super) fn pass_time(&mut self, time: Duration) {
        self.hear_all();
        let Some(pod) = &self.pod else { return };
        let stops = pod.containers.values().filter_map(|container| container.stopping.as_ref());
        let next = stops.map(Stopping::next).chain(pod.call_again).min();
        let until = (self.now + time).min(next.map_or(self.now + time, |next| next.max(self.now)));
        self.world.wall_ns += (until - self.now).as_nanos() as i64;
        self.now = until;
        if pod.call_again.is_some_and(|at| at <= self.now) {
            self.call(false);
        }
        self.meet_stops();
    }

    pub(super) fn check(&mut self) {
        let ready = self.state().map(|state| state == PodState::Ready);
        self.rules.check_pod(ready);
        let containers = self.pod.iter().flat_map(|pod| &pod.containers);
        let seen = containers.filter_map(|(id, container)| Some((*id, container.life.seen()?)));
        self.rules.check_containers(seen, &self.world);
        self.rules.check_waits(self.now);
    }

    /// Nothing stands in the way any more: everybody is answered.
    pub(super) fn settle(&mut self) {
        self.monitor_becomes(Monitor::Well);
        let ids: Vec<Id> = self.world.processes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.world.go_on(id));
        // Calling the monitor, a look or two, the kill, the last patience: for each of a few containers.
        for _ in 0..100 {
            self.pass_time(Duration::from_secs(20 * 365 * 86_400));
            self.check();
            if !self.rules.is_waited_for() {
                return;
            }
        }
        panic!("somebody waits for ever");
    }
}

/// What the driver does.
impl Node {
    pub(super) fn take_in(&mut self, id: Id, event: Event) {
        let rank = match event {
            Event::Launched => Rank::Created,
            Event::Started { .. } => Rank::Running,
            Event::Ended(_) | Event::Lost { .. } => Rank::Exited,
        };
        let is_seen = self.contact() == Contact::Open && self.world.is_attended();
        assert!(!is_seen || !matches!(event, Event::Lost { .. }), "{id} is lost under its monitor's eyes");
        self.rules.came_to(id, rank);
        let Some(container) = self.container(id) else { return };
        if !container.life.take(event) {
            return;
        }
        let waiters = Stopping::released(&mut container.stopping, container.life.stage());
        let kind = container.life.seen().map(EventKind::of);
        kind.into_iter().for_each(|kind| self.rules.told(id, kind));
        for waiter in waiters {
            self.rules.answered(waiter, true, &self.world);
        }
    }

    pub(super) fn hear_all(&mut self) {
        while self.contact() == Contact::Open
            && let Some((id, exit)) = self.world.news.pop_front()
        {
            self.take_in(id, Event::Ended(exit));
        }
    }

    pub(super) fn meet_stops(&mut self) {
        for id in self.all() {
            self.meet_stop(id);
        }
    }

    pub(super) fn meet_stop(&mut self, id: Id) {
        let now = self.now;
        if self.due(id) == Some(Due::Look) {
            let is_empty = !self.world.lives(id);
            if self.stopping(id).is_some_and(|stopping| stopping.looked(is_empty, now)) {
                self.rules.note(Deed::FindEnd);
                self.lose(id);
            }
        }
        match self.due(id) {
            None | Some(Due::Look) => {}
            Some(Due::Kill) => {
                self.rules.killed(id, now);
                self.kill(id);
                let sight = sight(self.contact() == Contact::Open && !self.is_held_up());
                if let Some(stopping) = self.stopping(id) {
                    stopping.killed(sight, now);
                }
            }
            Some(Due::GiveUp) => {
                let Err(Unkillable) = self.give_up(id) else { return };
                let Some(container) = self.container(id) else { return };
                for waiter in Stopping::lives_on(&mut container.stopping, now) {
                    self.rules.given_up(id, now);
                    self.rules.answered(waiter, false, &self.world);
                }
            }
        }
    }

    pub(super) fn due(&mut self, id: Id) -> Option<Due> {
        let (now, is_seen) = (self.now, self.contact() == Contact::Open && !self.is_silent());
        self.stopping(id)?.due(sight(is_seen), now)
    }

    pub(super) fn give_up(&mut self, id: Id) -> Result<(), Unkillable> {
        if self.world.lives(id) {
            return Err(Unkillable);
        }
        if self.contact() == Contact::Open && self.world.monitor != Monitor::HeldUp {
            self.rules.monitor_given_up(id, self.now, &self.world);
            self.lose_monitor();
        } else {
            self.lose(id);
        }
        Ok(())
    }

    pub(super) fn kill(&mut self, id: Id) {
        let _ = self.speaks();
        self.world.end(id, 137);
    }

    pub(super) fn await_end(&mut self, id: Id) -> Result<(), Unkillable> {
        self.hear_all();
        match self.stage(id) {
            Stage::Created | Stage::Running if self.contact() != Contact::Open => self.lose(id),
            Stage::Created | Stage::Running => self.give_up(id)?,
            Stage::Gone | Stage::HalfMade | Stage::Exited => {}
        }
        Ok(())
    }

    pub(super) fn lose(&mut self, id: Id) {
        self.world.end(id, 137);
        let exit = self.world.processes.get(&id).and_then(|process| process.exit.clone());
        let lost = Event::Lost { at_ns: self.world.wall_ns, how: "lost" };
        self.take_in(id, exit.map_or(lost, Event::Ended));
    }

    pub(super) fn lose_pod(&mut self) {
        if let Some(pod) = &mut self.pod {
            pod.phase = pod.phase.after(sandbox::Event::Lost);
        }
    }

    pub(super) fn lose_monitor(&mut self) {
        self.rules.note(Deed::LoseMonitor);
        self.set_contact(Contact::Gone, None);
        for id in self.all_in(&[Stage::Created, Stage::Running]) {
            self.lose(id);
        }
        self.world.kill_monitor();
        self.lose_pod();
    }

    pub(super) fn call(&mut self, lacks_something: bool) {
        self.world.news.clear();
        self.rules.called(&self.world, lacks_something);
        let silence = match self.world.monitor {
            Monitor::Dead => Silence::Dead,
            Monitor::HeldUp => Silence::Hangs,
            Monitor::Foreign => Silence::OtherProtocol,
            Monitor::Well if lacks_something => Silence::HungUp,
            Monitor::Well => return self.take_over(),
        };
        match remedy(silence) {
            Remedy::Kill => self.lose_monitor(),
            Remedy::WriteOff(wait) => {
                self.rules.note(Deed::WriteOff);
                self.set_contact(Contact::Blocked, Some(self.now + wait));
                self.lose_pod();
            }
            Remedy::CallAgain(wait) => {
                self.rules.note(Deed::CallAgain);
                self.set_contact(Contact::Blocked, Some(self.now + wait));
            }
        }
    }

    pub(super) fn take_over(&mut self) {
        self.set_contact(Contact::Open, None);
        for id in self.all_in(&[Stage::Created, Stage::Running]) {
            let Some(report) = self.world.report(id) else {
                self.lose(id);
                continue;
            };
            events_of(&report).for_each(|event| self.take_in(id, event));
        }
        if !self.world.has_pause {
            self.lose_pod();
        }
    }

    pub(super) fn carry_out_stop_of_pod(&mut self) -> Result<(), Unkillable> {
        let alive = self.all_in(&[Stage::Created, Stage::Running]);
        alive.iter().for_each(|id| self.kill(*id));
        alive.into_iter().try_for_each(|id| self.await_end(id))?;
        self.world.kill_monitor();
        self.set_contact(Contact::Gone, None);
        self.rules.pod_lost();
        self.lose_pod();
        Ok(())
    }

    pub(super) fn carry_out_removal(&mut self, id: Id) -> Result<(), Unkillable> {
        if container::answer(Request::Remove, self.stage(id)) != Answer::Do {
            return Ok(());
        }
        if self.container(id).is_some_and(|container| container.life.is_alive()) {
            self.kill(id);
            self.await_end(id)?;
        }
        self.tear_down(id)
    }

    pub(super) fn tear_down(&mut self, id: Id) -> Result<(), Unkillable> {
        self.kill(id);
        if self.world.lives(id) {
            return Err(Unkillable);
        }
        self.pod.iter_mut().for_each(|pod| drop(pod.containers.remove(&id)));
        self.world.processes.remove(&id);
        self.rules.removed(id, &self.world);
        Ok(())
    }

    /// Whether the monitor takes an order; one that does not answer is not asked again.
    pub(super) fn speaks(&mut self) -> bool {
        self.note_silence();
        self.contact() == Contact::Open && !self.is_silent()
    }

    pub(super) fn note_silence(&mut self) {
        if let Some(pod) = self.pod.as_mut().filter(|_| self.world.monitor == Monitor::HeldUp) {
            pod.is_silent = pod.contact == Contact::Open;
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| pod.is_silent)
    }

    pub(super) fn is_held_up(&self) -> bool {
        self.is_silent() && self.world.monitor == Monitor::HeldUp
    }

    pub(super) fn set_contact(&mut self, contact: Contact, call_again: Option<Instant>) {
        if let Some(pod) = &mut self.pod {
            (pod.contact, pod.call_again, pod.is_silent) = (contact, call_again, false);
        }
    }

    pub(super) fn state(&self) -> Option<PodState> {
        self.pod.as_ref()?.phase.seen()
    }

    pub(super) fn contact(&self) -> Contact {
        self.pod.as_ref().map_or(Contact::Gone, |pod| pod.contact)
    }

    pub(super) fn container(&mut self, id: Id) -> Option<&mut Container> {
        self.pod.as_mut()?.containers.get_mut(&id)
    }

    pub(super) fn stopping(&mut self, id: Id) -> Option<&mut Stopping<Waiter>> {
        self.container(id)?.stopping.as_mut()
    }

    pub(super) fn stage(&self, id: Id) -> Stage {
        let container = self.pod.as_ref().and_then(|pod| pod.containers.get(&id));
        container.map_or(Stage::Gone, |container| container.life.stage())
    }

    pub(super) fn all(&self) -> Vec<Id> {
        self.pod.iter().flat_map(|pod| pod.containers.keys().copied()).collect()
    }

    pub(super) fn all_in(&self, stages: &[Stage]) -> Vec<Id> {
        self.all().into_iter().filter(|id| stages.contains(&self.stage(*id))).collect()
    }
}

fn sight(is_seen: bool) -> Sight {
    if is_seen { Sight::Seen } else { Sight::Unseen }
}

/// As the next agent finds it on record.
fn read_again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}
