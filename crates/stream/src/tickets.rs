//! Tickets: each is a request of the API that waits for its client under a random token, to be used once and soon.
//!
//! A token is all that a client needs: who knows it may do what was asked for, and nothing else. It is as long as a key
//! (128 bits), so it can't be guessed by others on the machine. Expired sessions are dropped when another is
//! registered, so that no task has to look after them. Each has its place from here on ([`crate::places`]), so their
//! number is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::Instant;

use crate::places::{Bounds, Place, Places};
use crate::{AttachRequest, Error, ExecRequest, PortForwardRequest};

/// How long a client may take to come. A kubelet comes at once.
const LIFETIME: Duration = Duration::from_secs(60);

/// How many tokens that have been used may be remembered.
const MAX_USED: usize = 1000;

const TOKEN_BYTES: usize = 16;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a command.
    Exec(ExecRequest),
    /// Join a container.
    Attach(AttachRequest),
    /// Connect to ports of a pod.
    PortForward(PortForwardRequest),
}

/// The sessions that wait for their clients; a cheap handle to share.
#[derive(Debug, Clone)]
pub struct Tickets {
    waiting: Arc<Mutex<Waiting>>,
    places: Arc<Places>,
    /// Scheme, host and port, without a slash at the end.
    base: Arc<str>,
}

#[derive(Debug, Default)]
struct Waiting {
    tickets: HashMap<String, Ticket>,
    /// Tokens in the order in which they expire; may name some that have been used.
    order: VecDeque<(Instant, String)>,
}

/// What a client gets for its token: a session.
#[derive(Debug)]
struct Ticket {
    expiry: Instant,
    request: Request,
    place: Place,
}

impl Request {
    /// The first part of the path under which its session is found.
    pub(crate) fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }

    /// The id of the container or pod that it is about.
    fn owner(&self) -> &str {
        match self {
            Self::Exec(request) => &request.container,
            Self::Attach(request) => &request.container,
            Self::PortForward(request) => &request.pod,
        }
    }
}

impl Tickets {
    pub(crate) fn new(base: &str, bounds: Bounds) -> Self {
        Self { waiting: Arc::default(), places: Arc::new(Places::new(bounds)), base: base.into() }
    }

    /// Makes a session wait for its client, for a minute, and answers with the URL to come to.
    ///
    /// # Errors
    /// There are too many ([`Error::TooManySessions`]), of all or of this container or pod
    /// ([`Error::TooManySessionsOfOne`]), or there are no random bytes.
    pub fn register(&self, request: Request) -> Result<String, Error> {
        let token = random_token()?;
        let url = format!("{}/{}/{token}", self.base, request.path());
        let now = Instant::now();
        let mut waiting = self.lock();
        waiting.drop_expired(now);
        let place = self.places.take(request.owner())?;
        let expiry = now + LIFETIME;
        waiting.order.push_back((expiry, token.clone()));
        waiting.tickets.insert(token, Ticket { expiry, request, place });
        Ok(url)
    }

    /// Takes the session of a token out, and its place. A token that is asked for under a wrong path is gone as well.
    pub(crate) fn take(&self, path: &str, token: &str) -> Option<(Request, Place)> {
        let Ticket { expiry, request, place } = self.lock().tickets.remove(token)?;
        (Instant::now() < expiry && request.path() == path).then_some((request, place))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn drop_expired(&mut self, now: Instant) {
        while let Some((_, token)) = self.order.front().filter(|(expiry, _)| *expiry <= now) {
            self.tickets.remove(token);
            self.order.pop_front();
        }
        // Those that were used leave the order when their turn comes, or here before they pile up.
        if self.order.len() > self.tickets.len() + MAX_USED {
            self.order.retain(|(_, token)| self.tickets.contains_key(token));
        }
    }
}

fn random_token() -> Result<String, Error> {
    let mut bytes = [0; TOKEN_BYTES];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty());
    let filled = filled.map_err(|errno| Error::Token { source: errno.into() })?;
    // The kernel fills so few bytes whole; should it ever not, a guessable token is worse than an error.
    if filled != TOKEN_BYTES {
        return Err(Error::Token { source: std::io::ErrorKind::UnexpectedEof.into() });
    }
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { all: 10, of_one: 2 };

    fn request(pod: usize) -> Request {
        Request::PortForward(PortForwardRequest { pod: pod.to_string(), ports: vec![] })
    }

    /// What a token gives, and back with the place.
    fn take(tickets: &Tickets, path: &str, url: &str) -> Option<Request> {
        tickets.take(path, token(url)).map(|(request, _)| request)
    }

