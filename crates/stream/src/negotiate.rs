//! What a client asks HTTP to be upgraded to, and whether it can have it. Pure.
//!
//! ```text
//! SPDY        Upgrade: SPDY/3.1    X-Stream-Protocol-Version: the first one that we speak, too
//! WebSocket   Upgrade: websocket   Sec-WebSocket-Protocol:    likewise; none at all means the oldest
//! tunnel      the same, with SPDY/3.1+ before the name of the protocol: SPDY inside the WebSocket
//! ```
//! Source: RFC 6455, section 4.2; Kubernetes, k8s.io/streaming and k8s.io/cri-streaming.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL};
use http::header::{SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sha1::{Digest, Sha1};

use crate::status::StatusFormat;
use crate::tickets::Request;
use crate::websocket::channel::{Encoding, Format};

const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";
static SPDY_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
static SPDY_ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Appended to a client's key before it is hashed. Source: RFC 6455, 1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How many ports have channels, two each, of which a byte tells one from the others; 255 is no channel.
const MAX_CHANNEL_PORTS: usize = 127;

/// What the versions of the protocol for commands differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommandProtocol {
    /// How the last word is written.
    pub(crate) status: StatusFormat,
    /// Whether there is a stream for the size of a terminal.
    pub(crate) has_resize: bool,
    /// Whether the server closes its side of standard input at once, which clients of the oldest one wait for.
    pub(crate) closes_stdin: bool,
}

/// What is spoken after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// A command over SPDY.
    SpdyCommand(CommandProtocol),
    /// A command over WebSocket.
    WebSocketCommand(CommandProtocol, Format),
    /// Ports over SPDY.
    SpdyPorts,
    /// Ports over SPDY inside WebSocket.
    TunnelledPorts,
    /// Ports over WebSocket.
    WebSocketPorts(Format),
}

/// Why a client is turned away, with headers that help it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) headers: Box<HeaderMap>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), headers: Box::default() }
    }
}

/// What the client can have, and the headers that tell it so.
pub(crate) type Agreement = (Upgrade, HeaderMap);

const V1: CommandProtocol =
    CommandProtocol { status: StatusFormat::Text, has_resize: false, closes_stdin: true };
const V2: CommandProtocol = CommandProtocol { closes_stdin: false, ..V1 };
const V3: CommandProtocol = CommandProtocol { has_resize: true, ..V2 };
const V4: CommandProtocol = CommandProtocol { status: StatusFormat::Json, ..V3 };

const BINARY: Format = Format { encoding: Encoding::Binary, has_close: false };
const BASE64: Format = Format { encoding: Encoding::Base64, has_close: false };
const CLOSING: Format = Format { encoding: Encoding::Binary, has_close: true };

/// The protocols by name. An empty name is that of a client that names none.
const SPDY_COMMAND: &[(&str, Upgrade)] = &[
    ("v4.channel.k8s.io", Upgrade::SpdyCommand(V4)),
    ("v3.channel.k8s.io", Upgrade::SpdyCommand(V3)),
    ("v2.channel.k8s.io", Upgrade::SpdyCommand(V2)),
    ("channel.k8s.io", Upgrade::SpdyCommand(V1)),
];
const WEBSOCKET_COMMAND: &[(&str, Upgrade)] = &[
    ("v5.channel.k8s.io", Upgrade::WebSocketCommand(V4, CLOSING)),
    ("v4.channel.k8s.io", Upgrade::WebSocketCommand(V4, BINARY)),
    ("v4.base64.channel.k8s.io", Upgrade::WebSocketCommand(V4, BASE64)),
    ("channel.k8s.io", Upgrade::WebSocketCommand(V3, BINARY)),
    ("base64.channel.k8s.io", Upgrade::WebSocketCommand(V3, BASE64)),
    ("", Upgrade::WebSocketCommand(V3, BINARY)),
];
const SPDY_PORTS: &[(&str, Upgrade)] = &[("portforward.k8s.io", Upgrade::SpdyPorts)];
const WEBSOCKET_PORTS: &[(&str, Upgrade)] = &[
    ("SPDY/3.1+portforward.k8s.io", Upgrade::TunnelledPorts),
    ("v4.channel.k8s.io", Upgrade::WebSocketPorts(BINARY)),
    ("v4.base64.channel.k8s.io", Upgrade::WebSocketPorts(BASE64)),
    ("", Upgrade::WebSocketPorts(BINARY)),
];

