//! Channels: several streams in the messages of one WebSocket. Pure.
//!
//! ```text
//! binary   channel (a byte) │ bytes                  close, from v5 on: 255 │ channel
//! base64   channel (a digit) │ bytes in base64
//! ```
//! A message is given on in pieces as it comes, as [`mod@super::frame`] gives them; base64 is decoded in groups of
//! four, over the borders of pieces. What comes for a channel that there is not is dropped, as the peers do. Source:
//! Kubernetes, k8s.io/streaming, the text on the subprotocols.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{MessageKind, put_message_head};

/// The channel byte of a message that closes another channel.
const CLOSE: u8 = 255;

/// How channels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bytes as they are, or in base64.
    pub encoding: Encoding,
    /// Whether a client can close one channel.
    pub has_close: bool,
}

/// How the bytes of a channel are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Binary,
    /// As text.
    Base64,
}

/// What a piece of a message means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes for a channel; never none.
    Bytes(u8, Bytes),
    /// The client sends nothing more on a channel.
    Close(u8),
}

/// Why a connection can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The text is no base64.
    #[error("read WebSocket channel {channel}: no base64")]
    Base64 {
        /// The channel.
        channel: u8,
    },
    /// A message that closes a channel names none, or several.
    #[error("read WebSocket channel 255: it has to name one channel to close")]
    Close,
}

/// Reads the messages of one connection.
#[derive(Debug)]
pub struct Demultiplexer {
    format: Format,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// The next byte names the channel.
    Channel,
    Bytes(u8),
    /// Text whose number of letters does not fill a group yet.
    Base64 {
        channel: u8,
        rest: Vec<u8>,
    },
    Close(Option<u8>),
}

impl Demultiplexer {
    /// For the messages of a new connection.
    pub fn new(format: Format) -> Self {
        Self { format, state: State::Channel }
    }

    /// What a piece of a message means; often nothing.
    ///
    /// # Errors
    /// The message is malformed; the connection has to end.
    pub fn read(
        &mut self,
        mut piece: Bytes,
        begins: bool,
        ends: bool,
    ) -> Result<Option<Event>, ChannelError> {
        if begins {
            self.state = State::Channel;
        }
        if matches!(self.state, State::Channel) {
            let Ok(channel) = piece.try_get_u8() else { return Ok(None) };
            self.state = match self.format {
                Format { has_close: true, .. } if channel == CLOSE => State::Close(None),
                Format { encoding: Encoding::Binary, .. } => State::Bytes(channel),
                Format { encoding: Encoding::Base64, .. } => {
                    State::Base64 { channel: channel.wrapping_sub(b'0'), rest: Vec::new() }
                }
            };
        }
        match &mut self.state {
            State::Channel => Ok(None),
            State::Bytes(channel) => Ok((!piece.is_empty()).then_some(Event::Bytes(*channel, piece))),
            State::Base64 { channel, rest } => {
                let bytes = decode(rest, &piece, ends).ok_or(ChannelError::Base64 { channel: *channel })?;
                Ok((!bytes.is_empty()).then(|| Event::Bytes(*channel, bytes.into())))
            }
            State::Close(target) => {
                for byte in piece {
                    if target.replace(byte).is_some() {
                        return Err(ChannelError::Close);
                    }
                }
                if !ends {
                    return Ok(None);
                }
                target.map(Event::Close).map(Some).ok_or(ChannelError::Close)
            }
        }
    }
}

/// Decodes the groups of four that are whole, and keeps the rest for the next piece. None for what is no base64.
fn decode(rest: &mut Vec<u8>, piece: &[u8], ends: bool) -> Option<Vec<u8>> {
    rest.extend_from_slice(piece);
    // Only the last group may be padded, so it is kept back until it is known to be the last, or not to be.
    let whole = if ends { rest.len() } else { rest.len().saturating_sub(1) / 4 * 4 };
    let groups = rest.get(..whole)?;
    if !ends && groups.ends_with(b"=") {
        return None;
    }
    let bytes = BASE64_STANDARD.decode(groups).ok()?;
    rest.drain(..whole);
    Some(bytes)
}

