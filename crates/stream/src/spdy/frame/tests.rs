use super::*;

fn decode(input: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(input);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.decode()? {
        frames.push(frame);
    }
    Ok(frames)
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

/// One frame of each kind, with every field in use.
fn samples() -> Vec<Frame> {
    let headers = || Headers::from_iter([("streamtype", "data"), ("port", "8080"), ("requestid", "7")]);
    let data = |bytes: &'static [u8], fin| Frame::Data { stream: 3, bytes: Bytes::from_static(bytes), fin };
    vec![
        Frame::SynStream { stream: 1, headers: headers(), fin: false, unidirectional: false },
        Frame::SynStream { stream: 0x7fff_ffff, headers: headers(), fin: true, unidirectional: true },
        Frame::SynReply { stream: 1, headers: Headers::default(), fin: true },
        Frame::Headers { stream: 1, headers: headers(), fin: false },
        Frame::Settings(vec![Setting { id: INITIAL_WINDOW, value: 1 << 20 }, Setting { id: 4, value: 100 }]),
        Frame::Settings(vec![]),
        Frame::Ping(1),
        Frame::WindowUpdate { stream: 0, delta: 0x7fff_ffff },
        data(b"hello", false),
        data(b"", true),
        Frame::Reset { stream: 3, status: ResetStatus::Cancel },
        Frame::Reset { stream: 3, status: ResetStatus::FlowControl },
        Frame::GoAway { last_stream: 3, status: GoAwayStatus::Protocol },
    ]
}

/// Joins the pieces of data frames, which depend on how the input came.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut joined: Vec<Frame> = Vec::new();
    let mut open = false;
    for frame in frames {
        let is_data = matches!(frame, Frame::Data { .. });
        match (joined.last_mut(), frame) {
            (
                Some(Frame::Data { stream, bytes, fin }),
                Frame::Data { stream: more, bytes: rest, fin: last },
            ) if open && *stream == more => {
                *bytes = [bytes.as_ref(), rest.as_ref()].concat().into();
                *fin = last;
            }
            (_, frame) => joined.push(frame),
        }
        open = is_data;
    }
    joined
}

#[test]
fn frames_come_back_whole() {
    assert_eq!(decode(&encode(&samples())), Ok(samples()));
}

#[test]
fn frames_come_back_however_the_input_is_cut() {
    let input = encode(&samples());
    for size in [1, 2, 3, 7, 11, 64] {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for piece in input.chunks(size) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(frame) = decoder.decode().unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(joined(frames), joined(samples()), "in pieces of {size}");
    }
}

#[test]
fn the_layout_is_that_of_the_protocol() {
    let cases: [(Frame, &[u8]); 6] = [
        (Frame::Ping(0x0102_0304), &[0x80, 3, 0, 6, 0, 0, 0, 4, 1, 2, 3, 4]),
        (
            Frame::Reset { stream: 5, status: ResetStatus::Refused },
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3],
        ),
        (
            Frame::GoAway { last_stream: 9, status: GoAwayStatus::Ok },
            &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0],
        ),
        (
            Frame::WindowUpdate { stream: 1, delta: 65536 },
            &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 1, 0, 0],
        ),
        (
            Frame::Settings(vec![Setting { id: INITIAL_WINDOW, value: 1 }]),
            &[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 1],
        ),
        (
            Frame::Data { stream: 1, bytes: Bytes::from_static(b"hi"), fin: true },
            &[0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i'],
        ),
    ];
    for (frame, layout) in cases {
        assert_eq!(encode(std::slice::from_ref(&frame)), layout, "{frame:?}");
        assert_eq!(decode(layout), Ok(vec![frame]));
    }
}

#[test]
fn what_is_wrong_is_refused() {
    let fields = |kind| FrameError::Fields { kind };
    let cases: [(&[u8], FrameError); 11] = [
        (&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Version { version: 2 }),
        (&[0x80, 3, 0, 1, 0, 0x10, 0, 0], FrameError::TooLong { kind: SYN_STREAM, length: 1 << 20 }),
        (&[0, 0, 0, 0, 0, 0, 0, 1, 0], FrameError::NoStream),
        (&[0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 1], fields(PING)),
        (&[0x80, 3, 0, 6, 0, 0, 0, 5, 0, 0, 0, 1, 0], fields(PING)),
        (&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1], fields(RST_STREAM)),
        (&[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0], fields(WINDOW_UPDATE)),
        (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], fields(SETTINGS)),
        (&[0x80, 3, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0], fields(SYN_STREAM)),
        (
            &[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            FrameError::Headers { stream: 1, source: HeaderError::Length },
        ),
        (
            &[0x80, 3, 0, 2, 0, 0, 0, 6, 0, 0, 0, 1, 0xff, 0xff],
            FrameError::Headers { stream: 1, source: HeaderError::Compression },
        ),
    ];
    for (input, expected) in cases {
        assert_eq!(decode(input), Err(expected), "{input:?}");
    }
}

#[test]
fn frames_of_unknown_types_are_skipped_however_long() {
    let mut decoder = Decoder::default();
    // A CREDENTIAL frame of 16 MiB, in pieces: nothing of it is kept.
    decoder.buffer().extend_from_slice(&[0x80, 3, 0, 10, 0, 0xff, 0xff, 0xff]);
    let mut left = 0x00ff_ffff;
    while left > 0 {
        let piece = left.min(65536);
        decoder.buffer().extend_from_slice(&vec![0; piece]);
        left -= piece;
        assert_eq!(decoder.decode(), Ok(None));
        assert!(decoder.buffer().is_empty());
    }
    decoder.buffer().extend_from_slice(&encode(&[Frame::Ping(1)]));
    assert_eq!(decoder.decode(), Ok(Some(Frame::Ping(1))));
}

#[test]
fn a_long_data_frame_is_given_on_as_it_comes() {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&[0, 0, 0, 1, 1, 0, 0, 4, b'a']);
    let piece = |bytes: &'static [u8], fin| Frame::Data { stream: 1, bytes: Bytes::from_static(bytes), fin };
    assert_eq!(decoder.decode(), Ok(Some(piece(b"a", false))));
    assert_eq!(decoder.decode(), Ok(None));
    decoder.buffer().extend_from_slice(b"bcd");
    assert_eq!(decoder.decode(), Ok(Some(piece(b"bcd", true))));
}
