//! A client channel on a CRI runtime's Unix socket.
//!
//! In: the socket's path. Out: a tonic [`Channel`] from which any number of service clients can be made; it
//! reconnects by itself when the runtime restarts. The first connection is made here, so that a wrong path fails at
//! once and not at the first call.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// Connecting to a runtime failed; the source says why (no such file, refused, not permitted).
#[derive(Debug, thiserror::Error)]
#[error("connect to the runtime's socket {path}")]
pub struct ConnectError {
    /// The socket.
    pub path: PathBuf,
    /// What the transport said.
    pub source: tonic::transport::Error,
}

/// Connects to the runtime that listens on the Unix socket `path`.
///
/// Errors: the socket is absent, is not listened to, or this process may not open it; nothing remains open.
pub async fn connect(path: impl AsRef<Path>) -> Result<Channel, ConnectError> {
    let path = path.as_ref().to_path_buf();
    let target = path.clone();
    let connector = service_fn(move |_| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    // The URI only fills HTTP/2's authority, which Go servers want to be well-formed; the connector ignores it.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError { path, source })
}
