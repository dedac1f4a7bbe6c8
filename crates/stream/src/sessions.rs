//! Sessions that wait for their clients: each is a request of the API under a random token, to be used once and soon.
//!
//! A token is all that a client needs: who knows it may do what was asked for, and nothing else. It is as long as a key
//! (128 bits), so it can't be guessed by others on the machine. Expired sessions are dropped when another is
//! registered, so that no task has to look after them; the number that may wait is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::Instant;

use crate::{AttachRequest, Error, ExecRequest, PortForwardRequest};

/// How long a client may take to come. A kubelet comes at once.
const LIFETIME: Duration = Duration::from_secs(60);

/// How many sessions may wait; a kubelet asks for one at a time, each for a person or a program that waits for it.
const MAX_WAITING: usize = 1000;

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
pub struct Sessions {
    waiting: Arc<Mutex<Waiting>>,
    /// Scheme, host and port, without a slash at the end.
    base: Arc<str>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<String, (Instant, Request)>,
    /// Tokens in the order in which they expire; may name some that have been used.
    order: VecDeque<(Instant, String)>,
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
}

impl Sessions {
    pub(crate) fn new(base: &str) -> Self {
        Self { waiting: Arc::default(), base: base.into() }
    }

    /// Makes a session wait for its client, for a minute, and answers with the URL to come to.
    ///
    /// # Errors
    /// Too many are waiting ([`Error::TooManySessions`]), or there are no random bytes.
    pub fn register(&self, request: Request) -> Result<String, Error> {
        let token = random_token()?;
        let url = format!("{}/{}/{token}", self.base, request.path());
        let now = Instant::now();
        let mut waiting = self.lock();
        waiting.drop_expired(now);
        if waiting.requests.len() >= MAX_WAITING {
            return Err(Error::TooManySessions { limit: MAX_WAITING });
        }
        let expiry = now + LIFETIME;
        waiting.order.push_back((expiry, token.clone()));
        waiting.requests.insert(token, (expiry, request));
        Ok(url)
    }

    /// Takes the session of a token out. A token that is asked for under a wrong path is gone as well.
    pub(crate) fn take(&self, path: &str, token: &str) -> Option<Request> {
        let (expiry, request) = self.lock().requests.remove(token)?;
        (Instant::now() < expiry && request.path() == path).then_some(request)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn drop_expired(&mut self, now: Instant) {
        while let Some((_, token)) = self.order.front().filter(|(expiry, _)| *expiry <= now) {
            self.requests.remove(token);
            self.order.pop_front();
        }
        // Those that were used leave the order when their turn comes, or here before they pile up.
        if self.order.len() >= 2 * MAX_WAITING {
            self.order.retain(|(_, token)| self.requests.contains_key(token));
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

    fn request(pod: usize) -> Request {
        Request::PortForward(PortForwardRequest { pod: pod.to_string(), ports: vec![] })
    }

    fn token(url: &str) -> &str {
        url.rsplit('/').next().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_works_once_and_under_its_own_path_only() {
        let sessions = Sessions::new("http://h:1");
        let url = sessions.register(request(1)).unwrap();
        assert!(url.starts_with("http://h:1/portforward/"), "{url}");
        assert_eq!(sessions.take("portforward", token(&url)), Some(request(1)));
        assert_eq!(sessions.take("portforward", token(&url)), None);

        let url = sessions.register(request(2)).unwrap();
        assert_eq!(sessions.take("exec", token(&url)), None);
        assert_eq!(sessions.take("portforward", token(&url)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_expires_whether_or_not_another_comes() {
        let sessions = Sessions::new("");
        let (early, late) = (sessions.register(request(1)).unwrap(), sessions.register(request(2)).unwrap());
        tokio::time::advance(LIFETIME - Duration::from_millis(1)).await;
        assert_eq!(sessions.take("portforward", token(&early)), Some(request(1)));
        tokio::time::advance(Duration::from_millis(2)).await;
        assert_eq!(sessions.take("portforward", token(&late)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn their_number_is_bounded_until_they_expire_or_are_used() {
        let sessions = Sessions::new("");
        let urls: Vec<_> = (0..MAX_WAITING).map(|pod| sessions.register(request(pod)).unwrap()).collect();
        assert!(matches!(sessions.register(request(0)), Err(Error::TooManySessions { .. })));
        assert!(sessions.take("portforward", token(&urls[500])).is_some());
        sessions.register(request(0)).unwrap();
        assert!(sessions.register(request(0)).is_err());
        tokio::time::advance(LIFETIME).await;
        sessions.register(request(0)).unwrap();
        assert_eq!(sessions.lock().requests.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn used_sessions_leave_nothing_that_grows() {
        let sessions = Sessions::new("");
        for pod in 0..10 * MAX_WAITING {
            let url = sessions.register(request(pod)).unwrap();
            sessions.take("portforward", token(&url)).unwrap();
        }
        assert!(sessions.lock().order.len() <= 2 * MAX_WAITING);
    }
}
