//! What happens to pods and containers, as a stream for any number of listeners (CRI `GetContainerEvents`).
//!
//! Every event carries the view of its pod as of that event, so that a status is never older than its news. The time of
//! an event is later than that of every event before it, whatever the node's clock does. Drivers tell in the order in
//! which things happen, so the news of one container, and of one pod, keep their order.
//!
//! ```text
//!  driver ──tell──▶ [ 41 | 42 | 43 | 44 ]   a ring of the last KEPT events, numbered
//!                      ▲           ▲
//!              slow listener   fast listener            each with its own place in it
//! ```
//! Nothing is dropped in silence. A listener that the ring has overtaken gets [`Heard::Resync`]: the state of
//! everything as it is, and the names of what has gone meanwhile; then it goes on from there. A listener that says who
//! it is, and hangs up, finds the place where it was if it comes back within [`PLACE_KEPT`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use berth_monitor::id::PodId;
use tokio::sync::watch;

use crate::clock;
use crate::view::{ContainerState, PodState, PodView, Snapshot};

/// Events kept for slow listeners.
const KEPT: usize = 1024;
/// Names of what has gone, kept for listeners that are slower still.
const GONE_KEPT: usize = 8192;
/// How long, and for how many listeners that hung up, their place is kept.
const PLACE_KEPT: Duration = Duration::from_secs(300);
const PLACES_KEPT: usize = 64;

/// One piece of news.
#[derive(Debug, Clone)]
pub struct PodEvent {
    /// The container, or the pod itself (CRI uses one field for both).
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
    /// The pod as it was then; `None` once it is gone.
    pub pod: Option<Arc<PodView>>,
}

/// CRI `ContainerEventType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It has been made.
    Created,
    /// It runs.
    Started,
    /// It has ended.
    Stopped,
    /// It has been removed.
    Deleted,
}

/// The next thing that a listener hears.
#[derive(Debug)]
pub enum Heard {
    /// News.
    Event(PodEvent),
    /// Too much has happened to tell all of it: these events say how things stand now. What happens from then on
    /// follows.
    Resync(Vec<PodEvent>),
    /// Not even how things stand can be told whole, since too much has gone: the listener has to start over.
    Lost,
}

/// Who listens: a process, by its id and its start, since ids are used again. The same process that comes back is the
/// same listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerId {
    pid: i32,
    /// In ticks since the kernel's.
    started: u64,
}

impl ListenerId {
    /// The process with this id as the kernel gives it for the other end of a socket; `None` for one that is gone, or
    /// that this pid namespace can't see, for which the kernel says zero. Reads a file of the kernel's.
    pub fn of(pid: i32) -> Option<Self> {
        let started = started_at(u32::try_from(pid).ok()?)?;
        (pid > 0).then_some(Self { pid, started })
    }
}

