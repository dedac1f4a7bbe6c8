//! Frames of SPDY/3.1. Pure: bytes in, frames out, and the reverse.
//!
//! ```text
//! control  1 ┆ version 15 │ type 16 │ flags 8 ┆ length 24 │ payload
//! data     0 ┆ stream 31            │ flags 8 ┆ length 24 │ payload
//! ```
//! A data frame is given on in pieces as they come, so its length (up to 16 MiB) costs nothing; a control frame is kept
//! until it is whole, which is why its length is bounded. After an error the rest of the input means nothing.
//! Source: SPDY protocol draft 3.1, 2.2 and 2.6.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::header::{HeaderError, HeaderReader, HeaderWriter, Headers};

/// The longest payload that a control frame may have.
pub const MAX_CONTROL_BYTES: usize = 16 * 1024;

const HEAD_BYTES: usize = 8;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A frame, or a piece of a data frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        /// Its id.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// Whether the sender will send nothing on it.
        fin: bool,
        /// Whether the receiver may send nothing on it.
        unidirectional: bool,
    },
    /// The other side accepts a stream.
    SynReply {
        /// Its id.
        stream: u32,
        /// What it says to that.
        headers: Headers,
        /// Whether it will send nothing on it.
        fin: bool,
    },
    /// A stream has ended in both directions, at once.
    Reset {
        /// Its id.
        stream: u32,
        /// Why.
        status: ResetStatus,
    },
    /// Properties of the sender.
    Settings(Vec<Setting>),
    /// To be sent back.
    Ping(u32),
    /// The sender takes no more streams.
    GoAway {
        /// The last stream that it took.
        last_stream: u32,
        /// Why.
        status: GoAwayStatus,
    },
    /// More headers of a stream.
    Headers {
        /// Its id.
        stream: u32,
        /// The headers.
        headers: Headers,
        /// Whether the sender will send no more on it.
        fin: bool,
    },
    /// The sender has room for more.
    WindowUpdate {
        /// On which stream; 0 is the whole connection.
        stream: u32,
        /// For how many bytes more.
        delta: u32,
    },
    /// Data of a stream.
    Data {
        /// Its id.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Whether the sender will send no more on it.
        fin: bool,
    },
}

/// One entry of a SETTINGS frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// What is set; see [`INITIAL_WINDOW`].
    pub id: u32,
    /// To what.
    pub value: u32,
}

/// The setting that says how many bytes of a new stream its sender has room for.
pub const INITIAL_WINDOW: u32 = 7;

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ResetStatus {
    /// Against the protocol.
    Protocol = 1,
    /// No such stream.
    InvalidStream = 2,
    /// Not wanted, and nothing was done for it.
    Refused = 3,
    /// No longer wanted.
    Cancel = 5,
    /// Something else broke.
    Internal = 6,
    /// More than there was room for.
    FlowControl = 7,
    /// Any other number.
    Other = 0xffff_ffff,
}

/// Why a connection takes no more streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GoAwayStatus {
    /// All is well.
    Ok = 0,
    /// The receiver spoke against the protocol.
    Protocol = 1,
    /// Something else broke.
    Internal = 2,
}

/// Why a connection can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version of the protocol, or another protocol.
    #[error("read SPDY frame: version {version}, not 3")]
    Version {
        /// The version.
        version: u16,
    },
    /// A control frame is longer than anybody needs.
    #[error("read SPDY frame of type {kind}: {length} bytes, more than {MAX_CONTROL_BYTES}")]
    TooLong {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A control frame is shorter than its fields, or longer, or names no stream.
    #[error("read SPDY frame of type {kind}: its fields don't fit")]
    Fields {
        /// Its type.
        kind: u16,
    },
    /// Data for no stream.
    #[error("read SPDY data frame: it names no stream")]
    NoStream,
    /// A header block can't be read.
    #[error("read headers of SPDY stream {stream}")]
    Headers {
        /// The stream.
        stream: u32,
        /// Why not.
        #[source]
        source: HeaderError,
    },
}

/// Reads the frames of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    headers: HeaderReader,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    Data {
        stream: u32,
        left: usize,
        fin: bool,
    },
    /// A control frame of a type that we don't know, which is to be ignored.
    Skip {
        left: usize,
    },
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), headers: HeaderReader::new(), state: State::Head }
    }
}

