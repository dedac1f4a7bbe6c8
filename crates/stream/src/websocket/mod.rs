//! WebSocket, the server's side: what browsers and crictl speak to a runtime.

pub mod channel;
pub(crate) mod connection;
pub mod frame;
pub(crate) mod tunnel;
