//! A SPDY connection with the streams that the client opens: one task reads it, one writes it.
//!
//! ```text
//! socket ─▶ Reader ─┬─▶ new streams, to Connection::next, to be accepted or refused
//!                   ├─▶ data, to the Inlet of its stream; waits for room there
//!                   └─▶ windows, to whoever waits in Outlet::send
//! Outlets, Reader ─▶ writer ─▶ socket
//! ```
//! The server opens no streams. A stream that breaks the rules is reset, and the others go on; what can't be read ends
//! the connection. A peer that ignores flow control can fill a stream beyond its window: then the connection is not
//! read until there is room. Where many share a connection, a stream that keeps the others waiting too long is reset.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::flow::{DEFAULT_WINDOW, SendWindows};
use super::frame::{self, Frame, GoAwayStatus, INITIAL_WINDOW, ResetStatus, Setting};
use super::header::Headers;
use super::reader::Reader;
use crate::activity::Activity;
use crate::ends::{self, Gone, Inlet, MAX_PIECE_BYTES};
use crate::http::Client;
use crate::socket;
use crate::websocket::frame::CloseStatus;
use crate::websocket::tunnel::{self, Source};
use crate::writer::{self, Encode, Sender, Writer};

/// How much of a stream may be on its way, for clients that count.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The same for all streams of a connection. What limits them is the memory that is set apart for what waits.
pub(super) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A connection whose client opens streams.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: AbortOnDropHandle<()>,
    writer: Writer,
    streams: mpsc::Receiver<Stream>,
    shared: Arc<Shared>,
    carrier: Carrier,
}

/// How a connection is to be treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// What the frames go over.
    pub(crate) carrier: Carrier,
    /// How long it may carry no data.
    pub(crate) idle: Duration,
    /// Whether its streams have nothing to do with each other.
    pub(crate) sharing: Sharing,
}

/// Whether the streams of a connection have to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// They are the ends of one process. One that is not read keeps the others waiting, for as long as it takes.
    OneProcess,
    /// They are connections of their own. One that is not read may keep the others waiting for so long.
    Strangers(Duration),
}

/// A stream that the client has opened and waits to be accepted. One that is dropped is never answered.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Its id.
    pub(crate) id: u32,
    /// What it is for.
    pub(crate) headers: Headers,
    pub(super) inlet: Inlet,
    pub(super) outlet: Outlet,
}

/// What goes to the client on a stream.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(super) stream: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<StreamState>,
}

/// Tells the client how much has been taken out of a stream.
#[derive(Debug)]
pub(crate) struct Credit {
    stream: u32,
    taken: u32,
    out: Sender<Outgoing>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) out: Sender<Outgoing>,
    pub(super) windows: Mutex<SendWindows>,
    /// A window has grown, or a stream is gone.
    pub(super) changed: Notify,
    /// The last stream that the client has opened.
    pub(super) last_stream: AtomicU32,
    pub(super) activity: Arc<Activity>,
}

#[derive(Debug, Default)]
pub(super) struct StreamState {
    /// Nothing more is sent to the client.
    pub(super) is_closed: AtomicBool,
    /// The client has given it up.
    pub(super) is_reset: AtomicBool,
}

/// What is written: frames, and what belongs to the WebSocket around them.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A frame of ours.
    Frame(Frame),
    /// A frame of the tunnel.
    Tunnel(tunnel::Outgoing),
}

/// Whether frames go over the socket as they are, or inside the messages of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// As they are.
    Plain,
    /// Inside binary messages.
    WebSocket,
}

struct Encoder {
    frames: frame::Encoder,
    carrier: Carrier,
}

impl Encode for Encoder {
    type Item = Outgoing;

    fn encode(&mut self, item: Outgoing, head: &mut BytesMut) -> Bytes {
        let frame = match item {
            Outgoing::Frame(frame) => frame,
            Outgoing::Tunnel(outgoing) => {
                outgoing.encode(head);
                return Bytes::new();
            }
        };
        match self.carrier {
            Carrier::Plain => self.frames.encode(&frame, head),
            Carrier::WebSocket => {
                let mut inner = BytesMut::new();
                self.frames.encode(&frame, &mut inner);
                let body_bytes = if let Frame::Data { bytes, .. } = &frame { bytes.len() } else { 0 };
                tunnel::put_head(&inner, body_bytes, head);
            }
        }
        if let Frame::Data { bytes, .. } = frame { bytes } else { Bytes::new() }
    }
}

