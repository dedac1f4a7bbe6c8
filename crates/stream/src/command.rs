//! Exec and attach: the streams of a client are joined to the ends of a process.
//!
//! ```text
//! SPDY       the client opens a stream for each end, named by its header; the process starts when all are there
//! WebSocket  the channels are there from the start: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize
//! ```
//! The session ends when the process has ended and its output has been sent; the last word is on the error stream.
//! When the client goes, all ends of the process are dropped, and the process is left to the backend.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::Limits;
use crate::ends::{Inlet, MAX_PIECE_BYTES, Outlet};
use crate::http::Client;
use crate::negotiate::{CommandProtocol, Upgrade};
use crate::resize::Sizes;
use crate::socket::reserve;
use crate::spdy::connection::{Carrier, Connection, Sharing, Terms};
use crate::status::{Outcome, StatusFormat, describe};
use crate::websocket;
use crate::websocket::channel::Format;
use crate::{BackendError, Process, TerminalSize};

/// How long output may rest after the exit before it counts as all: something in the background may hold its end open.
const REST: Duration = Duration::from_secs(1);

/// How long a client that leaves may get answers to its input, however many there are.
const FAREWELL: Duration = Duration::from_secs(10);

const STDIN: &str = "stdin";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
const ERROR: &str = "error";
const RESIZE: &str = "resize";

/// The channels of a WebSocket, each at the place that is its number.
const CHANNELS: [&str; 5] = [STDIN, STDOUT, STDERR, ERROR, RESIZE];

/// What a session is about, whichever of the two it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// Whether the process has a terminal, and so no standard error.
    pub(crate) tty: bool,
    /// Whether the client sends standard input.
    pub(crate) stdin: bool,
    /// Whether the client wants standard output.
    pub(crate) stdout: bool,
    /// Whether the client wants standard error.
    pub(crate) stderr: bool,
    /// What an exit code means.
    pub(crate) purpose: Purpose,
    /// What the connection is bound by.
    pub(crate) limits: Limits,
}

/// What an exit code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is the command's, and told to the client.
    Exec,
    /// It is the container's, and told to nobody here.
    Attach,
}

