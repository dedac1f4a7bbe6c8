//! Exec and attach.

use berth_stream::spdy::frame::{Frame, INITIAL_WINDOW, Setting};
use std::time::Duration;

use crate::support::spdy::Client;
use crate::support::websocket::{self, BINARY, CLOSE, Frame as WebSocketFrame, PING, PONG, TEXT};
use crate::support::{eventually, request, start, within};

const ALL: [&str; 4] = ["error", "stdin", "stdout", "stderr"];

#[tokio::test]
async fn both_outputs_arrive_and_success_is_the_last_word() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["both"]), "v4.channel.k8s.io").await;
    let streams = client.open_all(&ALL).await;
    let received = client.collect().await;
    let texts: Vec<_> = streams.iter().map(|stream| received[stream].text()).collect();
    assert_eq!(texts, [r#"{"status":"Success"}"#, "", "out", "err"]);
    assert!(received.values().all(|stream| stream.is_finished && !stream.is_reset), "{received:?}");
}

#[tokio::test]
async fn an_exit_code_is_told_as_the_protocol_has_it() {
    let server = start().await;
    for (protocol, expected) in [
        ("v4.channel.k8s.io", r#""causes":[{"reason":"ExitCode","message":"3"}]"#),
        ("v3.channel.k8s.io", "non-zero exit code: 3"),
        ("v2.channel.k8s.io", "non-zero exit code: 3"),
        ("channel.k8s.io", "non-zero exit code: 3"),
    ] {
        let mut client = Client::connect(&server.exec(&["exit", "3"]), protocol).await;
        let streams = client.open_all(&ALL).await;
        let received = client.collect().await;
        assert!(received[&streams[0]].text().contains(expected), "{protocol}: {received:?}");
        assert_eq!(received[&streams[0]].text().starts_with('{'), protocol.starts_with("v4"));
    }
}

#[tokio::test]
async fn a_command_that_can_t_start_says_why() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["broken"]), "v4.channel.k8s.io").await;
    let streams = client.open_all(&ALL).await;
    let text = client.collect().await[&streams[0]].text().to_owned();
    assert!(text.contains("no such command") && text.contains("InternalError"), "{text}");
}

#[tokio::test]
async fn input_ends_when_the_client_closes_its_side() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["cat"]), "v4.channel.k8s.io").await;
    let streams = client.open_all(&ALL).await;
    client.data(streams[1], b"hello ", false).await;
    client.data(streams[1], b"world", true).await;
    let received = client.collect().await;
    assert_eq!(received[&streams[2]].text(), "hello world");
    assert_eq!(received[&streams[0]].text(), r#"{"status":"Success"}"#);
}

#[tokio::test]
async fn an_attach_ends_in_success_whatever_the_container_ends_with() {
    let server = start().await;
    let mut client = Client::connect(&server.attach(), "v4.channel.k8s.io").await;
    let streams = client.open_all(&["error", "stdin", "stdout"]).await;
    client.data(streams[1], b"hello", true).await;
    let received = client.collect().await;
    assert_eq!(received[&streams[2]].text(), "hello");
    assert_eq!(received[&streams[0]].text(), r#"{"status":"Success"}"#);
}

#[tokio::test]
async fn the_terminal_follows_the_client_s_and_zero_is_no_size() {
    let server = start().await;
    let mut client = Client::connect(&server.exec_tty(&["sizes"]), "v4.channel.k8s.io").await;
    let streams = client.open_all(&["error", "stdin", "stdout", "resize"]).await;
    for size in [r#"{"Width":80,"Height":24}"#, r#"{"Width":0,"Height":24}"#] {
        client.data(streams[3], size.as_bytes(), false).await;
    }
    // The first is written before the last comes, as only the last of those that come together counts.
    assert!(
        matches!(next_data(&mut client).await, (stream, text) if stream == streams[2] && text == b"80x24 ")
    );
    client.data(streams[3], br#"{"Width":1,"Height":1}"#, false).await;
    let received = client.collect().await;
    assert_eq!(received[&streams[2]].text(), "1x1 ");
}

async fn next_data(client: &mut Client) -> (u32, Vec<u8>) {
    loop {
        if let Frame::Data { stream, bytes, .. } = client.frame().await.unwrap() {
            return (stream, bytes.to_vec());
        }
    }
}

#[tokio::test]
async fn a_client_that_counts_gets_no_more_than_it_has_room_for() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["yes"]), "v4.channel.k8s.io").await;
    client.send(Frame::Settings(vec![Setting { id: INITIAL_WINDOW, value: 10_000 }])).await;
    let streams = client.open_all(&ALL).await;
    let mut got = 0;
    while got < 10_000 {
        got += next_data(&mut client).await.1.len();
    }
    assert_eq!(got, 10_000);
    client.send(Frame::Ping(1)).await;
    while client.frame().await.unwrap() != Frame::Ping(1) {}
    client.send(Frame::WindowUpdate { stream: streams[2], delta: 5 }).await;
    assert_eq!(next_data(&mut client).await.1.len(), 5);
}