/// Judges a request of a client whose session is known.
pub(crate) fn negotiate(
    method: &Method,
    headers: &HeaderMap,
    request: &Request,
) -> Result<Agreement, Refusal> {
    let is_upgrade = values(headers, &CONNECTION).any(|value| value.eq_ignore_ascii_case("upgrade"));
    let asks_for =
        |name: &str| is_upgrade && values(headers, &UPGRADE).any(|value| value.eq_ignore_ascii_case(name));
    let is_ports = matches!(request, Request::PortForward(_));
    if asks_for(WEBSOCKET) {
        let known = if is_ports { WEBSOCKET_PORTS } else { WEBSOCKET_COMMAND };
        let agreement = websocket(method, headers, known)?;
        return match (agreement.0, request) {
            (Upgrade::WebSocketPorts(_), Request::PortForward(request)) if request.ports.is_empty() => {
                Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "port: this protocol can't name ports, and the request has none",
                ))
            }
            (Upgrade::WebSocketPorts(_), Request::PortForward(request))
                if request.ports.len() > MAX_CHANNEL_PORTS =>
            {
                let text = format!(
                    "port: {} of them, more than the {MAX_CHANNEL_PORTS} that have channels",
                    request.ports.len()
                );
                Err(Refusal::new(StatusCode::BAD_REQUEST, text))
            }
            _ => Ok(agreement),
        };
    }
    if asks_for(SPDY) {
        return spdy(headers, if is_ports { SPDY_PORTS } else { SPDY_COMMAND });
    }
    let text = format!("Upgrade: neither {SPDY} nor {WEBSOCKET} is asked for");
    Err(Refusal::new(StatusCode::BAD_REQUEST, text))
}

fn spdy(headers: &HeaderMap, known: &[(&'static str, Upgrade)]) -> Result<Agreement, Refusal> {
    let mut asked = values(headers, &SPDY_PROTOCOL).peekable();
    if asked.peek().is_none() {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("{SPDY_PROTOCOL}: no protocol is asked for"),
        ));
    }
    let Some((name, upgrade)) = choose(asked, known) else {
        return Err(unknown_protocol(&SPDY_PROTOCOL, known, &SPDY_ACCEPTED));
    };
    let mut answer = switching(SPDY);
    answer.insert(&SPDY_PROTOCOL, HeaderValue::from_static(name));
    Ok((upgrade, answer))
}

fn websocket(
    method: &Method,
    headers: &HeaderMap,
    known: &[(&'static str, Upgrade)],
) -> Result<Agreement, Refusal> {
    if method != Method::GET {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is asked for with GET"));
    }
    if values(headers, &SEC_WEBSOCKET_VERSION).next() != Some("13") {
        let mut refusal =
            Refusal::new(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version: it has to be 13");
        refusal.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(refusal);
    }
    let key = values(headers, &SEC_WEBSOCKET_KEY).next().unwrap_or_default();
    if BASE64_STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key: it has to be 16 bytes in base64",
        ));
    }
    let asked: Vec<_> = values(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let asked = if asked.is_empty() { vec![""] } else { asked };
    let Some((name, upgrade)) = choose(asked.into_iter(), known) else {
        return Err(unknown_protocol(&SEC_WEBSOCKET_PROTOCOL, known, &SEC_WEBSOCKET_PROTOCOL));
    };
    let mut answer = switching(WEBSOCKET);
    let accept =
        BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(WEBSOCKET_GUID).finalize());
    if let Ok(accept) = HeaderValue::try_from(accept) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !name.is_empty() {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((upgrade, answer))
}

/// The client's first choice that is known.
fn choose<'a>(
    mut asked: impl Iterator<Item = &'a str>,
    known: &[(&'static str, Upgrade)],
) -> Option<(&'static str, Upgrade)> {
    asked.find_map(|asked| known.iter().find(|(name, _)| *name == asked).copied())
}

/// The values of a header, which may be in several lines, and several in a line.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

fn switching(to: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    headers
}

fn unknown_protocol(asked: &HeaderName, known: &[(&'static str, Upgrade)], answer: &HeaderName) -> Refusal {
    let names: Vec<_> = known.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    let mut refusal = Refusal::new(
        StatusCode::FORBIDDEN,
        format!("{asked}: none is known; known are {}", names.join(", ")),
    );
    for name in names {
        refusal.headers.append(answer.clone(), HeaderValue::from_static(name));
    }
    refusal
}

#[cfg(test)]
mod tests;
