use super::*;
use crate::{AttachRequest, PortForwardRequest};

/// The one of the standard.
const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
const WEBSOCKET_13: [(&str, &str); 4] =
    [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), KEY];
const SPDY_31: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

type Asked = (&'static str, &'static str);

fn headers(fixed: &[(&'static str, &str)], more: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fixed.iter().chain(more) {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn attach() -> Request {
    let container = "c".to_owned();
    Request::Attach(AttachRequest { container, tty: false, stdin: false, stdout: true, stderr: false })
}

fn ports(ports: &[u16]) -> Request {
    Request::PortForward(PortForwardRequest { pod: "p".into(), ports: ports.to_vec() })
}

fn check(headers: &HeaderMap, request: &Request, expected: Upgrade, protocol: Option<&str>) {
    let (upgrade, answer) = negotiate(&Method::GET, headers, request).unwrap();
    let named = answer.get(&SPDY_PROTOCOL).or(answer.get(SEC_WEBSOCKET_PROTOCOL));
    let named = named.map(|name| name.to_str().unwrap());
    assert_eq!((upgrade, named), (expected, protocol), "{headers:?}");
}

#[test]
fn the_clients_first_choice_that_is_known_is_taken() {
    let version = |value| ("x-stream-protocol-version", value);
    let json = Upgrade::SpdyCommand(V4);
    let cases: [(&[Asked], Upgrade, &str); 6] = [
        (&[version("v4.channel.k8s.io")], json, "v4.channel.k8s.io"),
        (&[version("v5.channel.k8s.io"), version("v4.channel.k8s.io")], json, "v4.channel.k8s.io"),
        (&[version("v9, v4.channel.k8s.io")], json, "v4.channel.k8s.io"),
        (&[version("v3.channel.k8s.io")], Upgrade::SpdyCommand(V3), "v3.channel.k8s.io"),
        (
            &[version("v2.channel.k8s.io"), version("v4.channel.k8s.io")],
            Upgrade::SpdyCommand(V2),
            "v2.channel.k8s.io",
        ),
        (&[version("channel.k8s.io")], Upgrade::SpdyCommand(V1), "channel.k8s.io"),
    ];
    for (asked, upgrade, name) in cases {
        check(&headers(&SPDY_31, asked), &attach(), upgrade, Some(name));
    }
    let asked = headers(&SPDY_31, &[version("portforward.k8s.io")]);
    check(&asked, &ports(&[]), Upgrade::SpdyPorts, Some("portforward.k8s.io"));
}

#[test]
fn a_websocket_gets_what_it_names_or_the_oldest() {
    let cases = [
        (attach(), "v5.channel.k8s.io", Upgrade::WebSocketCommand(V4, CLOSING)),
        (attach(), "v4.channel.k8s.io", Upgrade::WebSocketCommand(V4, BINARY)),
        (attach(), "v4.base64.channel.k8s.io", Upgrade::WebSocketCommand(V4, BASE64)),
        (attach(), "channel.k8s.io", Upgrade::WebSocketCommand(V3, BINARY)),
        (attach(), "base64.channel.k8s.io", Upgrade::WebSocketCommand(V3, BASE64)),
        (attach(), "", Upgrade::WebSocketCommand(V3, BINARY)),
        (ports(&[]), "SPDY/3.1+portforward.k8s.io", Upgrade::TunnelledPorts),
        (ports(&[80; 128]), "SPDY/3.1+portforward.k8s.io", Upgrade::TunnelledPorts),
        (ports(&[80]), "v4.channel.k8s.io", Upgrade::WebSocketPorts(BINARY)),
        (ports(&[80]), "v4.base64.channel.k8s.io", Upgrade::WebSocketPorts(BASE64)),
        (ports(&[80; 127]), "v4.channel.k8s.io", Upgrade::WebSocketPorts(BINARY)),
        (ports(&[80]), "", Upgrade::WebSocketPorts(BINARY)),
    ];
    for (request, name, upgrade) in cases {
        let asked = headers(&WEBSOCKET_13, &[("sec-websocket-protocol", name)]);
        check(&asked, &request, upgrade, (!name.is_empty()).then_some(name));
    }
    check(&headers(&WEBSOCKET_13, &[]), &attach(), Upgrade::WebSocketCommand(V3, BINARY), None);
}

#[test]
fn the_answer_to_a_key_is_that_of_the_standard() {
    let (_, answer) = negotiate(&Method::GET, &headers(&WEBSOCKET_13, &[]), &attach()).unwrap();
    assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(
        (&answer[CONNECTION], &answer[UPGRADE]),
        (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
}

#[test]
fn others_are_told_what_is_wrong() {
    let version = |value| ("x-stream-protocol-version", value);
    let protocol = |value| ("sec-websocket-protocol", value);
    let get = Method::GET;
    let no_version = [WEBSOCKET_13[0], WEBSOCKET_13[1], KEY];
    let cases = [
        (&get, headers(&[], &[]), attach(), 400, "Upgrade"),
        (&get, headers(&[("upgrade", "websocket"), KEY], &[]), attach(), 400, "Upgrade"),
        (&get, headers(&[("connection", "upgrade"), ("upgrade", "h2c")], &[]), attach(), 400, "Upgrade"),
        (&get, headers(&SPDY_31, &[]), attach(), 400, "x-stream-protocol-version"),
        (&get, headers(&SPDY_31, &[version(" , ")]), attach(), 400, "x-stream-protocol-version"),
        (
            &get,
            headers(&SPDY_31, &[version("portforward.k8s.io")]),
            attach(),
            403,
            "x-stream-protocol-version",
        ),
        (&get, headers(&SPDY_31, &[version("v4.channel.k8s.io")]), ports(&[1]), 403, "portforward.k8s.io"),
        (&Method::POST, headers(&WEBSOCKET_13, &[]), attach(), 405, "GET"),
        (&get, headers(&no_version, &[]), attach(), 426, "Sec-WebSocket-Version"),
        (&get, headers(&WEBSOCKET_13[..3], &[]), attach(), 400, "Sec-WebSocket-Key"),
        (&get, headers(&WEBSOCKET_13, &[protocol("v6.channel.k8s.io")]), attach(), 403, "v5.channel.k8s.io"),
        (&get, headers(&WEBSOCKET_13, &[protocol("v5.channel.k8s.io")]), ports(&[1]), 403, "SPDY/3.1+"),
        (&get, headers(&WEBSOCKET_13, &[]), ports(&[]), 400, "port"),
        (&get, headers(&WEBSOCKET_13, &[]), ports(&[80; 128]), 400, "128"),
    ];
    for (method, headers, request, status, text) in cases {
        let refusal = negotiate(method, &headers, &request).unwrap_err();
        assert_eq!(refusal.status, status, "{headers:?}: {refusal:?}");
        assert!(refusal.text.contains(text), "{headers:?}: {refusal:?}");
    }
}
