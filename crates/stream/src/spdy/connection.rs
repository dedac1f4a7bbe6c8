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

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::flow::{DEFAULT_WINDOW, Overflow, SendWindows};
use super::frame::{self, Decoder, Frame, FrameError, GoAwayStatus, INITIAL_WINDOW, ResetStatus, Setting};
use super::header::Headers;
use crate::activity::Activity;
use crate::ends::{self, Budget, End, Feed, Gone, Inlet, MAX_PIECE_BYTES};
use crate::socket::{self, Socket};
use crate::websocket::frame::CloseStatus;
use crate::websocket::tunnel::{self, Source};
use crate::writer::{self, Encode, Sender, Writer};

/// How many streams may be open at once. A forwarded connection takes two.
const MAX_STREAMS: usize = 1024;

/// How much of a stream may be on its way, for clients that count.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The same for all streams of a connection. What limits them is the memory that is set apart for what waits.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

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
    inlet: Inlet,
    outlet: Outlet,
}

/// What goes to the client on a stream.
#[derive(Debug)]
pub(crate) struct Outlet {
    stream: u32,
    shared: Arc<Shared>,
    state: Arc<StreamState>,
}

/// Tells the client how much has been taken out of a stream.
#[derive(Debug)]
pub(crate) struct Credit {
    stream: u32,
    taken: u32,
    out: Sender<Outgoing>,
}

#[derive(Debug)]
struct Shared {
    out: Sender<Outgoing>,
    windows: Mutex<SendWindows>,
    /// A window has grown, or a stream is gone.
    changed: Notify,
    activity: Arc<Activity>,
}