/// When a process was started, in ticks since the kernel was; `None` for one that is gone.
pub(crate) fn started_at(pid: u32) -> Option<u64> {
    started(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The 22nd field of a process's `stat`. The second one, its name in parentheses, may hold anything. Source:
/// proc_pid_stat(5).
fn started(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(22 - 3)?.parse().ok()
}

/// A listener.
#[derive(Debug)]
pub struct Events {
    feed: EventFeed,
    who: Option<ListenerId>,
    /// The number of the event to hear next.
    next: u64,
    told: watch::Receiver<u64>,
}

impl Events {
    /// Waits for the next. Safe to drop midway.
    pub async fn next(&mut self) -> Heard {
        loop {
            // Marks as seen first, so that whatever is told from here on ends the wait below.
            self.told.borrow_and_update();
            if let Some((heard, next)) = self.feed.hear(self.next) {
                self.next = next;
                return heard;
            }
            // The sender lives in the feed.
            let _ = self.told.changed().await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(who) = self.who {
            let mut ring = self.feed.ring();
            ring.listening.retain(|other| *other != who);
            ring.keep_place(Place { who, next: self.next, at: Instant::now() });
        }
    }
}

impl EventKind {
    /// What tells that a container has come so far.
    pub(crate) fn of(state: &ContainerState) -> Self {
        match state {
            ContainerState::Created => Self::Created,
            ContainerState::Running { .. } => Self::Started,
            ContainerState::Exited(_) => Self::Stopped,
        }
    }
}

/// Where drivers tell; clones are the same feed.
#[derive(Debug, Clone)]
pub(crate) struct EventFeed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The number of the next event.
    told: watch::Sender<u64>,
    published: Arc<ArcSwap<Snapshot>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The number of the first event that is kept.
    first: u64,
    events: VecDeque<PodEvent>,
    /// Everything that has gone since the event with this number is among the gone.
    gone_since: u64,
    gone: VecDeque<Gone>,
    places: VecDeque<Place>,
    /// Who listens just now, but for those that are nobody in particular.
    listening: Vec<ListenerId>,
}

#[derive(Debug)]
struct Gone {
    number: u64,
    id: String,
    pod: PodId,
}

#[derive(Debug)]
struct Place {
    who: ListenerId,
    next: u64,
    at: Instant,
}

impl EventFeed {
    /// A feed about the pods that are published there.
    pub(crate) fn new(published: Arc<ArcSwap<Snapshot>>) -> Self {
        Self(Arc::new(Shared { ring: Mutex::default(), told: watch::Sender::new(0), published }))
    }

    /// Tells all listeners; that there are none is no error. The pod has been published as it is after the event.
    pub(crate) fn tell(&self, id: String, kind: EventKind, pod: &PodId) {
        let mut ring = self.ring();
        if kind == EventKind::Deleted {
            ring.remember_gone(&id, pod);
        }
        let pod = self.0.published.load().pods.get(pod).cloned();
        ring.push(PodEvent { id, kind, at_ns: clock::monotone_ns(), pod });
        let next = ring.next();
        drop(ring);
        self.0.told.send_replace(next);
    }

    /// A listener for all that comes from now on, and before it for what it has missed since it hung up. Beside one
    /// that listens already, a second of the same process is nobody in particular: no place of theirs is the other's.
    pub(crate) fn subscribe(&self, who: Option<ListenerId>) -> Events {
        let mut ring = self.ring();
        let who = who.filter(|who| !ring.listening.contains(who));
        ring.listening.extend(who);
        let place = who.and_then(|who| ring.find_place(who));
        let next = place.unwrap_or_else(|| ring.next());
        Events { feed: self.clone(), who, next, told: self.0.told.subscribe() }
    }

    /// What a listener hears that has heard all before `next`, and where it stands then; `None` if there is nothing
    /// yet.
    fn hear(&self, next: u64) -> Option<(Heard, u64)> {
        let ring = self.ring();
        if next >= ring.next() {
            return None;
        }
        let Some(index) = next.checked_sub(ring.first) else {
            let heard = match next >= ring.gone_since {
                true => Heard::Resync(self.state(&ring, next)),
                false => Heard::Lost,
            };
            return Some((heard, ring.next()));
        };
        let event = ring.events.get(usize::try_from(index).ok()?)?.clone();
        Some((Heard::Event(event), next + 1))
    }

    /// How everything stands, as events: what has gone since the event `since`, then what there is.
    ///
    /// The ring is locked meanwhile. So at most one change of each pod that is seen here is still to be told, and
    /// hearing of that twice turns no order around.
    fn state(&self, ring: &Ring, since: u64) -> Vec<PodEvent> {
        // Taken first: the state is at least as new.
        let at_ns = clock::monotone_ns();
        let snapshot = self.0.published.load();
        let mut events = Vec::new();
        for gone in ring.gone.iter().filter(|gone| gone.number >= since) {
            let pod = snapshot.pods.get(&gone.pod).cloned();
            events.push(PodEvent { id: gone.id.clone(), kind: EventKind::Deleted, at_ns, pod });
        }
        for pod in snapshot.pods.values() {
            let mut push =
                |id: String, kind| events.push(PodEvent { id, kind, at_ns, pod: Some(pod.clone()) });
            push(
                pod.id.to_string(),
                match pod.state {
                    PodState::Ready => EventKind::Started,
                    PodState::NotReady => EventKind::Stopped,
                },
            );
            for container in pod.containers.values() {
                push(container.id.to_string(), EventKind::of(&container.state));
            }
        }
        events
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// The number of the next event.
    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn push(&mut self, event: PodEvent) {
        if self.events.len() == KEPT {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(event);
    }

    fn remember_gone(&mut self, id: &str, pod: &PodId) {
        if self.gone.len() == GONE_KEPT
            && let Some(oldest) = self.gone.pop_front()
        {
            self.gone_since = oldest.number + 1;
        }
        self.gone.push_back(Gone { number: self.next(), id: id.to_owned(), pod: pod.clone() });
    }

    fn keep_place(&mut self, place: Place) {
        if self.places.len() == PLACES_KEPT {
            self.places.pop_front();
        }
        self.places.push_back(place);
    }

    /// Where a listener was when it hung up last; its places are used up with that.
    fn find_place(&mut self, who: ListenerId) -> Option<u64> {
        self.places.retain(|place| place.at.elapsed() < PLACE_KEPT);
        let next = self.places.iter().rev().find(|place| place.who == who).map(|place| place.next);
        self.places.retain(|place| place.who != who);
        next
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A feed about no pods yet, and a pod.
    fn feed() -> (EventFeed, PodId) {
        (EventFeed::new(Arc::default()), PodId::from_random([1; 32]))
    }

    fn process(pid: i32) -> Option<ListenerId> {
        Some(ListenerId { pid, started: 1 })
    }

    /// What a listener hears without waiting, in short.
    fn heard(events: &mut Events) -> Vec<String> {
        let mut heard = Vec::new();
        while let Some(next) = events.next().now_or_never() {
            let short = |event: &PodEvent| format!("{:?} {}", event.kind, event.id);
            match next {
                Heard::Event(event) => heard.push(short(&event)),
                Heard::Resync(state) => heard.push(format!("Resync of {}", state.len())),
                Heard::Lost => heard.push("Lost".to_owned()),
            }
        }
        heard
    }

    fn numbered(kind: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers.map(|number| format!("{kind} {number}")).collect()
    }

    #[test]
    fn every_listener_hears_everything_in_order() {
        let (feed, pod) = feed();
        let mut listeners = [(); 3].map(|()| feed.subscribe(None));
        for number in 0..KEPT {
            feed.tell(number.to_string(), EventKind::Created, &pod);
        }
        for listener in &mut listeners {
            assert_eq!(heard(listener), numbered("Created", 0..KEPT));
        }
        assert!(heard(&mut feed.subscribe(None)).is_empty(), "what was before is not told");
    }

    #[test]
    fn times_only_rise() {
        let (feed, pod) = feed();
        let mut listener = feed.subscribe(None);
        for _ in 0..100 {
            feed.tell("a".to_owned(), EventKind::Started, &pod);
        }
        let mut last_ns = 0;
        for _ in 0..100 {
            let Some(Heard::Event(event)) = listener.next().now_or_never() else { panic!("an event") };
            assert!(event.at_ns > last_ns, "{} {last_ns}", event.at_ns);
            last_ns = event.at_ns;
        }
    }

    #[test]
    fn one_that_was_overtaken_learns_how_things_stand_and_goes_on() {
        let (feed, pod) = feed();
        let mut slow = feed.subscribe(None);
        let mut fast = feed.subscribe(None);
        feed.tell("gone".to_owned(), EventKind::Deleted, &pod);
        for number in 0..KEPT {
            feed.tell(number.to_string(), EventKind::Created, &pod);
            assert_eq!(heard(&mut fast).len(), if number == 0 { 2 } else { 1 });
        }
        // There are no pods: the state is that one thing has gone.
        assert_eq!(heard(&mut slow), ["Resync of 1"]);
        feed.tell("next".to_owned(), EventKind::Created, &pod);
        assert_eq!(heard(&mut slow), ["Created next"]);
    }

    #[test]
    fn one_that_missed_more_than_can_be_told_is_told_so() {
        let (feed, pod) = feed();
        let mut slow = feed.subscribe(None);
        for number in 0..=GONE_KEPT {
            feed.tell(number.to_string(), EventKind::Deleted, &pod);
        }
        assert_eq!(heard(&mut slow), ["Lost"]);
        assert!(feed.ring().gone.len() == GONE_KEPT && feed.ring().events.len() == KEPT);
    }

    #[test]
    fn one_that_comes_back_hears_what_it_missed() {
        let (feed, pod) = feed();
        let mut known = feed.subscribe(process(7));
        feed.tell("a".to_owned(), EventKind::Created, &pod);
        assert_eq!(heard(&mut known), ["Created a"]);
        drop(known);
        feed.tell("b".to_owned(), EventKind::Created, &pod);
        assert!(heard(&mut feed.subscribe(process(8))).is_empty(), "another process");
        assert!(heard(&mut feed.subscribe(None)).is_empty(), "nobody in particular");
        let later = Some(ListenerId { pid: 7, started: 2 });
        assert!(heard(&mut feed.subscribe(later)).is_empty(), "another process with the same id");
        assert_eq!(heard(&mut feed.subscribe(process(7))), ["Created b"]);
        // It hung up once more, with nothing left to hear.
        assert!(heard(&mut feed.subscribe(process(7))).is_empty());
    }

    #[test]
    fn a_second_stream_of_a_process_does_not_take_the_firsts_place() {
        let (feed, pod) = feed();
        let first = feed.subscribe(process(7));
        let mut second = feed.subscribe(process(7));
        feed.tell("a".to_owned(), EventKind::Created, &pod);
        assert_eq!(heard(&mut second), ["Created a"]);
        drop(first);
        drop(second);
        assert_eq!(heard(&mut feed.subscribe(process(7))), ["Created a"]);
        assert!(feed.ring().listening.is_empty());
    }

    #[test]
    fn a_process_is_known_by_its_id_and_its_start() {
        let own = ListenerId::of(std::process::id().cast_signed());
        assert!(own.is_some_and(|own| own.started > 0));
        assert_eq!((ListenerId::of(0), ListenerId::of(-1)), (None, None));
        let fields: Vec<String> = (3..=30).map(|number| number.to_string()).collect();
        assert_eq!(started(&format!("7 (a ) b) {}", fields.join(" "))), Some(22));
        assert_eq!(started("7 (a) S"), None);
    }

    #[test]
    fn places_are_bounded() {
        let (feed, _) = feed();
        for who in 0..1000 {
            drop(feed.subscribe(process(who)));
        }
        assert_eq!(feed.ring().places.len(), PLACES_KEPT);
    }

    #[tokio::test]
    async fn a_listener_that_waits_is_woken() {
        let (feed, pod) = feed();
        let mut listener = feed.subscribe(None);
        let waiting = tokio::spawn(async move { listener.next().await });
        tokio::task::yield_now().await;
        feed.tell("a".to_owned(), EventKind::Created, &pod);
        assert!(matches!(waiting.await.unwrap(), Heard::Event(event) if event.id == "a"));
    }
}
