//! A client that speaks WebSocket, which does as it is told, also when that is wrong.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{request, within};

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    received: BytesMut,
}

/// A frame of the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

const MASK: [u8; 4] = [1, 2, 3, 4];

impl Client {
    pub(crate) async fn connect(url: &str, protocol: &str) -> Self {
        let head = format!(
            "GET PATH HTTP/1.1\nHost: h\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: {protocol}"
        );
        let (answer, received, socket) = request(url, &head).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        Self { socket, received }
    }

    pub(crate) async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![0x80 | opcode, 0x80 | 126, length[0], length[1]];
        if payload.len() < 126 {
            frame = vec![0x80 | opcode, 0x80 | length[1]];
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        within(self.socket.write_all(&frame)).await.unwrap();
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let head = self.take(2).await?;
        let length = match head[1] {
            126 => self.take(2).await?.get_u16().into(),
            127 => self.take(8).await?.get_u64(),
            short => short.into(),
        };
        assert!(head[0] & 0xf0 == 0x80 && head[1] < 128, "{head:?}");
        let payload = self.take(usize::try_from(length).unwrap()).await?.to_vec();
        Some(Frame { opcode: head[0] & 0x0f, payload })
    }

    async fn take(&mut self, length: usize) -> Option<BytesMut> {
        while self.received.len() < length {
            if within(self.socket.read_buf(&mut self.received)).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(self.received.split_to(length))
    }

    /// What comes on each of the channels until the server says goodbye, which it has to.
    pub(crate) async fn collect(&mut self) -> [Vec<u8>; 6] {
        let mut channels = <[Vec<u8>; 6]>::default();
        loop {
            let frame = self.frame().await.expect("no goodbye");
            match frame.opcode {
                CLOSE => {
                    assert_eq!(frame.payload, [3, 232]);
                    return channels;
                }
                _ => channels[usize::from(frame.payload[0])].extend_from_slice(&frame.payload[1..]),
            }
        }
    }
}
