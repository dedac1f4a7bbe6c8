//! The socket under an upgraded connection, with or without TLS.

use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::Duplex;
use crate::ends::MAX_PIECE_BYTES;
use crate::writer::{Sender, Writer};

/// A connection to a client, once HTTP is done with it.
pub(crate) type Socket = Box<dyn Duplex>;

/// How much is read at once.
pub(crate) const READ_BYTES: usize = MAX_PIECE_BYTES;

/// How long a client may take to close its side after all has been sent and we have said goodbye. Closing ours before
/// would throw away what has not reached it yet, if it has sent something meanwhile that we have not read.
const LINGER: Duration = Duration::from_secs(60);

/// How long it may take to say goodbye to a client that is gone, or that speaks nonsense.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a process may take over one piece of input after the client has hung up. Longer, and it counts as one that
/// does not read, so that the client's end is never reached.
const LAST_INPUT: Duration = Duration::from_secs(5);

/// Notices that a client has hung up while what it has sent is not read. Nothing for what is no socket of the kernel's.
#[derive(Debug, Default)]
pub(crate) struct HangUp(Option<TcpStream>);

/// The client has hung up, and what it sent before is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HungUp;

impl HangUp {
    /// Of a connection, below whatever is spoken on it. It stays open for as long as this is kept.
    pub(crate) fn of(socket: &TcpStream) -> io::Result<Self> {
        let same = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        Ok(Self(Some(TcpStream::from_std(same)?)))
    }

    /// Waits for something that ends when input is taken. After the client has hung up, only for a while.
    pub(crate) async fn bound<T>(&self, taking: impl Future<Output = T>) -> Result<T, HungUp> {
        let mut taking = pin!(taking);
        tokio::select! {
            biased;
            taken = &mut taking => return Ok(taken),
            () = self.comes() => {}
        }
        timeout(LAST_INPUT, taking).await.map_err(|_| HungUp)
    }

    /// Waits until the client has closed its side or is gone.
    async fn comes(&self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        while let Ok(ready) = socket.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // There is something to read, which others do: let the next news be waited for. An end is not forgotten by
            // this.
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::READABLE, nothing);
        }
    }
}

/// Ends a connection well: `last` goes out after all that waits, however long that takes a client that reads; then the
/// client's side is read on to its end. The reader ends by itself on a connection that is idle.
pub(crate) async fn close<T>(
    last: Vec<T>,
    out: Sender<T>,
    writer: Writer,
    mut reader: AbortOnDropHandle<()>,
) {
    let mut goodbye = pin!(async move {
        for last in last {
            let _ = out.send(last).await;
        }
        out.finish().await;
        let _ = writer.await;
    });
    if !reader.is_finished() {
        tokio::select! {
            () = &mut goodbye => {
                let _ = timeout(LINGER, reader).await;
                return;
            }
            _ = &mut reader => {}
        }
    }
    let _ = timeout(LAST_WORDS, goodbye).await;
}

/// Makes room for the next read. Most of the buffer's room is used before it is replaced, since what was split off may
/// keep the whole of it.
pub(crate) fn reserve(buffer: &mut BytesMut, read_bytes: usize) {
    if buffer.capacity() - buffer.len() < read_bytes / 4 {
        buffer.reserve(read_bytes);
    }
}
