//! What can go wrong with the server itself, one variant per operation. What goes wrong with a session is told to its
//! client, and logged at debug level: a client can bring it about at will.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What can go wrong with the server itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of the settings makes no sense.
    #[error("configure streaming: {key} {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of the TLS settings is unreadable, or not what it should be.
    #[error("load TLS files: {reason} in {path:?}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The address can't be listened on.
    #[error("listen for streaming on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// One container or pod has as many sessions as it may have.
    #[error(
        "register a streaming session: {owner} has {limit} already, as many as streaming.max_sessions_per_container \
         allows"
    )]
    TooManySessionsOfOne {
        /// The container's id, or the pod's whose ports are forwarded.
        owner: String,
        /// How many it may have.
        limit: usize,
    },
    /// There are as many sessions as there may be.
    #[error(
        "register a streaming session: there are {limit} already, as many as streaming.max_sessions allows"
    )]
    TooManySessions {
        /// How many there may be.
        limit: usize,
    },
    /// The kernel has no random bytes for a token.
    #[error("make a streaming token")]
    Token {
        /// Why not.
        #[source]
        source: io::Error,
    },
}
