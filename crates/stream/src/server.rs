//! The server: accepts connections, each a task of its own, and gives those that come with a token to their session.
//!
//! ```text
//! accepted ─▶ pending: TLS, HTTP ─▶ session: the streams of exec, attach or port-forward
//! ```
//! Anybody on the machine can connect, but only a token makes a session. So those that are pending have little
//! memory and little time, and when there are too many, the one that has waited longest goes: a flood of silent
//! connections keeps nobody else out. Sessions have their places already when they come ([`crate::places`]).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::command::{Purpose, Session};
use crate::config::Limits;
use crate::http::{Arrival, Client, HANDSHAKE_LIMIT, arrive};
use crate::port_forward;
use crate::socket::{HangUp, Socket};
use crate::{AttachRequest, Backend, Error, ExecRequest, Request, StreamingConfig, Tickets, tls};

/// How many connections may be on their way to a session.
const MAX_PENDING: usize = 256;

/// How long to wait after the kernel had no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may be silent before its peer is asked whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// How often it is asked again when there is no answer, and how often at most.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// How far apart, at most, the attempts are to reach a peer that does not answer. The kernel gives up after 15 of them,
/// unless it was told otherwise: when something waits for one that is gone, that is noticed in two minutes.
const RETRY_INTERVAL: Duration = Duration::from_secs(8);

/// A server that listens, but does not serve yet.
pub struct Server {
    listener: TcpListener,
    tickets: Tickets,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).field("tls", &self.tls.is_some()).finish()
    }
}

/// What all connections share.
struct Shared<B> {
    backend: Arc<B>,
    tickets: Tickets,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    pending: Pending,
}

impl Server {
    /// Listens, and reads the TLS files if there are any.
    ///
    /// # Errors
    /// The settings make no sense, the address is taken, or the TLS files can't be used.
    pub async fn bind(config: &StreamingConfig) -> Result<Self, Error> {
        config.validate()?;
        let tls = match (config.tls_cert_file.clone(), config.tls_key_file.clone()) {
            (Some(certificate), Some(key)) => {
                let loading = spawn_blocking(move || tls::load(&certificate, &key)).await;
                Some(loading.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
            }
            _ => None,
        };
        let address = SocketAddr::new(config.address, config.port);
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        if config.is_open_to_others() {
            warn!(%bound, "streams listen beyond loopback without TLS: who reads the network reads all sessions");
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tickets = Tickets::new(&format!("{scheme}://{}", reachable(bound)), config.bounds());
        Ok(Self { listener, tickets, tls, limits: config.limits() })
    }

    /// Where sessions are registered.
    pub fn tickets(&self) -> Tickets {
        self.tickets.clone()
    }

    /// Serves until told to stop; sessions under way end with it.
    pub async fn serve<B: Backend>(self, backend: Arc<B>, stopping: CancellationToken) {
        let Self { listener, tickets, tls, limits } = self;
        let shared = Arc::new(Shared { backend, tickets, tls, limits, pending: Pending::default() });
        let mut connections = JoinSet::new();
        loop {
            // What has ended is forgotten, so that the set does not grow.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopping.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let admission = shared.pending.admit();
                    connections.spawn(Arc::clone(&shared).serve_connection(socket, peer, admission));
                }
                Err(error) => {
                    warn!(%error, "streaming connection not accepted");
                    let _ = timeout(ACCEPT_PAUSE, stopping.cancelled()).await;
                }
            }
        }
    }
}

impl<B: Backend> Shared<B> {
    async fn serve_connection(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, admission: Admission) {
        let arrival = tokio::select! {
            arrival = self.receive(socket) => arrival,
            () = admission.revoked.cancelled() => {
                debug!(%peer, "streaming connection closed, as others wait");
                None
            }
        };
        self.pending.leave(&admission);
        let Some((request, client, _place)) = arrival else { return };
        self.serve_session(request, client).await;
    }

    async fn receive(&self, socket: TcpStream) -> Option<Arrival> {
        let hang_up =
            prepare(&socket).inspect_err(|error| debug!(%error, "streaming connection not prepared")).ok()?;
        let socket: Socket = match &self.tls {
            None => Box::new(socket),
            Some(tls) => match timeout(HANDSHAKE_LIMIT, tls.accept(socket)).await {
                Ok(Ok(socket)) => Box::new(socket),
                Ok(Err(error)) => {
                    debug!(%error, "TLS failed");
                    return None;
                }
                Err(_) => return None,
            },
        };
        arrive(socket, hang_up, &self.tickets).await
    }

    async fn serve_session(&self, request: Request, client: Client) {
        let (backend, limits) = (&self.backend, self.limits);
        match request {
            Request::Exec(request) => {
                let ExecRequest { tty, stdin, stdout, stderr, .. } = request;
                let session = Session { tty, stdin, stdout, stderr, purpose: Purpose::Exec, limits };
                session.serve(client, backend.exec(request)).await;
            }
            Request::Attach(request) => {
                let AttachRequest { tty, stdin, stdout, stderr, .. } = request;
                let session = Session { tty, stdin, stdout, stderr, purpose: Purpose::Attach, limits };
                session.serve(client, backend.attach(request)).await;
            }
            Request::PortForward(request) => {
                port_forward::serve(Arc::clone(backend), request, client, limits).await;
            }
        }
    }
}

/// Small pieces go out at once, and a peer that is no longer there is noticed. The end of one that has sent more than
/// is read is held back behind that; it is noticed when its kernel has given up and answers that there is no such
/// connection.
///
/// One that reads nothing may stay for as long as it answers that it has no room. `TCP_USER_TIMEOUT` would end that, too:
/// the kernel counts from the first such answer, however many more come. Source: tcp(7); `tcp_probe_timer` in the
/// kernel's `net/ipv4/tcp_timer.c`.
fn prepare(socket: &TcpStream) -> io::Result<HangUp> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    match berth_sys::tcp::set_longest_retry(socket, RETRY_INTERVAL) {
        // A kernel before 6.15 takes up to two minutes for each of the later attempts.
        Ok(()) | Err(Errno::NOPROTOOPT) => {}
        Err(errno) => return Err(errno.into()),
    }
    HangUp::of(socket)
}

/// The address for URLs: every address of the machine is not one, its loopback is.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

/// Connections on their way to a session, the longest waiting first.
#[derive(Default)]
struct Pending(Mutex<(u64, VecDeque<Admission>)>);

/// Leave to be pending, until it is revoked.
#[derive(Debug, Clone)]
struct Admission {
    number: u64,
    revoked: CancellationToken,
}

impl Pending {
    /// Admits one more; where there are too many, the one that has waited longest has to go.
    fn admit(&self) -> Admission {
        let mut pending = self.lock();
        let (next, waiting) = &mut *pending;
        *next += 1;
        let admission = Admission { number: *next, revoked: CancellationToken::new() };
        waiting.push_back(admission.clone());
        if waiting.len() > MAX_PENDING
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.revoked.cancel();
        }
        admission
    }

    fn leave(&self, admission: &Admission) {
        self.lock().1.retain(|other| other.number != admission.number);
    }

    fn lock(&self) -> MutexGuard<'_, (u64, VecDeque<Admission>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
