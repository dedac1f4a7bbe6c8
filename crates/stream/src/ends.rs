//! The ends of a stream of either protocol, as those who pump bytes see them: an [`Inlet`] gives what the client
//! sends, an [`Outlet`] takes what goes to the client.
//!
//! ```text
//! connection ─▶ Feed ═▶ Inlet ─▶ pump        pump ─▶ Outlet ─▶ writer
//!                 └─ waits while the pump does not take, and with it the whole connection: TCP holds the client back
//! ```
//! What waits is bounded for each stream in pieces, and for all streams of a connection in bytes ([`Budget`]).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::spdy;
use crate::websocket;
pub(crate) use crate::writer::Gone;

/// The largest piece that is sent or kept as one: what a pipe holds.
pub(crate) const MAX_PIECE_BYTES: usize = 64 * 1024;

/// How many pieces of one stream may wait.
const MAX_PIECES: usize = 8;

/// How many bytes of all streams of one connection may wait.
const BUDGET_BYTES: usize = 2 * 1024 * 1024;

/// Pieces shorter than this are copied, so that a few bytes do not keep the large buffer that they came in.
const COPY_BYTES: usize = MAX_PIECE_BYTES / 8;

/// What all streams of a connection may hold together.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES)))
    }
}

/// How the client's side of a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it: that was all.
    Finished,
    /// The client gave the stream up, in both directions.
    Reset,
    /// The connection is gone.
    Lost,
}

/// The connection's side of an inlet.
#[derive(Debug)]
pub(crate) struct Feed {
    pieces: mpsc::Sender<Piece>,
    end: Arc<OnceLock<End>>,
    budget: Budget,
}

/// What the client sends on a stream.
#[derive(Debug)]
pub(crate) struct Inlet {
    pieces: mpsc::Receiver<Piece>,
    end: Arc<OnceLock<End>>,
    credit: Option<spdy::connection::Credit>,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    _held: OwnedSemaphorePermit,
}

impl Inlet {
    /// A new one; what is taken out of it is reported to the client by way of `credit`.
    pub(crate) fn new(budget: &Budget, credit: Option<spdy::connection::Credit>) -> (Feed, Self) {
        let (sender, receiver) = mpsc::channel(MAX_PIECES);
        let end = Arc::new(OnceLock::new());
        let feed = Feed { pieces: sender, end: Arc::clone(&end), budget: budget.clone() };
        (feed, Self { pieces: receiver, end, credit })
    }

    /// The next bytes; none at the end. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        if let Some(credit) = &mut self.credit {
            credit.report().await;
        }
        let piece = self.pieces.recv().await?;
        if let Some(credit) = &mut self.credit {
            credit.add(piece.bytes.len());
        }
        Some(piece.bytes)
    }

    /// How it ended, once [`Self::next`] has given nothing.
    pub(crate) fn end(&self) -> End {
        self.end.get().copied().unwrap_or(End::Lost)
    }
}

impl Feed {
    /// Passes bytes on; waits for room. What nobody takes any more is dropped.
    pub(crate) async fn put(&self, bytes: Bytes) {
        if bytes.is_empty() || self.pieces.is_closed() {
            return;
        }
        let bytes = if bytes.len() < COPY_BYTES { Bytes::copy_from_slice(&bytes) } else { bytes };
        let length = u32::try_from(bytes.len().min(BUDGET_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.budget.0).acquire_many_owned(length);
        let held = tokio::select! {
            held = room => held,
            () = self.pieces.closed() => return,
        };
        if let Ok(held) = held {
            let _ = self.pieces.send(Piece { bytes, _held: held }).await;
        }
    }

    /// Says how the client's side ended; what was passed on before is still given.
    pub(crate) fn end(self, end: End) {
        let _ = self.end.set(end);
    }
}

/// What goes to the client on a stream.
#[derive(Debug)]
pub(crate) enum Outlet {
    /// A stream of SPDY.
    Spdy(spdy::connection::Outlet),
    /// A channel of a WebSocket.
    WebSocket(websocket::connection::Outlet),
}

impl Outlet {
    /// Sends bytes; waits while the client has no room.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Self::Spdy(outlet) => outlet.send(bytes).await,
            Self::WebSocket(outlet) => outlet.send(bytes).await,
        }
    }

    /// Waits until the client has given the stream up, where the protocol can say so.
    pub(crate) fn given_up(&self) -> BoxFuture<'static, ()> {
        match self {
            Self::Spdy(outlet) => Box::pin(outlet.given_up()),
            Self::WebSocket(_) => Box::pin(std::future::pending()),
        }
    }

    /// Whether the stream was given up by either side.
    pub(crate) fn is_reset(&self) -> bool {
        match self {
            Self::Spdy(outlet) => outlet.is_reset(),
            Self::WebSocket(_) => false,
        }
    }

    /// Says that nothing more comes. A WebSocket can say so only for all of its channels, when it is closed.
    pub(crate) async fn finish(&mut self) {
        match self {
            Self::Spdy(outlet) => outlet.finish().await,
            Self::WebSocket(_) => {}
        }
    }

    /// Gives the stream up in both directions, where the protocol can.
    pub(crate) async fn reset(&mut self) {
        match self {
            Self::Spdy(outlet) => outlet.reset(spdy::frame::ResetStatus::Internal).await,
            Self::WebSocket(_) => {}
        }
    }
}
