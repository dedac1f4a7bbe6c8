//! The server as its clients see it: real sockets, and a backend of this process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "what goes wrong in a client fails its test, and a client looks at the frames that it waits for"
)]

mod abuse;
mod commands;
mod ports;
mod support;
mod tls;
