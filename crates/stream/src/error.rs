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
    /// More sessions than one node needs wait for their clients.
    #[error("register a streaming session: {limit} of them wait for their clients already")]
    TooManySessions {
        /// How many may wait.
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
