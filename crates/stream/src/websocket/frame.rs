//! WebSocket frames, the server's side. Pure: bytes in, frames out, and the reverse.
//!
//! ```text
//! fin 1 ┆ reserved 3 ┆ opcode 4 │ masked 1 ┆ length 7 │ longer length 0, 16 or 64 │ mask 32 │ payload, masked
//! ```
//! Payload is given on in pieces as it comes, so neither the length of a frame nor that of a message costs anything; a
//! control frame is kept until it is whole, at most 125 bytes. A client masks what it sends, a server does not.
//! After an error the rest of the input means nothing. Source: RFC 6455, section 5.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const MAX_CONTROL_BYTES: u64 = 125;

/// A frame, or a piece of one with data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of a message, unmasked. May be empty.
    Data {
        /// The bytes.
        bytes: Bytes,
        /// Whether a message begins with it.
        begins: bool,
        /// Whether the message ends with it.
        ends: bool,
    },
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// The answer to a ping.
    Pong(Bytes),
    /// The sender will send nothing more.
    Close,
}

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageKind {
    /// UTF-8.
    Text = 1,
    /// Anything.
    Binary = 2,
}

/// Why a connection can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Reserved bits stand for extensions, and none was agreed on.
    #[error("read WebSocket frame: reserved bits are set")]
    Reserved,
    /// No such kind of frame.
    #[error("read WebSocket frame: opcode {opcode} is unknown")]
    Opcode {
        /// Its opcode.
        opcode: u8,
    },
    /// A client has to mask what it sends.
    #[error("read WebSocket frame: it is not masked")]
    Unmasked,
    /// A length beyond 63 bits.
    #[error("read WebSocket frame: its length has more than 63 bits")]
    Length,
    /// A ping, pong or close is too long, or in pieces.
    #[error("read WebSocket frame: a control frame is longer than 125 bytes or in pieces")]
    Control,
    /// A message begins inside another, or goes on before any began.
    #[error("read WebSocket frame: the pieces of messages are out of order")]
    Order,
}

/// Reads what a client sends.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    current: Option<Current>,
    /// Whether a message has begun and not ended.
    is_in_message: bool,
}

/// The frame whose payload comes next.
#[derive(Debug, Clone, Copy)]
struct Current {
    opcode: Opcode,
    fin: bool,
    left: u64,
    /// The mask, turned so that its first byte is for the next byte of the payload.
    mask: u32,
    /// Whether a message begins with what comes next.
    begins: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Data,
    Close,
    Ping,
    Pong,
}

impl Decoder {
    /// Where what was received is appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, or none until there is more input.
    ///
    /// # Errors
    /// The input is no WebSocket; the connection has to end.
    pub fn decode(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(current) = self.current.take() else {
            let Some(begun) = self.begin()? else { return Ok(None) };
            self.current = Some(begun);
            return self.decode_payload(begun);
        };
        self.decode_payload(current)
    }

    fn decode_payload(&mut self, mut current: Current) -> Result<Option<Frame>, FrameError> {
        self.current = Some(current);
        let here = usize::try_from(current.left).unwrap_or(usize::MAX).min(self.buffer.len());
        let is_whole = here as u64 == current.left;
        if !is_whole && (here == 0 || current.opcode != Opcode::Data) {
            return Ok(None);
        }
        let mut bytes = self.buffer.split_to(here);
        current.mask = unmask(&mut bytes, current.mask);
        let (bytes, ends) = (bytes.freeze(), current.fin && is_whole);
        let frame = match current.opcode {
            Opcode::Data => Frame::Data { bytes, begins: current.begins, ends },
            Opcode::Ping => Frame::Ping(bytes),
            Opcode::Pong => Frame::Pong(bytes),
            Opcode::Close => Frame::Close,
        };
        current.left -= here as u64;
        current.begins = false;
        self.current = (!is_whole).then_some(current);
        Ok(Some(frame))
    }

    /// Reads a frame up to its payload.
    fn begin(&mut self) -> Result<Option<Current>, FrameError> {
        let Some(&[first, second]) = self.buffer.first_chunk::<2>() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(FrameError::Reserved);
        }
        if second & MASKED == 0 {
            return Err(FrameError::Unmasked);
        }
        let short = second & !MASKED;
        let head_bytes = 2 + extra_bytes(short) + 4;
        if self.buffer.len() < head_bytes {
            return Ok(None);
        }
        self.buffer.advance(2);
        let left = match short {
            126 => u64::from(self.buffer.get_u16()),
            127 => self.buffer.get_u64(),
            short => u64::from(short),
        };
        let mask = self.buffer.get_u32();
        if left > u64::MAX >> 1 {
            return Err(FrameError::Length);
        }
        self.enter(first & FIN != 0, first & 0x0f, left, mask).map(Some)
    }

    fn enter(&mut self, fin: bool, opcode: u8, left: u64, mask: u32) -> Result<Current, FrameError> {
        let begins = matches!(opcode, 1 | 2);
        let opcode = match opcode {
            0..=2 => Opcode::Data,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            opcode => return Err(FrameError::Opcode { opcode }),
        };
        if opcode == Opcode::Data {
            if begins == self.is_in_message {
                return Err(FrameError::Order);
            }
            self.is_in_message = !fin;
        } else if !fin || left > MAX_CONTROL_BYTES {
            return Err(FrameError::Control);
        }
        Ok(Current { opcode, fin, left, mask, begins })
    }
}