impl Connection {
    /// Takes over a client with whom the upgrade has been agreed.
    pub(crate) async fn open(client: Client, terms: Terms) -> Self {
        let Client { socket, received, hang_up, upgrade: _ } = client;
        let Terms { carrier, idle, sharing } = terms;
        let (read, write) = tokio::io::split(socket);
        let (out, writer) = writer::start(write, Encoder { frames: frame::Encoder::default(), carrier });
        let activity = Arc::new(Activity::default());
        let shared = Arc::new(Shared {
            out,
            windows: Mutex::default(),
            changed: Notify::new(),
            last_stream: AtomicU32::new(0),
            activity: Arc::clone(&activity),
        });
        for frame in [
            Frame::Settings(vec![Setting { id: INITIAL_WINDOW, value: STREAM_WINDOW }]),
            Frame::WindowUpdate { stream: 0, delta: CONNECTION_WINDOW - DEFAULT_WINDOW },
        ] {
            let _ = shared.send(frame).await;
        }
        let (opened, streams) = mpsc::channel(1);
        let mut reader = Reader::new(opened, sharing, hang_up, Arc::clone(&shared));
        let (received, source) = match carrier {
            Carrier::Plain => (received, Source::plain(read)),
            Carrier::WebSocket => (Bytes::new(), Source::tunnel(read, &received, shared.out.clone())),
        };
        let reading = async move {
            tokio::select! {
                () = reader.run(&received, source) => {}
                () = activity.idle(idle) => debug!("idle SPDY connection closed"),
            }
            reader.lose_streams();
        };
        let reader = AbortOnDropHandle::new(tokio::spawn(reading));
        Self { reader, writer, streams, shared, carrier }
    }

    /// The next stream that the client opens; none when its side of the connection has ended. Safe to drop.
    pub(crate) async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Says goodbye, after all that has been sent. Streams that are not finished end with it.
    pub(crate) async fn finish(self) {
        let Self { reader, writer, streams, shared, carrier } = self;
        drop(streams);
        let mut goodbye = vec![Outgoing::Frame(shared.goodbye(GoAwayStatus::Ok))];
        if carrier == Carrier::WebSocket {
            goodbye.push(Outgoing::Tunnel(tunnel::Outgoing::Close(CloseStatus::Normal)));
        }
        socket::close(goodbye, shared.out.clone(), writer, reader).await;
    }
}

impl Shared {
    pub(super) async fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.out.send(Outgoing::Frame(frame)).await
    }

    pub(super) fn goodbye(&self, status: GoAwayStatus) -> Frame {
        Frame::GoAway { last_stream: self.last_stream.load(Ordering::Acquire), status }
    }

    pub(super) fn windows(&self) -> MutexGuard<'_, SendWindows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// Lets the client begin.
    pub(crate) async fn accept(self) -> (Inlet, ends::Outlet) {
        let reply = Frame::SynReply { stream: self.id, headers: Headers::default(), fin: false };
        let _ = self.outlet.shared.send(reply).await;
        (self.inlet, ends::Outlet::Spdy(self.outlet))
    }

    /// Turns the client away.
    pub(crate) async fn refuse(mut self) {
        self.outlet.reset(ResetStatus::Refused).await;
    }
}

impl Outlet {
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len().min(MAX_PIECE_BYTES)).await?;
            let piece = bytes.split_to(room);
            self.shared.activity.note();
            self.shared.send(Frame::Data { stream: self.stream, bytes: piece, fin: false }).await?;
        }
        Ok(())
    }

    /// Waits for room in the client's windows.
    async fn room(&self, wanted: usize) -> Result<usize, Gone> {
        loop {
            let changed = self.shared.changed.notified();
            if self.state.is_reset.load(Ordering::Acquire) {
                return Err(Gone);
            }
            let room = self.shared.windows().take(self.stream, wanted);
            if room > 0 {
                return Ok(room);
            }
            changed.await;
        }
    }

    /// Waits until the client has given the stream up, or is gone.
    pub(crate) fn given_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let (shared, state) = (Arc::clone(&self.shared), Arc::clone(&self.state));
        async move {
            loop {
                let changed = shared.changed.notified();
                if state.is_reset.load(Ordering::Acquire) {
                    return;
                }
                changed.await;
            }
        }
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.state.is_reset.load(Ordering::Acquire)
    }

    pub(crate) async fn finish(&mut self) {
        if self.close() {
            let last = Frame::Data { stream: self.stream, bytes: Bytes::new(), fin: true };
            let _ = self.shared.send(last).await;
        }
    }

    pub(crate) async fn reset(&mut self, status: ResetStatus) {
        self.close();
        if !self.state.is_reset.swap(true, Ordering::AcqRel) {
            let _ = self.shared.send(Frame::Reset { stream: self.stream, status }).await;
        }
    }

    /// Answers whether it was still open.
    fn close(&self) -> bool {
        self.shared.windows().close(self.stream);
        let was_closed = self.state.is_closed.swap(true, Ordering::AcqRel);
        !was_closed && !self.state.is_reset.load(Ordering::Acquire)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.close();
    }
}

impl Credit {
    pub(super) fn new(stream: u32, out: Sender<Outgoing>) -> Self {
        Self { stream, taken: 0, out }
    }

    pub(crate) fn add(&mut self, length: usize) {
        self.taken = self.taken.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
    }

    /// Tells the client, if there is enough to tell. Safe to drop.
    pub(crate) async fn report(&mut self) {
        if self.taken >= STREAM_WINDOW / 2 {
            let update = Frame::WindowUpdate { stream: self.stream, delta: self.taken };
            let _ = self.out.send(Outgoing::Frame(update)).await;
            self.taken = 0;
        }
    }
}
