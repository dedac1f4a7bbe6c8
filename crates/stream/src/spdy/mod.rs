//! SPDY/3.1, the server's side: what a kubelet and kubectl speak to a runtime.
//!
//! Its peers are programs built on one Go library, which ignores flow control: it neither sends window updates nor
//! waits for any. [`mod@flow`] tells such a peer from one that keeps to the protocol; towards the former TCP is all
//! there is to hold either side back.

pub(crate) mod connection;
mod dictionary;
pub(crate) mod flow;
pub mod frame;
pub mod header;
pub(crate) mod reader;
