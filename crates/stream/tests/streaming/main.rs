//! The server as its clients see it: real sockets, and a backend of this process.

mod abuse;
mod commands;
mod ports;
mod support;
mod tls;