/// A message of one channel: appends what goes before its bytes to `head`, and answers with these as they are sent.
pub fn message(encoding: Encoding, channel: u8, bytes: Bytes, head: &mut BytesMut) -> Bytes {
    let (kind, channel, body) = match encoding {
        Encoding::Binary => (MessageKind::Binary, channel, bytes),
        Encoding::Base64 => {
            (MessageKind::Text, b'0'.wrapping_add(channel), Bytes::from(BASE64_STANDARD.encode(bytes)))
        }
    };
    put_message_head(kind, 1 + body.len(), head);
    head.put_u8(channel);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: Format = Format { encoding: Encoding::Binary, has_close: false };
    const BASE64: Format = Format { encoding: Encoding::Base64, has_close: false };
    const CLOSING: Format = Format { encoding: Encoding::Binary, has_close: true };

    fn read(format: Format, message: &[u8], size: usize) -> Result<Vec<Event>, ChannelError> {
        let mut demultiplexer = Demultiplexer::new(format);
        let mut events = Vec::new();
        let count = message.len().div_ceil(size).max(1);
        for number in 0..count {
            let end = message.len().min((number + 1) * size);
            let piece = Bytes::copy_from_slice(&message[number * size..end]);
            events.extend(demultiplexer.read(piece, number == 0, number + 1 == count)?);
        }
        Ok(events)
    }

    fn bytes(channel: u8, bytes: &'static [u8]) -> Event {
        Event::Bytes(channel, Bytes::from_static(bytes))
    }

    #[test]
    fn messages_are_told_apart_by_their_first_byte() {
        let cases: [(Format, &[u8], Vec<Event>); 9] = [
            (BINARY, b"\x00foo\n", vec![bytes(0, b"foo\n")]),
            (BINARY, b"\x04", vec![]),
            (BINARY, b"", vec![]),
            (BINARY, b"\xff\x00", vec![bytes(255, b"\0")]),
            (CLOSING, b"\xff\x00", vec![Event::Close(0)]),
            (CLOSING, b"\x00foo", vec![bytes(0, b"foo")]),
            (BASE64, b"0Zm9vCg==", vec![bytes(0, b"foo\n")]),
            (BASE64, b"4", vec![]),
            (BASE64, b"\x00Zm9v", vec![bytes(0xd0, b"foo")]),
        ];
        for (format, message, expected) in cases {
            assert_eq!(read(format, message, 64), Ok(expected), "{message:?}");
        }
    }

    #[test]
    fn pieces_add_up_to_what_was_sent() {
        let sent: Vec<u8> = (0..=255).chain(0..77).collect();
        for format in [BINARY, BASE64] {
            let mut message_bytes = BytesMut::new();
            let body = message(format.encoding, 1, sent.clone().into(), &mut message_bytes);
            message_bytes.extend_from_slice(&body);
            // Past the head of the frame: two bytes, and two for a length of this size.
            let message_bytes = &message_bytes[4..];
            for size in [1, 2, 3, 4, 5, 6, 7, 8, 100, 1000] {
                let mut joined = Vec::new();
                for event in read(format, message_bytes, size).unwrap() {
                    let Event::Bytes(1, bytes) = event else { panic!("{event:?}") };
                    joined.extend_from_slice(&bytes);
                }
                assert_eq!(joined, sent, "{format:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let base64 = ChannelError::Base64 { channel: 0 };
        let cases: [(Format, &[u8], ChannelError); 7] = [
            (CLOSING, b"\xff", ChannelError::Close),
            (CLOSING, b"\xff\x00\x01", ChannelError::Close),
            (BASE64, b"0Zm9", base64),
            (BASE64, b"0Zg==Zg==", base64),
            (BASE64, b"0====", base64),
            (BASE64, b"0Zm9v\n", base64),
            (BASE64, b"0\xff\xff\xff\xff", base64),
        ];
        for (format, message, expected) in cases {
            for size in [1, 4, 5, 64] {
                assert_eq!(read(format, message, size), Err(expected), "{message:?} in pieces of {size}");
            }
        }
    }
}