impl Decoder {
    /// Where what was received is appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, or none until there is more input.
    ///
    /// # Errors
    /// The input is no SPDY/3.1; the connection has to end.
    pub fn decode(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            match self.state {
                State::Head => match self.begin()? {
                    Step::Frame(frame) => return Ok(Some(frame)),
                    Step::Wait => return Ok(None),
                    Step::Again => {}
                },
                State::Data { stream, left, fin } => {
                    let bytes = self.take(left);
                    let left = left - bytes.len();
                    if bytes.is_empty() && left > 0 {
                        return Ok(None);
                    }
                    self.state = if left > 0 { State::Data { stream, left, fin } } else { State::Head };
                    return Ok(Some(Frame::Data { stream, bytes, fin: fin && left == 0 }));
                }
                State::Skip { left } => {
                    let left = left - self.take(left).len();
                    if left > 0 {
                        self.state = State::Skip { left };
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
            }
        }
    }

    /// Takes as much as there is, up to `most`.
    fn take(&mut self, most: usize) -> Bytes {
        self.buffer.split_to(most.min(self.buffer.len())).freeze()
    }

    fn begin(&mut self) -> Result<Step, FrameError> {
        let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else { return Ok(Step::Wait) };
        let [a, b, c, d, flags, lengths @ ..] = *head;
        let length = lengths.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            if stream == 0 {
                return Err(FrameError::NoStream);
            }
            self.buffer.advance(HEAD_BYTES);
            self.state = State::Data { stream, left: length, fin: flags & FLAG_FIN != 0 };
            return Ok(Step::Again);
        }
        let (version, kind) = (u16::from_be_bytes([a & 0x7f, b]), u16::from_be_bytes([c, d]));
        if version != VERSION {
            return Err(FrameError::Version { version });
        }
        if !matches!(kind, SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE) {
            self.buffer.advance(HEAD_BYTES);
            self.state = State::Skip { left: length };
            return Ok(Step::Again);
        }
        if length > MAX_CONTROL_BYTES {
            return Err(FrameError::TooLong { kind, length });
        }
        if self.buffer.len() < HEAD_BYTES + length {
            return Ok(Step::Wait);
        }
        self.buffer.advance(HEAD_BYTES);
        let payload = self.buffer.split_to(length).freeze();
        self.control(kind, flags, payload)?.map_or(Ok(Step::Again), |frame| Ok(Step::Frame(frame)))
    }

    /// Reads a control frame, given whole. `None` is one that says nothing.
    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Option<Frame>, FrameError> {
        let wrong = FrameError::Fields { kind };
        let fin = flags & FLAG_FIN != 0;
        let frame = match kind {
            SYN_STREAM => {
                let stream = take_stream(&mut payload).ok_or(wrong)?;
                // The stream that it is associated to, its priority and a credential slot mean nothing here.
                payload.try_get_u32().and(payload.try_get_u16()).map_err(|_| wrong)?;
                let headers = self.read_headers(stream, &payload)?;
                Frame::SynStream { stream, headers, fin, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0 }
            }
            SYN_REPLY => {
                let stream = take_stream(&mut payload).ok_or(wrong)?;
                Frame::SynReply { stream, headers: self.read_headers(stream, &payload)?, fin }
            }
            HEADERS => {
                let stream = take_stream(&mut payload).ok_or(wrong)?;
                Frame::Headers { stream, headers: self.read_headers(stream, &payload)?, fin }
            }
            SETTINGS => {
                return take_settings(payload).map(|settings| Some(Frame::Settings(settings))).ok_or(wrong);
            }
            _ => return take_fixed(kind, payload).map(Some).ok_or(wrong),
        };
        Ok(Some(frame))
    }

    fn read_headers(&mut self, stream: u32, packed: &[u8]) -> Result<Headers, FrameError> {
        self.headers.read(packed).map_err(|source| FrameError::Headers { stream, source })
    }
}

enum Step {
    Frame(Frame),
    Again,
    Wait,
}

fn take_stream(payload: &mut Bytes) -> Option<u32> {
    let stream = payload.try_get_u32().ok()? & 0x7fff_ffff;
    (stream != 0).then_some(stream)
}

/// Flags in the upper byte of an id say whether to remember it, which nobody does here.
fn take_settings(mut payload: Bytes) -> Option<Vec<Setting>> {
    let count = usize::try_from(payload.try_get_u32().ok()?).ok()?;
    if count.checked_mul(8)? != payload.len() {
        return None;
    }
    (0..count)
        .map(|_| {
            let id = payload.try_get_u32().ok()? & 0x00ff_ffff;
            Some(Setting { id, value: payload.try_get_u32().ok()? })
        })
        .collect()
}

