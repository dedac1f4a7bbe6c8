//! A WebSocket whose messages belong to channels: one task reads it, one writes it.
//!
//! Pings are answered; a close is answered and ends the connection, as does anything malformed. When the client's side
//! has ended, however, all inlets end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::channel::{ChannelError, Demultiplexer, Encoding, Event, Format, message};
use super::frame::{CloseStatus, Decoder, Frame, FrameError, put_close, put_pong};
use crate::activity::Activity;
use crate::ends::{self, Budget, End, Feed, Gone, Inlet, MAX_PIECE_BYTES};
use crate::http::Client;
use crate::socket::{self, HangUp, HungUp, READ_BYTES, Socket, reserve};
use crate::writer::{self, Encode, Sender, Writer};

/// A WebSocket with channels.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: AbortOnDropHandle<()>,
    writer: Writer,
    out: Sender<Outgoing>,
}

/// What goes to the client on a channel.
#[derive(Debug)]
pub(crate) struct Outlet {
    channel: u8,
    out: Sender<Outgoing>,
    activity: Arc<Activity>,
}

#[derive(Debug)]
enum Outgoing {
    Message(u8, Bytes),
    Pong(Bytes),
    Close(CloseStatus),
}

struct Encoder(Encoding);

impl Encode for Encoder {
    type Item = Outgoing;

    fn encode(&mut self, item: Outgoing, head: &mut BytesMut) -> Bytes {
        match item {
            Outgoing::Message(channel, bytes) => return message(self.0, channel, bytes, head),
            Outgoing::Pong(payload) => put_pong(&payload, head),
            Outgoing::Close(status) => put_close(status, head),
        }
        Bytes::new()
    }
}

impl Connection {
    /// Takes over a client with whom the upgrade has been agreed. There is an inlet and an outlet for each channel,
    /// whether or not both are used.
    pub(crate) fn open(
        client: Client,
        format: Format,
        channels: u8,
        idle: Duration,
    ) -> (Self, Vec<(Inlet, ends::Outlet)>) {
        let Client { socket, received, hang_up, upgrade: _ } = client;
        let (read, write) = tokio::io::split(socket);
        let (out, writer) = writer::start(write, Encoder(format.encoding));
        let (activity, budget) = (Arc::new(Activity::default()), Budget::default());
        let mut feeds = Vec::new();
        let ends = (0..channels)
            .map(|channel| {
                let (feed, inlet) = Inlet::new(&budget, None);
                feeds.push(Some(feed));
                let outlet = Outlet { channel, out: out.clone(), activity: Arc::clone(&activity) };
                (inlet, ends::Outlet::WebSocket(outlet))
            })
            .collect();
        let mut reader = Reader {
            decoder: Decoder::default(),
            demultiplexer: Demultiplexer::new(format),
            feeds,
            hang_up,
            out: out.clone(),
            activity: Arc::clone(&activity),
        };
        reader.decoder.buffer().extend_from_slice(&received);
        let reading = async move {
            tokio::select! {
                () = reader.run(read) => {}
                () = activity.idle(idle) => debug!("idle WebSocket closed"),
            }
        };
        let reader = AbortOnDropHandle::new(tokio::spawn(reading));
        (Self { reader, writer, out }, ends)
    }

    /// Waits until the client's side has ended.
    pub(crate) async fn lost(&mut self) {
        let _ = (&mut self.reader).await;
    }

    /// Says goodbye, after all that has been sent. The channels have to be dropped before.
    pub(crate) async fn finish(self) {
        socket::close(vec![Outgoing::Close(CloseStatus::Normal)], self.out, self.writer, self.reader).await;
    }
}

impl Outlet {
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        loop {
            let piece = bytes.split_to(bytes.len().min(MAX_PIECE_BYTES));
            self.out.send(Outgoing::Message(self.channel, piece)).await?;
            self.activity.note();
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }
}

struct Reader {
    decoder: Decoder,
    demultiplexer: Demultiplexer,
    feeds: Vec<Option<Feed>>,
    hang_up: HangUp,
    out: Sender<Outgoing>,
    activity: Arc<Activity>,
}

/// Why the reading ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the client said goodbye")]
    Close,
    #[error("the client has hung up, and what it sent is not read")]
    HungUp,
}

impl From<HungUp> for Ended {
    fn from(_: HungUp) -> Self {
        Self::HungUp
    }
}

impl Reader {
    async fn run(&mut self, mut socket: ReadHalf<Socket>) {
        loop {
            if let Err(ended) = self.pass_on().await {
                let status = match ended {
                    Ended::Close | Ended::HungUp => CloseStatus::Normal,
                    Ended::Frame(_) | Ended::Channel(_) => CloseStatus::Protocol,
                };
                debug!(error = %ended, "WebSocket ended");
                let _ = self.out.send(Outgoing::Close(status)).await;
                return;
            }
            let buffer = self.decoder.buffer();
            reserve(buffer, READ_BYTES);
            match socket.read_buf(buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    async fn pass_on(&mut self) -> Result<(), Ended> {
        while let Some(frame) = self.decoder.decode()? {
            let event = match frame {
                Frame::Data { bytes, begins, ends } => self.demultiplexer.read(bytes, begins, ends)?,
                Frame::Ping(payload) => {
                    let _ = self.out.send(Outgoing::Pong(payload)).await;
                    continue;
                }
                Frame::Pong(_) => continue,
                Frame::Close => return Err(Ended::Close),
            };
            match event {
                Some(Event::Bytes(channel, bytes)) => {
                    self.activity.note();
                    if let Some(Some(feed)) = self.feeds.get(usize::from(channel)) {
                        self.hang_up.bound(feed.put(bytes)).await?;
                    }
                }
                Some(Event::Close(channel)) => {
                    if let Some(feed) = self.feeds.get_mut(usize::from(channel)).and_then(Option::take) {
                        feed.end(End::Finished);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }
}
