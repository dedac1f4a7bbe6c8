//! The socket under an upgraded connection, with or without TLS.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
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