/// The frames whose payload has one length.
fn take_fixed(kind: u16, mut payload: Bytes) -> Option<Frame> {
    let frame = match kind {
        PING => Frame::Ping(payload.try_get_u32().ok()?),
        RST_STREAM => {
            let stream = take_stream(&mut payload)?;
            Frame::Reset { stream, status: ResetStatus::from_number(payload.try_get_u32().ok()?) }
        }
        GOAWAY => {
            let last_stream = payload.try_get_u32().ok()? & 0x7fff_ffff;
            Frame::GoAway { last_stream, status: GoAwayStatus::from_number(payload.try_get_u32().ok()?) }
        }
        WINDOW_UPDATE => {
            let stream = payload.try_get_u32().ok()? & 0x7fff_ffff;
            let delta = payload.try_get_u32().ok()? & 0x7fff_ffff;
            (delta != 0).then_some(Frame::WindowUpdate { stream, delta })?
        }
        _ => return None,
    };
    payload.is_empty().then_some(frame)
}

impl ResetStatus {
    fn from_number(number: u32) -> Self {
        use ResetStatus::{Cancel, FlowControl, Internal, InvalidStream, Other, Protocol, Refused};
        let known = [Protocol, InvalidStream, Refused, Cancel, Internal, FlowControl];
        known.into_iter().find(|status| *status as u32 == number).unwrap_or(Other)
    }
}

impl GoAwayStatus {
    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Protocol,
            _ => Self::Internal,
        }
    }
}

/// Writes the frames of one direction of a connection.
#[derive(Debug)]
pub struct Encoder {
    headers: HeaderWriter,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { headers: HeaderWriter::new() }
    }
}

impl Encoder {
    /// Appends a frame; of a data frame only what goes before its bytes, which need no copy that way. Frames have to be
    /// sent in the order in which they were encoded.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream { stream, headers, fin, unidirectional } => {
                let flags = flags(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                self.control(SYN_STREAM, flags, out, |headers_out, out| {
                    out.put_u32(*stream);
                    out.put_slice(&[0; 6]);
                    headers_out.write(headers, out);
                });
            }
            Frame::SynReply { stream, headers, fin } => {
                self.control(SYN_REPLY, flags(*fin), out, |headers_out, out| {
                    out.put_u32(*stream);
                    headers_out.write(headers, out);
                });
            }
            Frame::Headers { stream, headers, fin } => {
                self.control(HEADERS, flags(*fin), out, |headers_out, out| {
                    out.put_u32(*stream);
                    headers_out.write(headers, out);
                });
            }
            Frame::Settings(settings) => self.control(SETTINGS, 0, out, |_, out| {
                out.put_u32(u32::try_from(settings.len()).unwrap_or_default());
                for setting in settings {
                    out.put_u32(setting.id);
                    out.put_u32(setting.value);
                }
            }),
            Frame::Ping(id) => self.numbers(PING, &[*id], out),
            Frame::Reset { stream, status } => self.numbers(RST_STREAM, &[*stream, *status as u32], out),
            Frame::GoAway { last_stream, status } => {
                self.numbers(GOAWAY, &[*last_stream, *status as u32], out)
            }
            Frame::WindowUpdate { stream, delta } => self.numbers(WINDOW_UPDATE, &[*stream, *delta], out),
            Frame::Data { stream, bytes, fin } => {
                out.put_u32(*stream);
                put_flags_and_length(out, flags(*fin), bytes.len());
            }
        }
    }

    fn numbers(&mut self, kind: u16, numbers: &[u32], out: &mut BytesMut) {
        self.control(kind, 0, out, |_, out| numbers.iter().for_each(|number| out.put_u32(*number)));
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        out: &mut BytesMut,
        payload: impl FnOnce(&mut HeaderWriter, &mut BytesMut),
    ) {
        let mut bytes = BytesMut::new();
        payload(&mut self.headers, &mut bytes);
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        put_flags_and_length(out, flags, bytes.len());
        out.put_slice(&bytes);
    }
}

fn flags(fin: bool) -> u8 {
    if fin { FLAG_FIN } else { 0 }
}

/// Senders keep to lengths of 24 bits.
fn put_flags_and_length(out: &mut BytesMut, flags: u8, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u32(u32::from(flags) << 24 | length);
}

#[cfg(test)]
mod tests;
