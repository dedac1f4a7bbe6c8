//! What clients may rely on, by the words of the CRI: a state never goes back, an end is final and told once, what
//! brings about that something is not there or does not run can be repeated, and whoever waits for a stop is answered
//! once and in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::REQUESTS;
use super::world::{Id, Monitor, World};
use crate::events::EventKind;
use crate::lifecycle::container::{Request, Stage};
use crate::lifecycle::sandbox::{self, Contact};
use crate::view::{ContainerState, Ended};

/// How long after its kill a container may be waited for.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// Longer than any grace period.
const FOREVER: Duration = Duration::from_secs(20 * 365 * 86_400);

/// What a client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Done,
    NotFound,
    /// The state does not allow it.
    Refused,
    /// Nobody can do it now.
    Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Created,
    Running,
    Exited,
}

/// A container that clients know.
#[derive(Debug)]
struct Known {
    rank: Rank,
    told: Option<EventKind>,
    end: Option<Ended>,
}

#[derive(Debug)]
struct Wait {
    id: Id,
    kill_at: Instant,
}

pub(super) type Waiter = u64;

/// What has to happen for the test to be worth something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    JoinRun,
    JoinCreate,
    LoseMonitor,
    WriteOff,
    CallAgain,
    FindEnd,
    Kill,
    GiveUp,
}

const DEEDS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Whether the pod that clients know is ready.
    ready: Option<bool>,
    known: BTreeMap<Id, Known>,
    waits: BTreeMap<Waiter, Wait>,
    /// When, by stops that are still waited for.
    killed: BTreeMap<Id, Instant>,
    waiters: Waiter,
    /// Whether the stop that was asked for last has a signal sent.
    has_to_hear: bool,
    tried: BTreeSet<(usize, usize)>,
    seen: BTreeSet<Deed>,
}

impl Rules {
    pub(super) fn check_word(
        &mut self,
        request: Request,
        id: Id,
        stage: Stage,
        contact: Contact,
        word: Word,
    ) {
        self.tried.insert((request as usize, stage as usize));
        let foreseen = self.foresee(request, id, contact);
        assert_eq!(
            word,
            foreseen,
            "{request:?} of {id}, {:?} in a pod of {:?}",
            self.known.get(&id),
            self.ready
        );
    }

    fn foresee(&self, request: Request, id: Id, contact: Contact) -> Word {
        let ends_it = matches!(request, Request::Stop | Request::Remove);
        let Some(known) = self.known.get(&id) else {
            return if ends_it { Word::Done } else { Word::NotFound };
        };
        let needs_monitor = matches!(request, Request::Start | Request::Join | Request::ReopenLog);
        let needs_ready = matches!(request, Request::Start | Request::ReopenLog);
        let fits = match request {
            Request::Start => known.rank == Rank::Created,
            Request::Join | Request::ReopenLog | Request::Stats => known.rank == Rank::Running,
            Request::Update => known.rank != Rank::Exited,
            Request::Stop | Request::Remove => true,
        };
        let is_refused = !fits || (needs_ready && self.ready != Some(true));
        match contact {
            // It is clear enough that nothing can be run in what does not run.
            Contact::Blocked if needs_monitor && (fits || request != Request::Join) => Word::Unreachable,
            Contact::Gone if needs_monitor => Word::Refused,
            Contact::Blocked | Contact::Gone | Contact::Open => {
                if is_refused {
                    Word::Refused
                } else {
                    Word::Done
                }
            }
        }
    }

    pub(super) fn check_pod_word(&self, request: sandbox::Request, contact: Contact, word: Word) {
        use sandbox::Request::{JoinContainer, PortForward, Remove, Stop, Update};
        let foreseen = match (self.ready, request) {
            (None, Stop | Remove) => Word::Done,
            (None, _) => Word::NotFound,
            (Some(_), Stop | Remove | Update) => Word::Done,
            (Some(false), PortForward) => Word::Refused,
            (Some(ready), _) => match contact {
                Contact::Blocked => Word::Unreachable,
                Contact::Gone => Word::Refused,
                Contact::Open => {
                    if ready || request == JoinContainer {
                        Word::Done
                    } else {
                        Word::Refused
                    }
                }
            },
        };
        assert_eq!(word, foreseen, "{request:?} in a pod of {:?}, {contact:?}", self.ready);
    }

