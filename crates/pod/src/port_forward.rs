//! Connections to ports on a pod's loopback.
//!
//! Sockets are made in the pod's network namespace by a thread that ends there, and keep it; everything else happens in
//! the agent. A pod in the host's network is reached directly.

use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::host::blocking;
use crate::link::Link;

/// How long a server on the loopback may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Where a server in a pod may listen, in the order in which it is looked for.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Connects to `port` of the pod's loopback.
pub(crate) async fn connect(link: &Link, port: u16) -> Result<TcpStream> {
    let network = link.open_network().await?;
    let sockets = blocking(move || match network {
        Some(network) => berth_sys::netns::within(network, sockets),
        None => Ok(sockets()),
    });
    let [v4, v6] = sockets.await?.map_err(|errno| Error::Spawn(errno.into()))?;
    let failed_v4 = match connect_to(v4, port, LOOPBACKS[0]).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    match connect_to(v6, port, LOOPBACKS[1]).await {
        Ok(stream) => Ok(stream),
        Err(failed_v6) => Err(Error::Connect { port, v4: failed_v4, v6: failed_v6 }),
    }
}

/// A socket for each of [`LOOPBACKS`]; a kernel without IPv6 has none for it.
fn sockets() -> [std::result::Result<OwnedFd, Errno>; 2] {
    LOOPBACKS.map(|address| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
    })
}

async fn connect_to(
    socket: std::result::Result<OwnedFd, Errno>,
    port: u16,
    address: IpAddr,
) -> IoResult<TcpStream> {
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket?));
    let connecting = socket.connect(SocketAddr::new(address, port));
    let stream =
        timeout(CONNECT_LIMIT, connecting).await.map_err(|_| IoError::from(ErrorKind::TimedOut))??;
    // What is typed shall arrive at once.
    stream.set_nodelay(true)?;
    Ok(stream)
}
