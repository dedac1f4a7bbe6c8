//! A bad wire between one client and an agent: a socket of its own, behind which each call meets its [`Fate`].
//!
//! ```text
//! client ──HTTP/2──▶ wire ──a connection for each call──▶ agent
//!            ◀── the answer, or a refusal, or nothing, or the connection's end
//! ```
//! Calls are carried by their paths, whatever is in them; only those with one message each way. What the wire has passed
//! on is waited for even when the client has given up, unless the call's fate is to be called off.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_dice::Dice;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::fate::{Fate, Sign};

/// gRPC's number for it. Source: gRPC's status codes.
const UNAVAILABLE: &str = "14";

/// No answer takes longer, whoever waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The call that is not called off; see [`Shared::draw`].
const START: &str = "StartContainer";

/// A client's way to the agent. It ends with this value.
#[derive(Debug)]
pub(crate) struct Wire {
    path: PathBuf,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    agent: PathBuf,
    dice: Mutex<Dice>,
    /// Calls that the agent has and has not answered.
    under_way: AtomicUsize,
    mishaps: AtomicUsize,
    refusals: Mutex<Vec<Refusal>>,
}

/// A call that the agent itself has answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The method alone.
    pub(crate) call: String,
    /// gRPC's number.
    pub(crate) code: i32,
    pub(crate) message: String,
    /// The client had given it up before it arrived.
    pub(crate) is_late: bool,
}

/// An answer as it came.
struct Answer {
    head: Response<()>,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

type Outgoing = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

impl Wire {
    /// Lays one to the agent that listens on `agent`.
    pub(crate) fn lay(handle: &Handle, path: PathBuf, agent: &Path, dice: Dice) -> Self {
        let _inside = handle.enter();
        let listener = UnixListener::bind(&path).unwrap();
        let shared = Arc::new(Shared {
            agent: agent.to_owned(),
            dice: Mutex::new(dice),
            under_way: AtomicUsize::new(0),
            mishaps: AtomicUsize::new(0),
            refusals: Mutex::default(),
        });
        let listening = handle.spawn(accept_all(listener, shared.clone()));
        Self { path, shared, listening }
    }

    /// Where the client connects to.
    pub(crate) fn socket(&self) -> &Path {
        &self.path
    }

    /// Whether the agent has answered all that has come through.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.under_way.load(Ordering::SeqCst) == 0
    }

    /// The calls that something has become of.
    pub(crate) fn mishaps(&self) -> usize {
        self.shared.mishaps.load(Ordering::SeqCst)
    }

    /// What the agent has answered with errors since the last time.
    pub(crate) fn take_refusals(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.shared.refusals.lock().unwrap())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listening.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn accept_all(listener: UnixListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(carry_all(stream, shared.clone()));
    }
}

/// Serves one connection until it ends, or is cut.
async fn carry_all(stream: UnixStream, shared: Arc<Shared>) {
    let cut = Arc::new(Notify::new());
    let service = service_fn(|request| carry(shared.clone(), cut.clone(), request));
    let serving = server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = serving => {}
        () = cut.notified() => {}
    }
}

async fn carry(
    shared: Arc<Shared>,
    cut: Arc<Notify>,
    request: Request<Incoming>,
) -> Result<Outgoing, hyper::Error> {
    let (head, body) = request.into_parts();
    let (head, body) = (Arc::new(head), body.collect().await?.to_bytes());
    let pass = || shared.clone().pass(head.clone(), body.clone());
    let sign = match shared.draw(&head) {
        Fate::Carried => return Ok(outgoing(pass().await)),
        Fate::Slow(time) => {
            let answer = pass().await;
            after(time).await;
            return Ok(outgoing(answer));
        }
        Fate::Doubled { first } => {
            let answers = tokio::join!(pass(), pass());
            return Ok(outgoing(if first { answers.0 } else { answers.1 }));
        }
        Fate::Repeated => {
            let _ = pass().await;
            return Ok(outgoing(pass().await));
        }
        Fate::Lost(sign) => sign,
        Fate::Late(time, sign) => {
            shared.clone().pass_late(time, head.clone(), body.clone());
            sign
        }
        Fate::CalledOff(time, sign) => {
            // Not as a task of its own: it ends with the wait for it.
            let _ = timeout(time, exchange(&shared.agent, &head, body)).await;
            sign
        }
        Fate::Unanswered(sign) => {
            let _ = pass().await;
            sign
        }
    };
    match sign {
        Sign::Refusal => Ok(outgoing(Err(io::Error::other("the wire has lost it")))),
        Sign::Silence => std::future::pending().await,
        Sign::Cut => {
            cut.notify_one();
            std::future::pending().await
        }
    }
}

