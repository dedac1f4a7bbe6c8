//! Port-forward: the client's streams are joined to connections to a pod's ports.
//!
//! ```text
//! SPDY       for each connection the client opens two streams, which a request id and the port in their headers pair:
//!            "error", on which it gets the text of a failure, or nothing; and "data"
//! WebSocket  two channels for each port of the request: data, error; the first message of each is the port in two
//!            bytes, the lower one first
//! ```
//! Each connection is on its own: one that fails, or whose port is closed, ends its pair of streams and no other. A
//! side that has closed its direction does not end the other's, however long that goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use crate::config::Limits;
use crate::ends::{End, Inlet, MAX_PIECE_BYTES, Outlet};
use crate::http::Client;
use crate::negotiate::Upgrade;
use crate::socket::reserve;
use crate::spdy::connection::{Carrier, Connection, Sharing, Stream, Terms};
use crate::spdy::reader::MAX_STREAMS;
use crate::status::describe;
use crate::websocket;
use crate::websocket::channel::Format;
use crate::{Backend, Duplex, PortForwardRequest};

/// How many connections one client may have at once, those included of which one stream is still to come. Streams that
/// the client has reset are none of the protocol's any more, but what was begun for them may be there still.
const MAX_CONNECTIONS: usize = MAX_STREAMS / 2;

/// Clients send numbers.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// How long a port may take over what a client has sent before it gave the stream up.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// What a forwarded connection needs.
struct Forward<B> {
    backend: Arc<B>,
    pod: Arc<str>,
}

impl<B> Clone for Forward<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), pod: Arc::clone(&self.pod) }
    }
}

/// The two streams of a connection.
struct Pair {
    port: u16,
    data: (Inlet, Outlet),
    error: Outlet,
}

/// Streams that wait for their other half.
#[derive(Default)]
struct Halves(HashMap<String, Half>);

struct Half {
    port: u16,
    kind: Kind,
    ends: (Inlet, Outlet),
    deadline: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Serves a client that has come.
pub(crate) async fn serve<B: Backend>(
    backend: Arc<B>,
    request: PortForwardRequest,
    client: Client,
    limits: Limits,
) {
    match client.upgrade {
        Upgrade::SpdyPorts => serve_spdy(backend, request, client, Carrier::Plain, limits).await,
        Upgrade::TunnelledPorts => serve_spdy(backend, request, client, Carrier::WebSocket, limits).await,
        Upgrade::WebSocketPorts(format) => serve_websocket(backend, request, client, format, limits).await,
        // No client comes to agree on these for ports.
        Upgrade::SpdyCommand(_) | Upgrade::WebSocketCommand(..) => {}
    }
}

async fn serve_spdy<B: Backend>(
    backend: Arc<B>,
    request: PortForwardRequest,
    client: Client,
    carrier: Carrier,
    limits: Limits,
) {
    let terms = Terms { carrier, idle: limits.idle, sharing: Sharing::Strangers(limits.stalled_stream) };
    let mut connection = Connection::open(client, terms).await;
    let forward = Forward { backend, pod: request.pod.into() };
    let (mut halves, mut forwards) = (Halves::default(), JoinSet::new());
    loop {
        // What has ended is forgotten, so that the set does not grow.
        while forwards.try_join_next().is_some() {}
        let stream = match halves.next_deadline() {
            Some(deadline) => timeout_at(deadline, connection.next()).await,
            None => Ok(connection.next().await),
        };
        match stream {
            Ok(Some(stream)) => {
                let room = MAX_CONNECTIONS.saturating_sub(forwards.len());
                if let Some(pair) = halves.pair(stream, limits.stream_creation, room).await {
                    forwards.spawn(forward.clone().run(pair));
                }
            }
            Ok(None) => break,
            Err(_) => halves.give_up(Instant::now()).await,
        }
    }
    drop(forwards);
    connection.finish().await;
}

async fn serve_websocket<B: Backend>(
    backend: Arc<B>,
    request: PortForwardRequest,
    client: Client,
    format: Format,
    limits: Limits,
) {
    let channels = u8::try_from(request.ports.len().saturating_mul(2)).unwrap_or(u8::MAX - 1);
    let open = websocket::connection::Connection::open;
    let (mut connection, ends) = open(client, format, channels, limits.idle);
    let forward = Forward { backend, pod: request.pod.into() };
    let (mut ends, mut forwards) = (ends.into_iter(), JoinSet::new());
    for port in request.ports {
        let (Some(mut data), Some((_, mut error))) = (ends.next(), ends.next()) else { break };
        let first = Bytes::copy_from_slice(&port.to_le_bytes());
        let _ = data.1.send(first.clone()).await;
        let _ = error.send(first).await;
        forwards.spawn(forward.clone().run(Pair { port, data, error }));
    }
    tokio::select! {
        () = async { while forwards.join_next().await.is_some() {} } => {}
        () = connection.lost() => debug!("client has gone"),
    }
    drop(forwards);
    connection.finish().await;
}

impl Halves {
    fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|half| half.deadline).min()
    }

    /// Accepts a stream, if it says what it is for, and answers with its pair if the other half is there. No more than
    /// `room` may wait for theirs.
    async fn pair(&mut self, stream: Stream, patience: Duration, room: usize) -> Option<Pair> {
        let (port, kind, id) = match purpose(&stream) {
            Ok(purpose) => purpose,
            Err(reason) => {
                debug!(stream = stream.id, reason, "SPDY stream refused");
                stream.refuse().await;
                return None;
            }
        };
        if self.0.get(&id).is_some_and(|half| half.kind == kind) {
            debug!(stream = stream.id, request = id, "SPDY stream refused, of which there is one already");
            stream.refuse().await;
            return None;
        }
        if !self.0.contains_key(&id) && !self.has_room(room) {
            debug!(stream = stream.id, "SPDY stream refused, as there are too many connections");
            stream.refuse().await;
            return None;
        }
        let ends = stream.accept().await;
        let Some(other) = self.0.remove(&id) else {
            let deadline = Instant::now() + patience;
            self.0.insert(id, Half { port, kind, ends, deadline });
            return None;
        };
        let (data, (_, error)) = if kind == Kind::Data { (ends, other.ends) } else { (other.ends, ends) };
        // The data stream's port counts, as it does elsewhere.
        let port = if kind == Kind::Data { port } else { other.port };
        Some(Pair { port, data, error })
    }

    /// Whether one more may wait, after those that the client has given up have been forgotten if need be.
    fn has_room(&mut self, room: usize) -> bool {
        if self.0.len() >= room {
            self.0.retain(|_, half| !half.ends.1.is_reset());
        }
        self.0.len() < room
    }

    /// Ends those whose other half has not come.
    async fn give_up(&mut self, now: Instant) {
        let late: Vec<_> = self.0.extract_if(|_, half| half.deadline <= now).collect();
        for (id, mut half) in late {
            debug!(request = id, "SPDY stream ended, whose other half has not come");
            if half.kind == Kind::Error {
                let text = format!("timed out waiting for the data stream of request {id}");
                let _ = half.ends.1.send(text.into()).await;
            }
            half.ends.1.reset().await;
        }
    }
}

