//! SPDY frames from a client, in pieces: nothing panics, what is kept stays bounded, how the input is cut makes no
//! difference, and what was read can be written and read again.
#![no_main]

use berth_stream::spdy::frame::{Decoder, Encoder, Frame, FrameError, MAX_CONTROL_BYTES};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((size, input)) = data.split_first() else { return };
    let whole = decode(input, usize::MAX);
    assert_eq!(whole, decode(input, usize::from(*size) + 1));
    assert_eq!(decode(&encode(&whole.0), usize::MAX), (whole.0, Ok(())));
});

fn decode(input: &[u8], size: usize) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in input.chunks(size.min(input.len()).max(1)) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.decode() {
                Ok(Some(frame)) => join(&mut frames, frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(decoder.buffer().len() <= MAX_CONTROL_BYTES + 8);
    }
    (frames, Ok(()))
}

/// Pieces of data frames depend on how the input came, so those of one stream are joined, and one that was cut short
/// before its first byte is left out: it may not have had its end either.
fn join(frames: &mut Vec<Frame>, frame: Frame) {
    if matches!(&frame, Frame::Data { bytes, fin: false, .. } if bytes.is_empty()) {
        return;
    }
    if let (Some(Frame::Data { stream, bytes, fin: fin @ false }), Frame::Data { stream: more, bytes: rest, fin: last }) =
        (frames.last_mut(), &frame)
        && stream == more
    {
        *bytes = [&bytes[..], rest].concat().into();
        *fin = *last;
        return;
    }
    frames.push(frame);
}

fn encode(frames: &[Frame]) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    for frame in frames {
        encoder.encode(frame, &mut out);
        if let Frame::Data { bytes, .. } = frame {
            out.extend_from_slice(bytes);
        }
    }
    out.to_vec()
}
