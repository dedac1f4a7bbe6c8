//! Clients that do wrong, or nothing: each gets a clear end, holds bounded memory, and harms nobody else.

use std::sync::atomic::Ordering;

use berth_stream::spdy::frame::{Frame, GoAwayStatus, ResetStatus};
use berth_stream::{AttachRequest, Request, StreamingConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use crate::support::spdy::Client;
use crate::support::websocket::{self, BINARY, CLOSE};
use crate::support::{Running, eventually, settled, split, start, start_with, within};

const ALL: [&str; 4] = ["error", "stdin", "stdout", "stderr"];

const ATTACH: AttachRequest =
    AttachRequest { container: String::new(), tty: false, stdin: false, stdout: true, stderr: false };

/// What is still well after a client has done its worst.
async fn serves_others(server: &Running) {
    let mut client = Client::connect(&server.exec(&["cat"]), "v4.channel.k8s.io").await;
    let streams = client.open_all(&ALL).await;
    client.data(streams[1], b"well", true).await;
    assert_eq!(client.collect().await[&streams[2]].text(), "well");
}

#[tokio::test]
async fn what_is_no_spdy_ends_the_connection_with_a_reason() {
    let server = start().await;
    let bad: [&[u8]; 4] = [
        &[0x80, 2, 0, 1, 0, 0, 0, 0],
        // A header block of 16 MiB, one that is no zlib, and data for no stream.
        &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        &[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
        &[0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for bytes in bad {
        let mut client = Client::connect(&server.exec(&["cat"]), "v4.channel.k8s.io").await;
        client.socket.write_all(bytes).await.unwrap();
        let mut reason = None;
        while let Some(frame) = client.frame().await {
            if let Frame::GoAway { status, .. } = frame {
                reason = reason.or(Some(status));
            }
        }
        assert_eq!(reason, Some(GoAwayStatus::Protocol), "{bytes:?}");
    }
    serves_others(&server).await;
}

#[tokio::test]
async fn what_is_no_websocket_ends_the_connection_with_a_reason() {
    let server = start().await;
    let bad: [&[u8]; 3] = [&[0x82, 0x01, 0], &[0xf2, 0x80, 0, 0, 0, 0], &[0x88, 0xfe, 1, 0, 0, 0, 0, 0]];
    for bytes in bad {
        let mut client = websocket::Client::connect(&server.exec(&["cat"]), "v5.channel.k8s.io").await;
        client.socket.write_all(bytes).await.unwrap();
        let mut close = None;
        while let Some(frame) = client.frame().await {
            if frame.opcode == CLOSE {
                close = close.or(Some(frame.payload));
            }
        }
        assert_eq!(close, Some(vec![3, 234]), "{bytes:?}");
    }
    serves_others(&server).await;
}

#[tokio::test]
async fn heads_without_end_and_of_any_length_are_cut_off() {
    let server = start().await;
    let url = server.exec(&["cat"]);
    let (address, path) = split(&url);
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut sent = 0;
    let _ = socket.write_all(format!("GET {path} HTTP/1.1\r\n").as_bytes()).await;
    while sent < 1 << 20 && socket.write_all(b"X-Header: value and more value\r\n").await.is_ok() {
        sent += 32;
    }
    let mut answer = Vec::new();
    let _ = within(socket.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    serves_others(&server).await;
}

#[tokio::test]
async fn a_flood_of_streams_is_refused_beyond_a_bound() {
    let server = start().await;
    let mut client = Client::connect(&server.ports(&[]), "portforward.k8s.io").await;
    let (mut accepted, mut refused) = (0, 0);
    for number in 0..10_000 {
        let request = number.to_string();
        let headers = [("streamtype", "data"), ("port", "80"), ("requestid", request.as_str())];
        match client.open(&headers).await {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert_eq!((accepted, refused), (512, 10_000 - 512));
    serves_others(&server).await;
}

#[tokio::test]
async fn streams_that_are_reset_at_once_leave_nothing_behind() {
    let server = start().await;
    let mut client = Client::connect(&server.ports(&[]), "portforward.k8s.io").await;
    client.socket.set_nodelay(true).unwrap();
    let status = ResetStatus::Cancel;
    for number in 0..2000 {
        let request = number.to_string();
        let headers = [("streamtype", "data"), ("port", "80"), ("requestid", request.as_str())];
        let stream = client.open(&headers).await.unwrap();
        client.send(Frame::Reset { stream, status }).await;
    }
    // Port 4 is one that never answers.
    let headers = |kind| [("streamtype", kind), ("port", "4"), ("requestid", "last")];
    client.open(&headers("error")).await.unwrap();
    let data = client.open(&headers("data")).await.unwrap();
    eventually("connecting", || server.backend.joined.load(Ordering::SeqCst) == 1).await;
    client.send(Frame::Reset { stream: data, status }).await;
    eventually("given up", || server.backend.joined.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn connections_that_do_not_come_about_are_bounded_too() {
    let server = start().await;
    let mut client = Client::connect(&server.ports(&[]), "portforward.k8s.io").await;
    for number in 0..512 {
        let request = number.to_string();
        let headers = |kind| [("streamtype", kind), ("port", "4"), ("requestid", request.as_str())];
        client.open(&headers("error")).await.unwrap();
        client.open(&headers("data")).await.unwrap();
    }
    let more = [("streamtype", "error"), ("port", "4"), ("requestid", "more")];
    client.open(&more).await.unwrap_err();
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_nobody_out() {
    let server = start().await;
    let url = server.exec(&["cat"]);
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(split(&url).0).await.unwrap());
    }
    serves_others(&server).await;
    // Those that had waited longest were closed for it.
    let mut nothing = [0];
    assert_eq!(within(silent[0].read(&mut nothing)).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn the_clients_of_one_container_keep_nobody_out_of_others() {
    let config = StreamingConfig { max_sessions: 5, max_sessions_per_container: 3, ..Default::default() };
    let server = start_with(config).await;
    let register = |container: &str| {
        let request = AttachRequest { container: container.to_owned(), ..ATTACH };
        server.tickets.register(Request::Attach(request))
    };
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(&register("one").unwrap(), "v4.channel.k8s.io").await);
    }
    let refused = register("one").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "register a streaming session: one has 3 already, as many as streaming.max_sessions_per_container allows"
    );
    let mut other = Client::connect(&register("another").unwrap(), "v4.channel.k8s.io").await;
    other.open_all(&["error", "stdout"]).await;
    // One that does not come has its place, too; a client that goes gives its own back.
    let _unused = register("another").unwrap();
    let refused = register("third").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "register a streaming session: there are 5 already, as many as streaming.max_sessions allows"
    );
    clients.pop();
    within(async {
        while register("one").is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_process_back() {
    let server = start().await;
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let mut spdy = None;
        let mut websocket = None;
        let url = server.exec(&["yes"]);
        let before = server.backend.written.load(Ordering::SeqCst);
        if protocol.starts_with("v4") {
            let mut client = Client::connect(&url, protocol).await;
            client.open_all(&ALL).await;
            spdy = Some(client);
        } else {
            websocket = Some(websocket::Client::connect(&url, protocol).await);
        }
        let written = settled(|| server.backend.written.load(Ordering::SeqCst)).await - before;
        // Sockets take some megabytes on their own; without a bound it would be hundreds.
        assert!(written < 32 << 20, "{protocol}: {written}");
        drop((spdy, websocket));
    }
    serves_others(&server).await;
}

#[tokio::test]
async fn input_that_the_process_does_not_read_holds_the_client_back_and_the_exit_ends_it() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["deaf"]), "v4.channel.k8s.io").await;
    let streams = client.open_all(&ALL).await;
    let mut head = streams[1].to_be_bytes().to_vec();
    head.extend([0, 0, 0xff, 0xff]);
    head.resize(8 + 0xffff, b'i');
    let mut sent = 0;
    while let Ok(outcome) = timeout(Duration::from_secs(1), client.socket.write_all(&head)).await {
        outcome.unwrap();
        sent += head.len();
        assert!(sent < 64 << 20, "{sent}");
    }
    server.backend.let_go.notify_one();
    let received = client.collect().await;
    assert_eq!(received[&streams[0]].text(), r#"{"status":"Success"}"#);
}

/// As many pieces of input as are more than what waits on its way to a process (a pipe, eight pieces, and one), and
/// less than what the socket holds in addition.
const BACKED_UP_PIECES: usize = 13;

#[tokio::test]
async fn a_client_that_leaves_while_its_input_waits_is_noticed() {
    let server = start().await;
    let mut spdy = Client::connect(&server.exec(&["deaf"]), "v4.channel.k8s.io").await;
    let streams = spdy.open_all(&ALL).await;
    let mut websocket = websocket::Client::connect(&server.exec(&["deaf"]), "v5.channel.k8s.io").await;
    eventually("started", || server.backend.joined.load(Ordering::SeqCst) == 2).await;
    let piece = [0; 32 * 1024];
    for _ in 0..BACKED_UP_PIECES {
        spdy.data(streams[1], &piece, false).await;
        websocket.send(BINARY, &piece).await;
    }
    // Nothing is left to read, so that what goes out is an end and not a reset.
    for socket in [&mut spdy.socket, &mut websocket.socket] {
        let mut rest = [0; 4096];
        while let Ok(read) = timeout(Duration::from_millis(200), socket.read(&mut rest)).await {
            assert_ne!(read.unwrap(), 0);
        }
    }
    drop((spdy, websocket));
    eventually("noticed", || server.backend.joined.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_port_that_does_not_read_keeps_others_waiting_for_a_bounded_time_only() {
    let config = StreamingConfig { stalled_stream_timeout_seconds: 1, ..Default::default() };
    let server = start_with(config).await;
    let mut client = Client::connect(&server.ports(&[]), "portforward.k8s.io").await;
    let mut open = async |port, request| {
        let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
        client.begin(&headers("error")).await;
        client.begin(&headers("data")).await
    };
    let (deaf, echo) = (open("3", "0").await, open("80", "1").await);
    client.data(echo, b"one", false).await;
    // More than it takes: eight pieces and a pipe. What is beyond stands in the socket.
    for _ in 0..40 {
        client.data(deaf, &[b'd'; 16 * 1024], false).await;
    }
    client.data(echo, b"two", false).await;
    let mut got = Vec::new();
    let mut is_reset = false;
    while !(got == b"onetwo" && is_reset) {
        match client.frame().await.unwrap() {
            Frame::Data { stream, bytes, .. } if stream == echo => got.extend_from_slice(&bytes),
            Frame::Reset { stream, .. } => {
                assert_eq!(stream, deaf);
                is_reset = true;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn channels_that_there_are_not_and_base64_that_is_none_do_no_harm() {
    let server = start().await;
    let mut client = websocket::Client::connect(&server.exec(&["cat"]), "v5.channel.k8s.io").await;
    for message in [&b"\x09unknown"[..], b"\x01output", b"", &[255, 77]] {
        client.send(BINARY, message).await;
    }
    client.send(BINARY, b"\x00well").await;
    client.send(BINARY, &[255, 0]).await;
    assert_eq!(client.collect().await[1], b"well");
    let mut client = websocket::Client::connect(&server.exec(&["cat"]), "v4.base64.channel.k8s.io").await;
    client.send(websocket::TEXT, b"0not base64!").await;
    within(async { while client.frame().await.is_some() {} }).await;
    serves_others(&server).await;
}
