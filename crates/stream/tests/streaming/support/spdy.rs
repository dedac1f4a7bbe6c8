//! A client that speaks SPDY, which does as it is told, also when that is wrong.

use std::collections::HashMap;

use berth_stream::spdy::frame::{Decoder, Encoder, Frame};
use berth_stream::spdy::header::Headers;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{request, within};

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    encoder: Encoder,
    decoder: Decoder,
    next_stream: u32,
}

/// What came on a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_finished: bool,
    pub(crate) is_reset: bool,
}

impl Received {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

impl Client {
    pub(crate) async fn connect(url: &str, protocol: &str) -> Self {
        let head = format!(
            "POST PATH HTTP/1.1\nHost: h\nConnection: Upgrade\nUpgrade: SPDY/3.1\n\
             X-Stream-Protocol-Version: {protocol}\nContent-Length: 0"
        );
        let (answer, rest, socket) = request(url, &head).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(
            answer.to_lowercase().contains(&format!("x-stream-protocol-version: {protocol}")),
            "{answer}"
        );
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&rest);
        Self { socket, encoder: Encoder::default(), decoder, next_stream: 1 }
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        self.try_send(frame).await.unwrap();
    }

    /// Sends to a server that may have gone.
    pub(crate) async fn try_send(&mut self, frame: Frame) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        self.encoder.encode(&frame, &mut out);
        if let Frame::Data { bytes, .. } = &frame {
            out.extend_from_slice(bytes);
        }
        within(self.socket.write_all(&out)).await
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        self.send(Frame::Data { stream, bytes: Bytes::copy_from_slice(bytes), fin }).await;
    }

    /// Opens a stream and waits for the answer; what else comes before that is lost.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32, Frame> {
        let stream = self.begin(headers).await;
        loop {
            match self.frame().await.expect("the connection has ended") {
                Frame::SynReply { stream: answered, .. } if answered == stream => return Ok(stream),
                frame @ Frame::Reset { stream: reset, .. } if reset == stream => return Err(frame),
                Frame::Settings(_) | Frame::WindowUpdate { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Opens a stream and does not wait.
    pub(crate) async fn begin(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let headers = Headers::from_iter(headers.iter().copied());
        self.send(Frame::SynStream { stream, headers, fin: false, unidirectional: false }).await;
        stream
    }

    /// Opens the streams of a command.
    pub(crate) async fn open_all(&mut self, names: &[&str]) -> Vec<u32> {
        let mut streams = Vec::new();
        for name in names {
            // The output of a command that starts with the last stream may come before anything else is asked for.
            streams.push(self.begin(&[("streamtype", name)]).await);
        }
        streams
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode().unwrap() {
                return Some(frame);
            }
            // A server that goes while we still send may reset the connection.
            if within(self.socket.read_buf(self.decoder.buffer())).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// All that comes until the server says goodbye, by stream.
    pub(crate) async fn collect(&mut self) -> HashMap<u32, Received> {
        let mut received = HashMap::<u32, Received>::new();
        while let Some(frame) = self.frame().await {
            match frame {
                Frame::Data { stream, bytes, fin } => {
                    let stream = received.entry(stream).or_default();
                    assert!(!stream.is_finished, "data after the end");
                    stream.bytes.extend_from_slice(&bytes);
                    stream.is_finished = fin;
                }
                Frame::Reset { stream, .. } => received.entry(stream).or_default().is_reset = true,
                Frame::GoAway { last_stream, .. } => {
                    assert_eq!(last_stream + 2, self.next_stream, "a stream that was not seen");
                    break;
                }
                _ => {}
            }
        }
        received
    }
}