    /// A second run gets the first one's pod if that is as it was asked for, and ready.
    pub(super) fn check_run(&mut self, has_same_spec: bool, joined: bool) {
        assert_eq!(joined, has_same_spec && self.ready == Some(true));
        self.seen.extend(joined.then_some(Deed::JoinRun));
    }

    /// A second create gets the first one's container, unless somebody has used it.
    pub(super) fn check_create(&mut self, id: Id, has_same_spec: bool, joined: bool) {
        assert_eq!(joined, has_same_spec && self.known[&id].rank == Rank::Created);
        self.seen.extend(joined.then_some(Deed::JoinCreate));
    }

    pub(super) fn pod_made(&mut self) {
        assert_eq!(self.ready.replace(true), None);
    }

    pub(super) fn pod_lost(&mut self) {
        self.ready = self.ready.map(|_| false);
    }

    /// The monitor is called. Only what has died or is not understood takes the pod with it.
    pub(super) fn called(&mut self, world: &World, lacks_something: bool) {
        match world.monitor {
            Monitor::Dead | Monitor::Foreign => self.pod_lost(),
            Monitor::Well if !world.has_pause && !lacks_something => self.pod_lost(),
            Monitor::Well | Monitor::HeldUp => {}
        }
    }

    pub(super) fn note(&mut self, deed: Deed) {
        self.seen.insert(deed);
    }

    pub(super) fn pod_removed(&mut self) {
        self.ready = None;
        assert!(self.known.is_empty() && self.waits.is_empty(), "a pod is gone before its containers");
    }

    pub(super) fn created(&mut self, id: Id) {
        let known = Known { rank: Rank::Created, told: None, end: None };
        assert!(self.known.insert(id, known).is_none());
    }

    pub(super) fn removed(&mut self, id: Id, world: &World) {
        self.known.remove(&id);
        assert!(!world.lives(id), "{id} is removed and lives");
    }

    /// Something has come to be known of a container: what is the furthest stays.
    pub(super) fn came_to(&mut self, id: Id, rank: Rank) {
        if let Some(known) = self.known.get_mut(&id) {
            known.rank = known.rank.max(rank);
        }
    }

    pub(super) fn told(&mut self, id: Id, kind: EventKind) {
        let known = self.known.get_mut(&id).expect("an event of a container that nobody knows");
        assert!(known.told.is_none_or(|told| (told as u8) < kind as u8), "{kind:?} after {:?}", known.told);
        known.told = Some(kind);
    }

    /// Somebody waits for a stop; one that can't hear the signal is given no time.
    pub(super) fn asks(&mut self, id: Id, grace: Duration, now: Instant) -> Waiter {
        let grace = if self.known[&id].rank == Rank::Running { grace } else { Duration::ZERO };
        self.has_to_hear = self.kill_at(id).is_none() && grace > Duration::ZERO;
        self.waiters += 1;
        self.waits.insert(self.waiters, Wait { id, kill_at: now + grace.min(FOREVER) });
        self.waiters
    }

    /// Once for a stop, and only if there is time to obey.
    pub(super) fn check_signal(&self, is_sent: bool) {
        assert_eq!(is_sent, self.has_to_hear);
    }

    /// For a stop: not before its time, and once.
    pub(super) fn killed(&mut self, id: Id, now: Instant) {
        assert!(self.kill_at(id).is_some_and(|kill_at| kill_at <= now), "{id} is killed before its time");
        assert!(self.killed.insert(id, now).is_none(), "{id} is killed twice in one stop");
        self.note(Deed::Kill);
    }