#[tokio::test]
async fn a_client_that_counts_can_send_without_end() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["cat"]), "v4.channel.k8s.io").await;
    let streams = client.open_all(&ALL).await;
    // The server's own windows, as a client that counts would learn them.
    let (mut connection, mut stream) = (64 * 1024_i64, 64 * 1024_i64);
    let (mut sent, mut echoed) = (0, 0);
    while echoed < 4 << 20 {
        while sent < 4 << 20 && connection.min(stream) >= 16 * 1024 {
            client.data(streams[1], &[b'z'; 16 * 1024], false).await;
            sent += 16 * 1024;
            connection -= 16 * 1024;
            stream -= 16 * 1024;
        }
        match client.frame().await.unwrap() {
            Frame::Settings(settings) => stream += i64::from(settings[0].value) - 64 * 1024,
            Frame::WindowUpdate { stream: 0, delta } => connection += i64::from(delta),
            Frame::WindowUpdate { delta, .. } => stream += i64::from(delta),
            Frame::Data { bytes, .. } => echoed += bytes.len(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn when_the_client_goes_the_process_is_let_go() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["deaf"]), "v4.channel.k8s.io").await;
    client.open_all(&ALL).await;
    assert_eq!(next_data(&mut client).await.1, b"deaf");
    assert_eq!(server.backend.joined.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(client);
    let joined = &server.backend.joined;
    eventually("the process is let go", || joined.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn streams_that_nobody_asked_for_are_refused() {
    let server = start().await;
    let mut client = Client::connect(&server.exec(&["cat"]), "v4.channel.k8s.io").await;
    for headers in [&[("streamtype", "resize")][..], &[("streamtype", "other")], &[("a", "b")], &[]] {
        client.open(headers).await.unwrap_err();
    }
    client.open(&[("streamtype", "error")]).await.unwrap();
    client.open(&[("streamtype", "error")]).await.unwrap_err();
    client.open(&[("streamtype", "stdin")]).await.unwrap();
    client.open(&[("streamtype", "stdout")]).await.unwrap();
    let stderr = client.open(&[("streamtype", "stderr")]).await.unwrap();
    client.open(&[("streamtype", "stderr")]).await.unwrap_err();
    assert_eq!(stderr, 17);
}

#[tokio::test]
async fn a_token_is_used_up_by_whoever_has_it_first() {
    let server = start().await;
    let url = server.exec(&["cat"]);
    let get = "GET PATH HTTP/1.1\nHost: h";
    let (first, ..) = request(&url, get).await;
    assert!(first.starts_with("HTTP/1.1 400 "), "{first}");
    let (second, ..) = request(&url, get).await;
    assert!(second.starts_with("HTTP/1.1 404 "), "{second}");
    let (other, ..) = request(&server.exec(&["cat"]).replace("/exec/", "/attach/"), get).await;
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    let (method, ..) = request(&server.exec(&["cat"]), "DELETE PATH HTTP/1.1\nHost: h").await;
    assert!(method.starts_with("HTTP/1.1 405 "), "{method}");
}

#[tokio::test]
async fn websocket_channels_carry_a_command() {
    let server = start().await;
    for (protocol, input, opcode) in [
        ("v5.channel.k8s.io", &b"\x00hello"[..], BINARY),
        ("v4.channel.k8s.io", b"\x00hello", BINARY),
        ("v4.base64.channel.k8s.io", b"0aGVsbG8=", TEXT),
        ("channel.k8s.io", b"\x00hello", BINARY),
        ("base64.channel.k8s.io", b"0aGVsbG8=", TEXT),
    ] {
        let mut client = websocket::Client::connect(&server.exec(&["cat"]), protocol).await;
        let ready = client.frame().await.unwrap();
        assert_eq!((ready.opcode, ready.payload.len()), (opcode, 1), "{protocol}");
        client.send(opcode, input).await;
        let echo = client.frame().await.unwrap();
        let expected: &[u8] = if opcode == TEXT { b"1aGVsbG8=" } else { b"\x01hello" };
        assert_eq!(echo, WebSocketFrame { opcode, payload: expected.to_vec() }, "{protocol}");
    }
}

#[tokio::test]
async fn a_channel_can_be_closed_from_v5_on() {
    let server = start().await;
    let mut client = websocket::Client::connect(&server.exec(&["cat"]), "v5.channel.k8s.io").await;
    client.send(BINARY, b"\x00hello").await;
    client.send(PING, b"?").await;
    client.send(BINARY, &[255, 0]).await;
    let mut seen = Vec::new();
    loop {
        let frame = client.frame().await.unwrap();
        if frame.opcode == PONG {
            assert_eq!(frame.payload, b"?");
            break;
        }
        seen.push(frame);
    }
    let rest = client.collect().await;
    let echoed: Vec<u8> =
        seen.iter().flat_map(|frame| frame.payload[1..].to_vec()).chain(rest[1].clone()).collect();
    assert_eq!(echoed, b"hello");
    assert_eq!(rest[3], br#"{"status":"Success"}"#);
}

#[tokio::test]
async fn a_websocket_tells_the_exit_code_and_says_goodbye() {
    let server = start().await;
    let mut client = websocket::Client::connect(&server.exec(&["exit", "9"]), "v4.channel.k8s.io").await;
    let channels = client.collect().await;
    assert!(String::from_utf8_lossy(&channels[3]).contains(r#""message":"9""#), "{channels:?}");
    client.send(CLOSE, &[3, 232]).await;
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn a_websocket_s_terminal_follows_the_client_s() {
    let server = start().await;
    let mut client = websocket::Client::connect(&server.exec_tty(&["sizes"]), "v5.channel.k8s.io").await;
    client.send(BINARY, b"\x04{\"Width\":1,\"Height\":9}").await;
    assert_eq!(client.collect().await[1], b"1x9 ");
}

#[tokio::test]
async fn a_goodbye_of_the_client_ends_the_session() {
    let server = start().await;
    let mut client = websocket::Client::connect(&server.exec(&["deaf"]), "v5.channel.k8s.io").await;
    client.send(CLOSE, &[3, 232]).await;
    client.collect().await;
    within(async { while client.frame().await.is_some() {} }).await;
    let joined = &server.backend.joined;
    eventually("the process is let go", || joined.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_open_its_streams_is_told_and_let_go() {
    let config = berth_stream::StreamingConfig { stream_creation_timeout_seconds: 1, ..Default::default() };
    let server = crate::support::start_with(config).await;
    let before = std::time::Instant::now();
    let mut client = Client::connect(&server.exec(&["cat"]), "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await.unwrap();
    let received = client.collect().await;
    assert!(received[&error].text().contains("were opened within 1s"), "{received:?}");
    assert!(before.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_connection_without_data_ends_though_pings_go_on() {
    let config = berth_stream::StreamingConfig { idle_timeout_seconds: 1, ..Default::default() };
    let server = crate::support::start_with(config).await;
    let mut client = Client::connect(&server.exec(&["deaf"]), "v4.channel.k8s.io").await;
    client.open_all(&ALL).await;
    client.send(Frame::Ping(1)).await;
    within(async {
        while client.frame().await.is_some() && client.try_send(Frame::Ping(1)).await.is_ok() {}
    })
    .await;
}