    fn token(url: &str) -> &str {
        url.rsplit('/').next().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_works_once_and_under_its_own_path_only() {
        let tickets = Tickets::new("http://h:1", BOUNDS);
        let url = tickets.register(request(1)).unwrap();
        assert!(url.starts_with("http://h:1/portforward/"), "{url}");
        assert_eq!(take(&tickets, "portforward", &url), Some(request(1)));
        assert_eq!(take(&tickets, "portforward", &url), None);

        let url = tickets.register(request(2)).unwrap();
        assert_eq!(take(&tickets, "exec", &url), None);
        assert_eq!(take(&tickets, "portforward", &url), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_expires_whether_or_not_another_comes() {
        let tickets = Tickets::new("", BOUNDS);
        let (early, late) = (tickets.register(request(1)).unwrap(), tickets.register(request(2)).unwrap());
        tokio::time::advance(LIFETIME - Duration::from_millis(1)).await;
        assert_eq!(take(&tickets, "portforward", &early), Some(request(1)));
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(take(&tickets, "portforward", &late), None);
    }

    #[tokio::test(start_paused = true)]
    async fn they_have_their_places_until_they_expire_or_the_client_has_been_served() {
        let tickets = Tickets::new("", BOUNDS);
        let urls = [7, 7].map(|pod| tickets.register(request(pod)).unwrap());
        let refused = tickets.register(request(7)).unwrap_err();
        assert!(matches!(refused, Error::TooManySessionsOfOne { limit: 2, .. }), "{refused}");
        let served = tickets.take("portforward", token(&urls[0])).unwrap();
        tickets.register(request(7)).unwrap_err();
        drop(served);
        tickets.register(request(7)).unwrap();
        // Whose own share is used up does not keep others out; all together do.
        for pod in [0, 0, 1, 1, 2, 2, 3, 3] {
            tickets.register(request(pod)).unwrap();
        }
        let refused = tickets.register(request(8)).unwrap_err();
        assert!(matches!(refused, Error::TooManySessions { limit: 10 }), "{refused}");
        tokio::time::advance(LIFETIME).await;
        tickets.register(request(7)).unwrap();
        assert_eq!(tickets.lock().tickets.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn used_sessions_leave_nothing_that_grows() {
        let tickets = Tickets::new("", BOUNDS);
        for pod in 0..10 * MAX_USED {
            let url = tickets.register(request(pod)).unwrap();
            take(&tickets, "portforward", &url).unwrap();
        }
        assert!(tickets.lock().order.len() <= MAX_USED + 1);
    }

    /// A session as a model has it.
    struct Known {
        url: String,
        pod: usize,
        expiry: Instant,
    }

    /// Against a model: every answer, and when each place is free again.
    #[tokio::test(start_paused = true)]
    async fn whatever_comes_in_whatever_order_a_token_is_a_place_and_works_once() {
        let (seed, steps) = (berth_dice::seed(), berth_dice::steps_or(50_000));
        println!("MODEL_SEED={seed} MODEL_STEPS={steps}");
        let mut dice = berth_dice::Dice::new(seed);
        let tickets = Tickets::new("", BOUNDS);
        // Of those that wait, some have expired; they keep their places until another is registered.
        let (mut waiting, mut served) = (Vec::<Known>::new(), Vec::<(usize, Place)>::new());
        for _ in 0..steps {
            match dice.below(10) {
                0..5 => {
                    let (pod, now) = (dice.below(6), Instant::now());
                    waiting.retain(|known| known.expiry > now);
                    let owners =
                        || waiting.iter().map(|known| known.pod).chain(served.iter().map(|(pod, _)| *pod));
                    let (all, own) = (owners().count(), owners().filter(|owner| *owner == pod).count());
                    match tickets.register(request(pod)) {
                        Ok(url) => {
                            assert!(all < BOUNDS.all && own < BOUNDS.of_one);
                            waiting.push(Known { url, pod, expiry: now + LIFETIME });
                        }
                        Err(Error::TooManySessionsOfOne { .. }) => assert_eq!(own, BOUNDS.of_one),
                        Err(Error::TooManySessions { .. }) => assert_eq!(all, BOUNDS.all),
                        Err(error) => panic!("{error}"),
                    }
                }
                5..8 if !waiting.is_empty() => {
                    let known = waiting.swap_remove(dice.below(waiting.len()));
                    let path = dice.one_of(&["portforward", "portforward", "exec"]);
                    let is_good = path == "portforward" && known.expiry > Instant::now();
                    match tickets.take(path, token(&known.url)) {
                        Some((got, place)) => {
                            assert!(is_good && got == request(known.pod));
                            served.push((known.pod, place));
                        }
                        None => assert!(!is_good),
                    }
                    assert!(tickets.take("portforward", token(&known.url)).is_none());
                }
                8 if !served.is_empty() => drop(served.swap_remove(dice.below(served.len()))),
                _ => tokio::time::advance(LIFETIME / dice.one_of(&[1, 3, 50])).await,
            }
        }
    }
}
