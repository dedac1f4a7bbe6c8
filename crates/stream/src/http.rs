//! HTTP/1.1 up to the upgrade: one request, whose path has the token, and one answer.
//!
//! Everything here has a bound, as anybody on the machine may connect: how long it may take, how long the headers are,
//! how many there are. A token is used up by the request that has it, whatever the answer.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tracing::debug;

use crate::negotiate::{Refusal, Upgrade, negotiate};
use crate::places::Place;
use crate::socket::{HangUp, Socket};
use crate::tickets::{Request, Tickets};

/// How long a client may take from connecting to the answer, TLS included.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);

const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// A client that has come for its session.
pub(crate) struct Client {
    /// What it speaks from here on.
    pub(crate) upgrade: Upgrade,
    /// Its connection.
    pub(crate) socket: Socket,
    /// What it sent right after its request.
    pub(crate) received: Bytes,
    /// Says when it has hung up.
    pub(crate) hang_up: HangUp,
}

/// A client's session, and its place.
pub(crate) type Arrival = (Request, Client, Place);

/// Serves one request; none for a client that was turned away or that did not ask in time.
pub(crate) async fn arrive(socket: Socket, hang_up: HangUp, tickets: &Tickets) -> Option<Arrival> {
    let agreed = Mutex::new(None);
    let service = service_fn(|mut request: http::Request<Incoming>| {
        let answer = match judge(request.method(), request.uri().path(), request.headers(), tickets) {
            Ok(Admitted { session, upgrade, place, headers }) => {
                let coming = hyper::upgrade::on(&mut request);
                *agreed.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((session, upgrade, place, coming));
                answer(StatusCode::SWITCHING_PROTOCOLS, headers, String::new())
            }
            Err(refusal) => {
                debug!(status = refusal.status.as_u16(), reason = refusal.text, "client turned away");
                answer(refusal.status, *refusal.headers, refusal.text)
            }
        };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    match timeout(HANDSHAKE_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "HTTP connection ended"),
        Err(_) => debug!("HTTP connection closed, which took too long"),
    }
    let agreed = agreed.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (request, upgrade, place, coming) = agreed?;
    let (socket, received) = take_over(coming).await?;
    Some((request, Client { upgrade, socket, received, hang_up }, place))
}

async fn take_over(coming: OnUpgrade) -> Option<(Socket, Bytes)> {
    let upgraded = coming.await.inspect_err(|error| debug!(%error, "upgrade failed")).ok()?;
    // What HTTP ran on comes back as it was; only then is nothing between us and the socket.
    Some(match upgraded.downcast::<TokioIo<Socket>>() {
        Ok(Parts { io, read_buf, .. }) => (io.into_inner(), read_buf),
        Err(upgraded) => (Box::new(TokioIo::<Upgraded>::new(upgraded)) as Socket, Bytes::new()),
    })
}

/// A request that gets what it asks for.
#[derive(Debug)]
struct Admitted {
    session: Request,
    upgrade: Upgrade,
    place: Place,
    headers: HeaderMap,
}

fn judge(method: &Method, path: &str, headers: &HeaderMap, tickets: &Tickets) -> Result<Admitted, Refusal> {
    let (kind, token) = path
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .filter(|(kind, token)| matches!(*kind, "exec" | "attach" | "portforward") && !token.contains('/'))
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "no such path"))?;
    if method != Method::GET && method != Method::POST {
        let mut refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "neither GET nor POST");
        refusal.headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
        return Err(refusal);
    }
    let (session, place) = tickets.take(kind, token).ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "no such session: it was used, has expired, or never was")
    })?;
    let (upgrade, headers) = negotiate(method, headers, &session)?;
    Ok(Admitted { session, upgrade, place, headers })
}

fn answer(status: StatusCode, headers: HeaderMap, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if status != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}