#[derive(Debug, Default)]
struct StreamState {
    /// Nothing more is sent to the client.
    is_closed: AtomicBool,
    /// The client has given it up.
    is_reset: AtomicBool,
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
    /// Takes over a socket on which the upgrade has been agreed to; `received` came right after it.
    pub(crate) async fn open(socket: Socket, received: &[u8], terms: Terms) -> Self {
        let Terms { carrier, idle, sharing } = terms;
        let (read, write) = tokio::io::split(socket);
        let (out, writer) = writer::start(write, Encoder { frames: frame::Encoder::default(), carrier });
        let activity = Arc::new(Activity::default());
        let shared = Arc::new(Shared {
            out,
            windows: Mutex::default(),
            changed: Notify::new(),
            activity: Arc::clone(&activity),
        });
        for frame in [
            Frame::Settings(vec![Setting { id: INITIAL_WINDOW, value: STREAM_WINDOW }]),
            Frame::WindowUpdate { stream: 0, delta: CONNECTION_WINDOW - DEFAULT_WINDOW },
        ] {
            let _ = shared.send(frame).await;
        }
        let (opened, streams) = mpsc::channel(1);
        let mut reader = Reader {
            decoder: Decoder::default(),
            streams: HashMap::new(),
            sweep_at: 2,
            last_stream: 0,
            unreported: 0,
            sharing,
            opened,
            budget: Budget::default(),
            shared: Arc::clone(&shared),
        };
        let source = match carrier {
            Carrier::Plain => {
                reader.decoder.buffer().extend_from_slice(received);
                Source::plain(read)
            }
            Carrier::WebSocket => Source::tunnel(read, received, shared.out.clone()),
        };
        let reading = async move {
            tokio::select! {
                () = reader.run(source) => {}
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
        let mut goodbye = vec![Outgoing::Frame(Frame::GoAway { last_stream: 0, status: GoAwayStatus::Ok })];
        if carrier == Carrier::WebSocket {
            goodbye.push(Outgoing::Tunnel(tunnel::Outgoing::Close(CloseStatus::Normal)));
        }
        socket::close(goodbye, shared.out.clone(), writer, reader).await;
    }
}

impl Shared {
    async fn send(&self, frame: Frame) -> Result<(), Gone> {
        self.out.send(Outgoing::Frame(frame)).await
    }

    fn windows(&self) -> MutexGuard<'_, SendWindows> {
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

struct Reader {
    decoder: Decoder,
    streams: HashMap<u32, Entry>,
    /// The number of streams at which those that have ended are looked for.
    sweep_at: usize,
    last_stream: u32,
    /// How much has been received and not told to the client as room in the window of the connection.
    unreported: u32,
    sharing: Sharing,
    opened: mpsc::Sender<Stream>,
    budget: Budget,
    shared: Arc<Shared>,
}

struct Entry {
    /// Absent when the client has closed its side.
    feed: Option<Feed>,
    state: Arc<StreamState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Put {
    Done,
    KeepsOthersWaiting,
}

/// Why the reading ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the client gave more room than a window can have")]
    Overflow,
}

impl From<Overflow> for Ended {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

impl Reader {
    async fn run(&mut self, mut source: Source) {
        loop {
            if let Err(ended) = self.pass_on().await {
                debug!(error = &ended as &dyn std::error::Error, "SPDY connection ended");
                let status = GoAwayStatus::Protocol;
                let _ = self.shared.send(Frame::GoAway { last_stream: self.last_stream, status }).await;
                break;
            }
            if !source.fill(self.decoder.buffer()).await {
                break;
            }
        }
    }

    /// Who waits to send on a stream is to learn that nobody listens.
    fn lose_streams(&self) {
        for entry in self.streams.values() {
            entry.state.is_reset.store(true, Ordering::Release);
        }
        self.shared.changed.notify_waiters();
    }

    async fn pass_on(&mut self) -> Result<(), Ended> {
        while let Some(frame) = self.decoder.decode()? {
            match frame {
                Frame::SynStream { stream, headers, fin, unidirectional } => {
                    self.shared.activity.note();
                    self.open(stream, headers, fin, unidirectional).await;
                }
                Frame::Data { stream, bytes, fin } => {
                    self.shared.activity.note();
                    self.data(stream, bytes).await;
                    if fin {
                        self.end(stream, End::Finished);
                    }
                }
                Frame::Headers { stream, fin: true, .. } => self.end(stream, End::Finished),
                Frame::Reset { stream, .. } => self.end(stream, End::Reset),
                Frame::Settings(settings) => {
                    self.shared.windows().set(&settings);
                    self.shared.changed.notify_waiters();
                }
                Frame::WindowUpdate { stream, delta } => {
                    self.shared.windows().update(stream, delta)?;
                    self.shared.changed.notify_waiters();
                }
                // Odd ids are the client's own pings; an answer to a ping of ours can't be, as we send none.
                Frame::Ping(id) if !id.is_multiple_of(2) => {
                    let _ = self.shared.send(Frame::Ping(id)).await;
                }
                Frame::Ping(_) | Frame::SynReply { .. } | Frame::Headers { .. } | Frame::GoAway { .. } => {}
            }
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool, unidirectional: bool) {
        if id.is_multiple_of(2) || id <= self.last_stream || unidirectional {
            return self.reset(id, ResetStatus::Protocol).await;
        }
        self.last_stream = id;
        if self.streams.len() >= self.sweep_at {
            self.streams.retain(|_, entry| !entry.has_ended());
            self.sweep_at = (2 * self.streams.len()).clamp(16, MAX_STREAMS);
        }
        if self.streams.len() >= MAX_STREAMS {
            return self.reset(id, ResetStatus::Refused).await;
        }
        let state = Arc::new(StreamState::default());
        let credit = Credit { stream: id, taken: 0, out: self.shared.out.clone() };
        let (feed, inlet) = Inlet::new(&self.budget, Some(credit));
        self.shared.windows().open(id);
        self.streams.insert(id, Entry { feed: Some(feed), state: Arc::clone(&state) });
        if fin {
            self.end(id, End::Finished);
        }
        let outlet = Outlet { stream: id, shared: Arc::clone(&self.shared), state };
        // Nobody takes streams any more when the session ends.
        if let Err(mpsc::error::SendError(stream)) =
            self.opened.send(Stream { id, headers, inlet, outlet }).await
        {
            stream.refuse().await;
        }
    }

    async fn reset(&self, stream: u32, status: ResetStatus) {
        let _ = self.shared.send(Frame::Reset { stream, status }).await;
    }

    async fn data(&mut self, stream: u32, bytes: Bytes) {
        self.unreported = self.unreported.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if self.unreported >= CONNECTION_WINDOW / 2 {
            let _ = self.shared.send(Frame::WindowUpdate { stream: 0, delta: self.unreported }).await;
            self.unreported = 0;
        }
        if stream > self.last_stream {
            return self.reset(stream, ResetStatus::InvalidStream).await;
        }
        if self.put(stream, bytes).await == Put::KeepsOthersWaiting {
            debug!(stream, "SPDY stream reset, which kept others waiting");
            self.reset(stream, ResetStatus::FlowControl).await;
            self.end(stream, End::Reset);
        }
    }

    /// Passes data on and waits for room. The stream may have been reset meanwhile; then what was on its way is dropped.
    async fn put(&self, stream: u32, bytes: Bytes) -> Put {
        let Some(Entry { feed: Some(feed), .. }) = self.streams.get(&stream) else { return Put::Done };
        let mut put = pin!(feed.put(bytes));
        let Sharing::Strangers(patience) = self.sharing else {
            put.await;
            return Put::Done;
        };
        while timeout(patience, &mut put).await.is_err() {
            let mut others = self.streams.iter().filter(|(id, entry)| **id != stream && entry.feed.is_some());
            if others.any(|(_, entry)| !entry.has_ended()) {
                return Put::KeepsOthersWaiting;
            }
        }
        Put::Done
    }

    /// The client's side of a stream has ended.
    fn end(&mut self, stream: u32, end: End) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if end == End::Reset {
            entry.state.is_reset.store(true, Ordering::Release);
            self.shared.windows().close(stream);
            self.shared.changed.notify_waiters();
        }
        if let Some(feed) = entry.feed.take() {
            feed.end(end);
        }
        if entry.has_ended() {
            self.streams.remove(&stream);
        }
    }
}

impl Entry {
    fn has_ended(&self) -> bool {
        let is_closed = self.feed.is_none() && self.state.is_closed.load(Ordering::Acquire);
        is_closed || self.state.is_reset.load(Ordering::Acquire)
    }
}
