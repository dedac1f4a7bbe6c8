//! Another protocol's bytes in the binary messages of a WebSocket, whose borders mean nothing. The tunnel's own pings
//! and closes are answered here.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, ReadHalf};
use tracing::debug;

use super::frame::{CloseStatus, Decoder, Frame, MessageKind, put_close, put_message_head, put_pong};
use crate::socket::{READ_BYTES, Socket, reserve};
use crate::spdy;
use crate::writer::Sender;

/// Where the bytes of a connection come from.
pub(crate) struct Source {
    socket: ReadHalf<Socket>,
    tunnel: Option<Tunnel>,
}

struct Tunnel {
    decoder: Decoder,
    out: Sender<spdy::connection::Outgoing>,
    has_ended: bool,
}

/// What the tunnel says for itself.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// The answer to a ping.
    Pong(Bytes),
    /// The end.
    Close(CloseStatus),
}

impl Outgoing {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Pong(payload) => put_pong(payload, out),
            Self::Close(status) => put_close(*status, out),
        }
    }
}

/// Appends the message around the head of an inner frame, whose body of so many bytes follows.
pub(crate) fn put_head(inner: &[u8], body_bytes: usize, out: &mut BytesMut) {
    put_message_head(MessageKind::Binary, inner.len() + body_bytes, out);
    out.extend_from_slice(inner);
}

impl Source {
    /// The socket as it is.
    pub(crate) fn plain(socket: ReadHalf<Socket>) -> Self {
        Self { socket, tunnel: None }
    }

    /// What is inside the messages; `received` has been read already.
    pub(crate) fn tunnel(
        socket: ReadHalf<Socket>,
        received: &[u8],
        out: Sender<spdy::connection::Outgoing>,
    ) -> Self {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(received);
        Self { socket, tunnel: Some(Tunnel { decoder, out, has_ended: false }) }
    }

    /// Waits for more bytes and appends them; false at the end.
    pub(crate) async fn fill(&mut self, buffer: &mut BytesMut) -> bool {
        let Some(tunnel) = &mut self.tunnel else {
            reserve(buffer, READ_BYTES);
            return matches!(self.socket.read_buf(buffer).await, Ok(1..));
        };
        let before = buffer.len();
        loop {
            tunnel.unwrap_into(buffer).await;
            if buffer.len() > before || tunnel.has_ended {
                return buffer.len() > before;
            }
            let outer = tunnel.decoder.buffer();
            reserve(outer, READ_BYTES);
            if !matches!(self.socket.read_buf(outer).await, Ok(1..)) {
                return false;
            }
        }
    }
}

impl Tunnel {
    /// Appends what the frames hold that have been read.
    async fn unwrap_into(&mut self, buffer: &mut BytesMut) {
        while !self.has_ended {
            match self.decoder.decode() {
                Ok(Some(Frame::Data { bytes, .. })) => buffer.extend_from_slice(&bytes),
                Ok(Some(Frame::Ping(payload))) => self.say(Outgoing::Pong(payload)).await,
                Ok(Some(Frame::Pong(_))) => {}
                Ok(None) => return,
                Ok(Some(Frame::Close)) => self.end(CloseStatus::Normal).await,
                Err(error) => {
                    debug!(%error, "WebSocket ended");
                    self.end(CloseStatus::Protocol).await;
                }
            }
        }
    }

    async fn end(&mut self, status: CloseStatus) {
        self.has_ended = true;
        self.say(Outgoing::Close(status)).await;
    }

    async fn say(&self, outgoing: Outgoing) {
        let _ = self.out.send(spdy::connection::Outgoing::Tunnel(outgoing)).await;
    }
}