    pub(super) fn answered(&mut self, waiter: Waiter, has_ended: bool, world: &World) {
        let Wait { id, .. } = self.waits.remove(&waiter).expect("somebody is answered who does not wait");
        assert_eq!(has_ended, self.known[&id].rank == Rank::Exited, "{id}");
        let is_over = !world.lives(id) || world.is_condemned(id);
        assert!(is_over, "{id} has neither ended nor been killed");
        if self.kill_at(id).is_none() {
            self.killed.remove(&id);
        }
    }

    /// Not even the kill has helped, for long.
    pub(super) fn given_up(&mut self, id: Id, now: Instant) {
        let killed_at = self.killed.get(&id).copied();
        assert!(killed_at.is_some_and(|at| at + LAST_PATIENCE <= now), "{id} is given up too soon");
        self.note(Deed::GiveUp);
    }

    /// It does not tell of an end. One that is held up will when it goes on.
    pub(super) fn monitor_given_up(&mut self, id: Id, now: Instant, world: &World) {
        assert_ne!(world.monitor, Monitor::HeldUp, "a pod is lost for a monitor that is only held up");
        self.given_up(id, now);
        self.pod_lost();
    }

    /// With its agent goes the connection on which somebody waits.
    pub(super) fn agent_died(&mut self) {
        self.waits.clear();
        self.killed.clear();
    }

    fn kill_at(&self, id: Id) -> Option<Instant> {
        self.waits.values().filter(|wait| wait.id == id).map(|wait| wait.kill_at).min()
    }

    pub(super) fn check_pod(&self, ready: Option<bool>) {
        assert_eq!(ready, self.ready);
    }

    /// Everything that is seen, beside what is known.
    pub(super) fn check_containers<'a>(
        &mut self,
        seen: impl Iterator<Item = (Id, &'a ContainerState)>,
        world: &World,
    ) {
        let mut count = 0;
        for (id, state) in seen {
            count += 1;
            let known = self.known.get_mut(&id).expect("a container is seen that nobody made");
            let (rank, kind) = match state {
                ContainerState::Created => (Rank::Created, EventKind::Created),
                ContainerState::Running { .. } => (Rank::Running, EventKind::Started),
                ContainerState::Exited(_) => (Rank::Exited, EventKind::Stopped),
            };
            assert_eq!((rank, Some(kind)), (known.rank, known.told), "{id}");
            if let ContainerState::Exited(ended) = state
                && known.end.as_ref() != Some(ended)
            {
                assert_eq!(known.end, None, "the end of {id} changes");
                let is_in_order = ended.started_at_ns.is_none_or(|started| started <= ended.finished_at_ns);
                assert!(is_in_order, "{id} ends before it begins: {ended:?}");
                let code = world.code(id).filter(|_| ended.exit_code != 255);
                assert_eq!(ended.exit_code, code.unwrap_or(255), "{id}");
                known.end = Some(ended.clone());
            }
        }
        assert_eq!(count, self.known.len(), "a container is not seen");
    }

    pub(super) fn check_waits(&self, now: Instant) {
        for Wait { id, .. } in self.waits.values() {
            assert!(self.known.get(id).is_some_and(|known| known.rank < Rank::Exited), "{id} has ended");
            let kill_at = self.kill_at(*id).unwrap_or(now);
            assert!(now < kill_at || self.killed.contains_key(id), "{id} is not killed in time");
            assert!(now < kill_at + LAST_PATIENCE, "{id} is waited for too long");
        }
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.waits.is_empty()
    }

    pub(super) fn check_that_all_was_tried(&self) {
        let stages = [Stage::Gone, Stage::HalfMade, Stage::Created, Stage::Running, Stage::Exited];
        for request in REQUESTS {
            for stage in stages {
                assert!(self.tried.contains(&(request as usize, stage as usize)), "{request:?} in {stage:?}");
            }
        }
        assert_eq!(self.seen.len(), DEEDS, "{:?}", self.seen);
    }
}