/// How many bytes of a longer length follow.
fn extra_bytes(short: u8) -> usize {
    match short {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Takes the mask off, and answers with the mask for what follows. Eight bytes at a time, as most of a long transfer is
/// spent here otherwise.
fn unmask(bytes: &mut [u8], mask: u32) -> u32 {
    let wide = (u64::from(mask) << 32 | u64::from(mask)).to_be_bytes();
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.iter_mut().zip(wide).for_each(|(byte, mask)| *byte ^= mask);
    }
    chunks.into_remainder().iter_mut().zip(wide).for_each(|(byte, mask)| *byte ^= mask);
    mask.rotate_left(8 * u32::try_from(bytes.len() % 4).unwrap_or_default())
}

/// Appends what goes before the payload of a message in one frame.
pub fn put_message_head(kind: MessageKind, length: usize, out: &mut BytesMut) {
    put_head(kind as u8, length, out);
}

/// Appends a pong.
pub fn put_pong(payload: &[u8], out: &mut BytesMut) {
    put_head(10, payload.len(), out);
    out.put_slice(payload);
}

/// Appends a close that says whether all is well.
pub fn put_close(status: CloseStatus, out: &mut BytesMut) {
    put_head(8, 2, out);
    out.put_u16(status as u16);
}

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseStatus {
    /// All has been said.
    Normal = 1000,
    /// The client spoke against the protocol.
    Protocol = 1002,
}

fn put_head(opcode: u8, length: usize, out: &mut BytesMut) {
    out.put_u8(FIN | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => out.put_u8(short),
        (_, Ok(medium)) => {
            out.put_u8(126);
            out.put_u16(medium);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A frame as a client sends it.
    fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut head = BytesMut::new();
        put_head(first & 0x0f, payload.len(), &mut head);
        head[0] = first;
        head[1] |= MASKED;
        head.put_slice(&MASK);
        head.extend(payload.iter().zip(MASK.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        head.to_vec()
    }

    fn decode(input: &[u8], size: usize) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for piece in input.chunks(size) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(frame) = decoder.decode()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn data(bytes: &[u8], begins: bool, ends: bool) -> Frame {
        Frame::Data { bytes: Bytes::copy_from_slice(bytes), begins, ends }
    }

    /// Joins pieces into messages.
    fn messages(frames: Vec<Frame>) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for frame in frames {
            let Frame::Data { bytes, begins, .. } = frame else { continue };
            if begins {
                messages.push(Vec::new());
            }
            messages.last_mut().unwrap().extend_from_slice(&bytes);
        }
        messages
    }

    #[test]
    fn the_example_of_the_standard_is_read() {
        // RFC 6455, 5.7: a single-frame masked text message.
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decode(&hello, 64), Ok(vec![data(b"Hello", true, true)]));
    }

    #[test]
    fn messages_come_back_however_the_input_is_cut() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| (n % 251) as u8).collect();
        let lengths = [0, 1, 2, 3, 4, 5, 7, 8, 9, 125, 126, 127, 65535, 65536, 70_000];
        let input: Vec<u8> = lengths.iter().flat_map(|length| sent(0x82, &long[..*length])).collect();
        for size in [1, 3, 1000, 8192, input.len()] {
            let messages = messages(decode(&input, size).unwrap());
            let expected: Vec<_> = lengths.iter().map(|length| long[..*length].to_vec()).collect();
            assert!(messages == expected, "in pieces of {size}");
        }
    }

    #[test]
    fn control_frames_stand_between_the_pieces_of_a_message() {
        let input = [
            sent(0x02, b"ab"),
            sent(0x89, b"?"),
            sent(0x00, b""),
            sent(0x8a, b""),
            sent(0x80, b"cd"),
            sent(0x88, &[3, 232]),
        ]
        .concat();
        let expected = vec![
            data(b"ab", true, false),
            Frame::Ping(Bytes::from_static(b"?")),
            data(b"", false, false),
            Frame::Pong(Bytes::new()),
            data(b"cd", false, true),
            Frame::Close,
        ];
        assert_eq!(decode(&input, input.len()), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let long_ping = sent(0x89, &[0; 126]);
        let cases: [(&[u8], FrameError); 9] = [
            (&[0xc2, 0x80], FrameError::Reserved),
            (&[0x82, 0x01, 0], FrameError::Unmasked),
            (&[0x83, 0x80, 0, 0, 0, 0], FrameError::Opcode { opcode: 3 }),
            (&[0x8f, 0x80, 0, 0, 0, 0], FrameError::Opcode { opcode: 15 }),
            (&[0x09, 0x80, 0, 0, 0, 0], FrameError::Control),
            (&long_ping, FrameError::Control),
            (&[0x80, 0x80, 0, 0, 0, 0], FrameError::Order),
            (&[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0], FrameError::Order),
            (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
        ];
        for (input, expected) in cases {
            assert_eq!(decode(input, 64), Err(expected), "{input:?}");
        }
    }

    #[test]
    fn a_frame_of_any_length_is_given_on_as_it_comes() {
        let head = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&head);
        assert_eq!(decoder.decode(), Ok(None));
        decoder.buffer().extend_from_slice(b"abc");
        assert_eq!(decoder.decode(), Ok(Some(data(b"abc", true, false))));
        assert!(decoder.buffer().is_empty());
    }

    #[test]
    fn heads_have_the_shortest_length() {
        let cases: [(usize, &[u8]); 5] = [
            (0, &[0x82, 0]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65535, &[0x82, 126, 0xff, 0xff]),
            (65536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ];
        for (length, expected) in cases {
            let mut out = BytesMut::new();
            put_message_head(MessageKind::Binary, length, &mut out);
            assert_eq!(&out[..], expected, "{length}");
        }
        let mut out = BytesMut::new();
        put_close(CloseStatus::Normal, &mut out);
        put_pong(b"x", &mut out);
        assert_eq!(&out[..], [0x88, 2, 3, 232, 0x8a, 1, b'x']);
    }
}