/// A wire takes its time. Not a wait for anything.
async fn after(time: Duration) {
    let _ = timeout(time, std::future::pending::<()>()).await;
}

impl Shared {
    /// What becomes of this call. A start is not called off midway: a kubelet looks at the container once more only when
    /// its own deadline has passed, minutes later; one that found it not yet started would start another one in its place.
    fn draw(&self, head: &Parts) -> Fate {
        let mut fate = Fate::draw(&mut self.dice.lock().unwrap());
        if let (Fate::CalledOff(_, sign), true) = (fate, head.uri.path().ends_with(START)) {
            fate = Fate::Unanswered(sign);
        }
        let is_mishap = !matches!(fate, Fate::Carried | Fate::Slow(_));
        self.mishaps.fetch_add(usize::from(is_mishap), Ordering::SeqCst);
        fate
    }

    /// Passes a call on and awaits its answer, in a task that does not end with its client.
    async fn pass(self: Arc<Self>, head: Arc<Parts>, body: Bytes) -> io::Result<Answer> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let passing = tokio::spawn(self.pass_on(head, body, false));
        passing.await.map_err(io::Error::other)?
    }

    /// Passes a call on after a while. It is under way from now on.
    fn pass_late(self: Arc<Self>, time: Duration, head: Arc<Parts>, body: Bytes) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            after(time).await;
            self.pass_on(head, body, true).await
        });
    }

    async fn pass_on(self: Arc<Self>, head: Arc<Parts>, body: Bytes, is_late: bool) -> io::Result<Answer> {
        let answer = timeout(PATIENCE, exchange(&self.agent, &head, body)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let refusal = answer.as_ref().ok().and_then(|answer| answer.refusal(head.uri.path(), is_late));
        self.refusals.lock().unwrap().extend(refusal);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

/// One call over a connection of its own.
async fn exchange(agent: &Path, head: &Parts, body: Bytes) -> io::Result<Answer> {
    let stream = TokioIo::new(UnixStream::connect(agent).await?);
    let handshake = client::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
    let call = async {
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut()) = (head.method.clone(), head.uri.clone());
        *request.headers_mut() = head.headers.clone();
        let (head, body) = sender.send_request(request).await?.into_parts();
        let whole = body.collect().await?;
        let trailers = whole.trailers().cloned();
        Ok::<_, hyper::Error>(Answer {
            head: Response::from_parts(head, ()),
            data: whole.to_bytes(),
            trailers,
        })
    };
    tokio::select! {
        answer = call => answer.map_err(io::Error::other),
        ended = connection => Err(ended.map_or_else(io::Error::other, |()| io::ErrorKind::ConnectionAborted.into())),
    }
}

impl Answer {
    fn refusal(&self, path: &str, is_late: bool) -> Option<Refusal> {
        let headers = self.trailers.as_ref().unwrap_or(self.head.headers());
        let text = |key: &str| Some(headers.get(key)?.to_str().unwrap_or_default().to_owned());
        let code = text("grpc-status")?.parse().ok()?;
        let call = path.rsplit('/').next()?.to_owned();
        (code != 0).then(|| Refusal {
            call,
            code,
            message: text("grpc-message").unwrap_or_default(),
            is_late,
        })
    }
}

/// What the client is sent for an answer, or in the place of one.
fn outgoing(answer: io::Result<Answer>) -> Outgoing {
    match answer {
        Ok(Answer { head, data, trailers }) => {
            let body = Full::new(data).map_err(|never| match never {});
            head.map(|()| body.with_trailers(async { trailers.map(Ok) }).boxed_unsync())
        }
        Err(error) => {
            let text = HeaderValue::from_str(&error.to_string()).unwrap();
            let mut refused =
                Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
            let headers = refused.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
            headers.insert("grpc-message", text);
            refused
        }
    }
}