/// The streams of a session by their names, those that were asked for.
#[derive(Debug, Default)]
struct Streams(Vec<(&'static str, Inlet, Outlet)>);

impl Session {
    /// Serves a client that has come; `start` begins when all of its streams are there.
    pub(crate) async fn serve(
        self,
        client: Client,
        start: impl Future<Output = Result<Process, BackendError>>,
    ) {
        match client.upgrade {
            Upgrade::SpdyCommand(protocol) => self.serve_spdy(client, protocol, start).await,
            Upgrade::WebSocketCommand(protocol, format) => {
                self.serve_websocket(client, protocol, format, start).await;
            }
            // No client comes to agree on these for a command.
            Upgrade::SpdyPorts | Upgrade::TunnelledPorts | Upgrade::WebSocketPorts(_) => {}
        }
    }

    async fn serve_spdy(
        self,
        client: Client,
        protocol: CommandProtocol,
        start: impl Future<Output = Result<Process, BackendError>>,
    ) {
        let Limits { idle, stream_creation, .. } = self.limits;
        let terms = Terms { carrier: Carrier::Plain, idle, sharing: Sharing::OneProcess };
        let mut connection = Connection::open(client, terms).await;
        let names = self.stream_names(protocol);
        let mut streams = Streams::default();
        match timeout(stream_creation, streams.collect(&mut connection, &names)).await {
            Ok(true) => {
                if protocol.closes_stdin {
                    streams.finish(STDIN).await;
                }
                tokio::select! {
                    () = self.run(streams, protocol.status, start) => {}
                    () = turn_others_away(&mut connection) => debug!("client has gone"),
                }
            }
            Ok(false) => debug!("client has gone before it had opened its streams"),
            Err(_) => {
                let reason =
                    format!("not all of the streams {names:?} were opened within {stream_creation:?}");
                streams.say_last_word(&Outcome::Failure(reason), protocol.status).await;
            }
        }
        connection.finish().await;
    }

    async fn serve_websocket(
        self,
        client: Client,
        protocol: CommandProtocol,
        format: Format,
        start: impl Future<Output = Result<Process, BackendError>>,
    ) {
        let open = websocket::connection::Connection::open;
        let (mut connection, ends) = open(client, format, 5, self.limits.idle);
        let names = self.stream_names(protocol);
        let named = CHANNELS.into_iter().zip(ends).filter(|(name, _)| names.contains(name));
        let mut streams = Streams(named.map(|(name, (inlet, outlet))| (name, inlet, outlet)).collect());
        // An empty message tells the client that all is ready.
        let first = [STDOUT, STDERR].into_iter().find(|name| names.contains(name)).unwrap_or(ERROR);
        if let Some(outlet) = streams.outlet(first) {
            let _ = outlet.send(Bytes::new()).await;
        }
        tokio::select! {
            () = self.run(streams, protocol.status, start) => {}
            () = connection.lost() => debug!("client has gone"),
        }
        connection.finish().await;
    }

    /// The names of the streams that the client opens.
    fn stream_names(self, protocol: CommandProtocol) -> Vec<&'static str> {
        let all = [
            (ERROR, true),
            (STDIN, self.stdin),
            (STDOUT, self.stdout),
            (STDERR, self.stderr && !self.tty),
            (RESIZE, self.tty && protocol.has_resize),
        ];
        all.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
    }

    async fn run(
        self,
        mut streams: Streams,
        status: StatusFormat,
        start: impl Future<Output = Result<Process, BackendError>>,
    ) {
        let ended = match start.await {
            Ok(process) => streams.pump(process).await,
            Err(error) => Err(error),
        };
        let outcome = match (ended, self.purpose) {
            (Ok(0), _) | (Ok(_), Purpose::Attach) => Outcome::Success,
            (Ok(code), Purpose::Exec) => Outcome::ExitCode(code),
            (Err(error), Purpose::Exec) => {
                Outcome::Failure(format!("error executing command in container: {}", describe(&*error)))
            }
            (Err(error), Purpose::Attach) => {
                Outcome::Failure(format!("error attaching to container: {}", describe(&*error)))
            }
        };
        debug!(?outcome, "session ended");
        streams.say_last_word(&outcome, status).await;
    }
}

impl Streams {
    /// Accepts streams until all names are there; false if the client goes before.
    async fn collect(&mut self, connection: &mut Connection, names: &[&'static str]) -> bool {
        while self.0.len() < names.len() {
            let Some(stream) = connection.next().await else { return false };
            let asked = stream.headers.get("streamtype");
            let name = names.iter().copied().find(|name| Some(*name) == asked);
            match name.filter(|name| !self.0.iter().any(|(other, _, _)| other == name)) {
                Some(name) => {
                    let (inlet, outlet) = stream.accept().await;
                    self.0.push((name, inlet, outlet));
                }
                None => {
                    debug!(stream = stream.id, name = asked, "SPDY stream refused, which nobody asked for");
                    stream.refuse().await;
                }
            }
        }
        true
    }

    fn outlet(&mut self, name: &str) -> Option<&mut Outlet> {
        self.0.iter_mut().find(|(other, _, _)| *other == name).map(|(_, _, outlet)| outlet)
    }

    async fn finish(&mut self, name: &str) {
        if let Some(outlet) = self.outlet(name) {
            outlet.finish().await;
        }
    }

    async fn say_last_word(&mut self, outcome: &Outcome, format: StatusFormat) {
        let message = outcome.message(format);
        if let Some(outlet) = self.outlet(ERROR).filter(|_| !message.is_empty()) {
            let _ = outlet.send(message).await;
        }
        for (_, _, outlet) in &mut self.0 {
            outlet.finish().await;
        }
    }

    /// Pumps until the process has ended, or the client has left it, and its output has been sent.
    async fn pump(&mut self, process: Process) -> Result<i32, BackendError> {
        let Process { mut stdin, mut stdout, mut stderr, mut resize, mut exit, ends_with_stdin } = process;
        let farewell = if resize.is_some() { Duration::ZERO } else { FAREWELL };
        let (exited, left) = (CancellationToken::new(), CancellationToken::new());
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for (name, inlet, outlet) in &mut self.0 {
            match *name {
                STDIN => inputs.push(Input::Bytes(stdin.take(), inlet, &left)),
                RESIZE => inputs.push(Input::Sizes(resize.take(), inlet)),
                STDOUT => outputs.push(drain(stdout.take(), outlet, &exited)),
                STDERR => outputs.push(drain(stderr.take(), outlet, &exited)),
                _ => {}
            }
        }
        let input = futures_util::future::join_all(inputs.into_iter().map(Input::pump));
        let output = futures_util::future::join_all(outputs);
        let code = async {
            let code = tokio::select! {
                // Not dropped when the client leaves: it holds the process's side of the session.
                code = &mut exit => code,
                () = left.cancelled(), if ends_with_stdin => Ok(0),
            };
            exited.cancel();
            code
        };
        let ending = async { tokio::join!(code, output) };
        tokio::select! {
            (code, _) = ending => code,
            () = rest_after(&left, farewell), if ends_with_stdin => Ok(0),
            () = async { input.await; std::future::pending().await } => Ok(0),
        }
    }
}

/// What comes from the client.
enum Input<'a> {
    /// The token says that the client has closed its end.
    Bytes(Option<Box<dyn AsyncWrite + Send + Unpin>>, &'a mut Inlet, &'a CancellationToken),
    Sizes(Option<Box<dyn Fn(TerminalSize) + Send + Sync>>, &'a mut Inlet),
}

impl Input<'_> {
    /// Pumps to the client's end. What the process does not take is dropped: it must not hold up the connection.
    async fn pump(self) {
        let rest = match self {
            Self::Bytes(to, inlet, left) => {
                if let Some(to) = to {
                    feed(to, inlet, left).await;
                }
                inlet
            }
            Self::Sizes(set, inlet) => {
                if let Some(set) = set {
                    follow(&*set, inlet).await;
                }
                inlet
            }
        };
        while rest.next().await.is_some() {}
    }
}

/// Writes what the client sends to the process, until either closes its end.
async fn feed(mut to: Box<dyn AsyncWrite + Send + Unpin>, inlet: &mut Inlet, left: &CancellationToken) {
    while let Some(bytes) = inlet.next().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
    left.cancel();
}

async fn follow(set: &(dyn Fn(TerminalSize) + Send + Sync), inlet: &mut Inlet) {
    let mut sizes = Sizes::default();
    while let Some(text) = inlet.next().await {
        match sizes.read(&text) {
            Ok(Some(size)) => set(size),
            Ok(None) => {}
            Err(_) => return debug!("terminal sizes ignored from here on: not JSON"),
        }
    }
}

/// Sends what the process writes, up to its end, or until it has exited and nothing more comes.
async fn drain(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    outlet: &mut Outlet,
    exited: &CancellationToken,
) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        reserve(&mut buffer, MAX_PIECE_BYTES);
        let read = tokio::select! {
            biased;
            read = from.read_buf(&mut buffer) => read,
            () = rest_after(exited, REST) => break,
        };
        // A terminal whose last process has gone gives an error.
        if !matches!(read, Ok(1..)) || outlet.send(buffer.split().freeze()).await.is_err() {
            break;
        }
    }
    // First the process learns that nobody reads, then the client that nobody writes.
    drop(from);
    outlet.finish().await;
}

async fn rest_after(over: &CancellationToken, rest: Duration) {
    over.cancelled().await;
    let _ = timeout(rest, std::future::pending::<()>()).await;
}

/// Refuses what the client opens beyond the streams of its session; ends when the client has gone.
async fn turn_others_away(connection: &mut Connection) {
    while let Some(stream) = connection.next().await {
        stream.refuse().await;
    }
}
