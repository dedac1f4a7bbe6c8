//! Port-forward.

use crate::support::spdy::Client;
use crate::support::websocket::{self, BINARY};
use crate::support::{Running, start};

async fn connect(server: &Running) -> Client {
    Client::connect(&server.ports(&[]), "portforward.k8s.io").await
}

/// Opens the two streams of a connection: error, data.
async fn open(client: &mut Client, port: &str, request: &str) -> (u32, u32) {
    let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
    let error = client.begin(&headers("error")).await;
    client.data(error, b"", true).await;
    (error, client.begin(&headers("data")).await)
}

#[tokio::test]
async fn a_download_goes_on_after_the_client_has_closed_its_side() {
    let server = start().await;
    let mut client = connect(&server).await;
    let (error, data) = open(&mut client, "2", "0").await;
    client.data(data, b"all of the request", true).await;
    let (mut got, mut is_finished, mut error_finished) = (0, false, false);
    while !(is_finished && error_finished) {
        use berth_stream::spdy::frame::Frame;
        match client.frame().await.unwrap() {
            Frame::Data { stream, bytes, fin } if stream == data => {
                got += bytes.len();
                is_finished = fin;
            }
            Frame::Data { stream, bytes, fin } if stream == error => {
                assert!(bytes.is_empty(), "{bytes:?}");
                error_finished = fin;
            }
            Frame::Reset { .. } => panic!("reset"),
            _ => {}
        }
    }
    assert_eq!(got, 1 << 20);
}

#[tokio::test]
async fn a_port_that_fails_ends_no_other() {
    let server = start().await;
    let mut client = connect(&server).await;
    let (_, echo) = open(&mut client, "8080", "0").await;
    let (error, failing) = open(&mut client, "1", "1").await;
    let (mut text, mut is_reset) = (Vec::new(), false);
    while !is_reset {
        use berth_stream::spdy::frame::Frame;
        match client.frame().await.unwrap() {
            Frame::Data { stream, bytes, .. } if stream == error => text.extend_from_slice(&bytes),
            Frame::Reset { stream, .. } => is_reset = stream == failing,
            _ => {}
        }
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("port 1 ") && text.contains("connection refused"), "{text}");
    client.data(echo, b"still here", true).await;
    let mut got = Vec::new();
    while got.len() < 10 {
        use berth_stream::spdy::frame::Frame;
        if let Frame::Data { stream, bytes, .. } = client.frame().await.unwrap()
            && stream == echo
        {
            got.extend_from_slice(&bytes);
        }
    }
    assert_eq!(got, b"still here");
}

#[tokio::test]
async fn clients_that_send_no_request_id_open_their_streams_one_after_the_other() {
    let server = start().await;
    let mut client = connect(&server).await;
    client.begin(&[("streamtype", "error"), ("port", "80")]).await;
    let data = client.begin(&[("streamtype", "data"), ("port", "80")]).await;
    client.data(data, b"echo", true).await;
    loop {
        use berth_stream::spdy::frame::Frame;
        match client.frame().await.unwrap() {
            Frame::Data { stream, bytes, .. } if stream == data && !bytes.is_empty() => {
                assert_eq!(bytes, &b"echo"[..]);
                break;
            }
            Frame::Reset { .. } => panic!("reset"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn streams_that_do_not_say_what_they_are_for_are_refused() {
    let server = start().await;
    let mut client = connect(&server).await;
    for headers in [
        &[("streamtype", "data")][..],
        &[("port", "80")],
        &[("streamtype", "data"), ("port", "0")],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "data"), ("port", "http")],
        &[("streamtype", "stdin"), ("port", "80")],
    ] {
        client.open(headers).await.unwrap_err();
    }
    client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "1")]).await.unwrap();
    client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "1")]).await.unwrap_err();
    let long = "9".repeat(129);
    client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", &long)]).await.unwrap_err();
    client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", &long[1..])]).await.unwrap();
}

#[tokio::test]
async fn a_half_whose_other_does_not_come_is_given_up() {
    let config = berth_stream::StreamingConfig { stream_creation_timeout_seconds: 1, ..Default::default() };
    let server = crate::support::start_with(config).await;
    let mut client = connect(&server).await;
    let error = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "7")]).await.unwrap();
    let mut text = Vec::new();
    loop {
        use berth_stream::spdy::frame::Frame;
        match client.frame().await.unwrap() {
            Frame::Data { stream, bytes, .. } if stream == error => text.extend_from_slice(&bytes),
            Frame::Reset { stream, .. } => {
                assert_eq!(stream, error);
                break;
            }
            _ => {}
        }
    }
    assert!(String::from_utf8_lossy(&text).contains("timed out waiting for the data stream"), "{text:?}");
}

#[tokio::test]
async fn a_websocket_has_two_channels_for_each_port() {
    let server = start().await;
    let mut client = websocket::Client::connect(&server.ports(&[8080, 1]), "v4.channel.k8s.io").await;
    let mut channels = <[Vec<u8>; 4]>::default();
    client.send(BINARY, b"\x00hello").await;
    while channels[0].len() < 7 || channels[3].len() < 3 {
        let frame = client.frame().await.unwrap();
        channels[usize::from(frame.payload[0])].extend_from_slice(&frame.payload[1..]);
    }
    assert_eq!(channels[0], b"\x90\x1fhello");
    assert_eq!(channels[1], b"\x90\x1f");
    assert_eq!(channels[2], b"\x01\x00");
    assert!(String::from_utf8_lossy(&channels[3]).contains("connection refused"), "{channels:?}");
}
