//! The streaming server: what `kubectl exec`, `attach` and `port-forward` go through after the API call that asked for
//! them has been answered with a URL.
//!
//! ```text
//! Tickets ── a request waits under a single-use token for its client
//!  └─ server ── TLS, HTTP/1.1, the token, the negotiation of the upgrade
//!      ├─ spdy ── SPDY/3.1: frame and headers (pure codec), connection (streams with flow control)
//!      ├─ websocket ── RFC 6455: frame and channel (pure codecs), connection; or a tunnel with SPDY inside
//!      └─ command, port_forward ── pump bytes between the streams of either and the ends that the Backend gives
//! ```
//! The codecs take bytes and give frames; they know no socket and no task. Everything a client can make grow is
//! bounded: connections, sessions, streams, headers before and after they are unpacked, and the bytes that wait on
//! their way to a process that does not read. Then the socket is not read either. Of our crates this one knows
//! `sys` alone: what it needs of the runtime is the trait [`Backend`].

mod activity;
mod backend;
mod command;
mod config;
mod ends;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod negotiate;
mod places;
mod port_forward;
mod resize;
mod server;
mod socket;
pub mod spdy;
mod status;
mod tickets;
mod tls;
pub mod websocket;
mod writer;

pub use backend::{
    AttachRequest, Backend, BackendError, Duplex, ExecRequest, PortForwardRequest, Process, TerminalSize,
};
pub use config::StreamingConfig;
pub use error::Error;
pub use server::Server;
pub use tickets::{Request, Tickets};
