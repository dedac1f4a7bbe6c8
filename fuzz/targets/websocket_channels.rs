//! WebSocket frames from a client and the channels in them, in pieces: nothing panics, what is kept stays bounded, and
//! how the input is cut makes no difference.
#![no_main]

use berth_stream::websocket::channel::{Demultiplexer, Encoding, Event, Format};
use berth_stream::websocket::frame::{Decoder, Frame};
use libfuzzer_sys::fuzz_target;

/// A head with the longest length, and a control frame.
const MAX_KEPT_BYTES: usize = 14 + 125;

fuzz_target!(|data: &[u8]| {
    let &[size, format, ref input @ ..] = data else { return };
    let encoding = if format & 1 == 0 { Encoding::Binary } else { Encoding::Base64 };
    let format = Format { encoding, has_close: format & 2 != 0 };
    let whole = read(input, usize::MAX, format);
    let cut = read(input, usize::from(size) + 1, format);
    // Of a message that turns out to be wrong, pieces may have been passed on before.
    if whole.1 && cut.1 {
        assert_eq!(whole, cut);
    } else {
        assert_eq!(whole.1, cut.1);
    }
});

/// What each channel got, then whether all of it could be read.
fn read(input: &[u8], size: usize, format: Format) -> ((Vec<(u8, Vec<u8>)>, Vec<u8>), bool) {
    let (mut decoder, mut demultiplexer) = (Decoder::default(), Demultiplexer::new(format));
    let (mut channels, mut closed) = (Vec::<(u8, Vec<u8>)>::new(), Vec::new());
    for piece in input.chunks(size.min(input.len()).max(1)) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            let event = match decoder.decode() {
                Ok(Some(Frame::Data { bytes, begins, ends })) => demultiplexer.read(bytes, begins, ends),
                Ok(Some(Frame::Ping(_) | Frame::Pong(_) | Frame::Close)) => continue,
                Ok(None) => break,
                Err(_) => return ((channels, closed), false),
            };
            match event {
                Ok(Some(Event::Bytes(channel, bytes))) => {
                    match channels.iter_mut().find(|(other, _)| *other == channel) {
                        Some((_, sum)) => sum.extend_from_slice(&bytes),
                        None => channels.push((channel, bytes.to_vec())),
                    }
                }
                Ok(Some(Event::Close(channel))) => closed.push(channel),
                Ok(None) => {}
                Err(_) => return ((channels, closed), false),
            }
        }
        assert!(decoder.buffer().len() <= MAX_KEPT_BYTES);
    }
    ((channels, closed), true)
}
