//! The task that reads a SPDY connection, and knows all of its streams. See [`super::connection`].

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::connection::{CONNECTION_WINDOW, Credit, Outlet, Shared, Sharing, Stream, StreamState};
use super::flow::Overflow;
use super::frame::{Decoder, Frame, FrameError, GoAwayStatus, ResetStatus};
use super::header::Headers;
use crate::ends::{Budget, End, Feed, Inlet};
use crate::socket::{HangUp, HungUp};
use crate::websocket::tunnel::Source;

/// How many streams may be open at once. A forwarded connection takes two.
pub(crate) const MAX_STREAMS: usize = 1024;

/// Reads a connection to its end.
pub(super) struct Reader {
    decoder: Decoder,
    streams: HashMap<u32, Entry>,
    /// The number of streams at which those that have ended are looked for.
    sweep_at: usize,
    /// How much has been received and not told to the client as room in the window of the connection.
    unreported: u32,
    sharing: Sharing,
    hang_up: HangUp,
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
    #[error("the client has hung up, and what it sent is not read")]
    HungUp,
}

impl From<HungUp> for Ended {
    fn from(_: HungUp) -> Self {
        Self::HungUp
    }
}

impl From<Overflow> for Ended {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

impl Reader {
    pub(super) fn new(
        opened: mpsc::Sender<Stream>,
        sharing: Sharing,
        hang_up: HangUp,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            decoder: Decoder::default(),
            streams: HashMap::new(),
            sweep_at: 2,
            unreported: 0,
            sharing,
            hang_up,
            opened,
            budget: Budget::default(),
            shared,
        }
    }

    /// Passes on what comes, until the client's side ends or makes no sense; `received` has come already.
    pub(super) async fn run(&mut self, received: &[u8], mut source: Source) {
        self.decoder.buffer().extend_from_slice(received);
        loop {
            if let Err(ended) = self.pass_on().await {
                debug!(error = &ended as &dyn std::error::Error, "SPDY connection ended");
                let _ = self.shared.send(self.shared.goodbye(GoAwayStatus::Protocol)).await;
                break;
            }
            if !source.fill(self.decoder.buffer()).await {
                break;
            }
        }
    }

    /// Who waits to send on a stream is to learn that nobody listens.
    pub(super) fn lose_streams(&self) {
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
                    self.data(stream, bytes).await?;
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
        let last = self.shared.last_stream.load(Ordering::Acquire);
        if id.is_multiple_of(2) || id <= last || unidirectional {
            return self.reset(id, ResetStatus::Protocol).await;
        }
        self.shared.last_stream.store(id, Ordering::Release);
        if self.streams.len() >= self.sweep_at {
            self.streams.retain(|_, entry| !entry.has_ended());
            self.sweep_at = (2 * self.streams.len()).clamp(16, MAX_STREAMS);
        }
        if self.streams.len() >= MAX_STREAMS {
            return self.reset(id, ResetStatus::Refused).await;
        }
        let state = Arc::new(StreamState::default());
        let credit = Credit::new(id, self.shared.out.clone());
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

    async fn data(&mut self, stream: u32, bytes: Bytes) -> Result<(), HungUp> {
        self.unreported = self.unreported.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if self.unreported >= CONNECTION_WINDOW / 2 {
            let _ = self.shared.send(Frame::WindowUpdate { stream: 0, delta: self.unreported }).await;
            self.unreported = 0;
        }
        if stream > self.shared.last_stream.load(Ordering::Acquire) {
            self.reset(stream, ResetStatus::InvalidStream).await;
            return Ok(());
        }
        if self.hang_up.bound(self.put(stream, bytes)).await? == Put::KeepsOthersWaiting {
            debug!(stream, "SPDY stream reset, which kept others waiting");
            self.reset(stream, ResetStatus::FlowControl).await;
            self.end(stream, End::Reset);
        }
        Ok(())
    }

    /// Passes data on and waits for room. The stream may have been reset meanwhile; then what was on its way is
    /// dropped.
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