/// What a stream is for, by its headers: port, kind, and what it has in common with its other half.
fn purpose(stream: &Stream) -> Result<(u16, Kind, String), &'static str> {
    let port = stream.headers.get("port").ok_or("header port is missing")?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or("header port is no port")?;
    let kind = match stream.headers.get("streamtype") {
        Some("data") => Kind::Data,
        Some("error") => Kind::Error,
        Some(_) => return Err("header streamtype is neither data nor error"),
        None => return Err("header streamtype is missing"),
    };
    if stream.headers.get("requestid").is_some_and(|id| id.len() > MAX_REQUEST_ID_BYTES) {
        return Err("header requestid is too long");
    }
    Ok((port, kind, request_id(stream, kind)))
}

/// Old clients send no request id, but open first the error stream and then the data stream, whose id is two more.
fn request_id(stream: &Stream, kind: Kind) -> String {
    match (stream.headers.get("requestid"), kind) {
        (Some(id), _) if !id.is_empty() => format!("request {id}"),
        (_, Kind::Error) => format!("stream {}", stream.id),
        (_, Kind::Data) => format!("stream {}", stream.id.wrapping_sub(2)),
    }
}

impl<B: Backend> Forward<B> {
    async fn run(self, pair: Pair) {
        let Pair { port, data: (inlet, mut outlet), mut error } = pair;
        let connected = tokio::select! {
            connected = self.backend.port_forward(&self.pod, port) => connected,
            () = outlet.given_up() => return,
        };
        let ended = match connected {
            Ok(peer) => {
                let given_up = outlet.given_up();
                tokio::select! {
                    ended = forward(peer, inlet, &mut outlet, &mut error) => ended.map_err(|error| describe(&error)),
                    () = long_after(given_up) => return,
                }
            }
            Err(error) => Err(describe(&*error)),
        };
        let Err(reason) = ended else { return };
        debug!(port, reason, "connection to a port ended");
        let text = format!("error forwarding port {port} to pod {}: {reason}", self.pod);
        let _ = error.send(text.into()).await;
        error.finish().await;
        outlet.reset().await;
    }
}

async fn long_after(given_up: impl Future<Output = ()>) {
    given_up.await;
    let _ = timeout(LAST_BYTES, std::future::pending::<()>()).await;
}

/// Pumps in both directions until both have ended.
async fn forward(
    peer: Box<dyn Duplex>,
    mut inlet: Inlet,
    outlet: &mut Outlet,
    error: &mut Outlet,
) -> std::io::Result<()> {
    let (read, write) = tokio::io::split(peer);
    let down = async {
        let outcome = download(read, outlet).await;
        if outcome.is_ok() {
            // Clients wait for the end of the error stream before they close their side of the other.
            outlet.finish().await;
            error.finish().await;
        }
        outcome
    };
    let up = upload(write, &mut inlet);
    tokio::pin!(down, up);
    tokio::select! {
        outcome = &mut down => {
            outcome?;
            up.await;
            Ok(())
        }
        end = &mut up => match end {
            End::Finished => down.await,
            // Nobody wants the rest.
            End::Reset | End::Lost => Ok(()),
        },
    }
}

async fn download(mut from: ReadHalf<Box<dyn Duplex>>, outlet: &mut Outlet) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        reserve(&mut buffer, MAX_PIECE_BYTES);
        if from.read_buf(&mut buffer).await? == 0 || outlet.send(buffer.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
}

/// Answers how the client's side ended. When the port takes nothing more, the rest is dropped: what the port still
/// sends decides how the connection ends.
async fn upload(mut to: WriteHalf<Box<dyn Duplex>>, inlet: &mut Inlet) -> End {
    while let Some(bytes) = inlet.next().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            while inlet.next().await.is_some() {}
            return inlet.end();
        }
    }
    if inlet.end() == End::Finished {
        let _ = to.shutdown().await;
    }
    inlet.end()
}
