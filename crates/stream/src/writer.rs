//! The one task that writes to a connection. What it writes waits in a short queue, so that whoever sends waits when
//! the client does not read; a sender that is dropped while it waits leaves no frame half written.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// How many frames may wait. With pieces of [`crate::ends::MAX_PIECE_BYTES`] this is what a connection may hold.
const QUEUE: usize = 8;

/// How many slices are written at once: a head and a body for each frame that may wait, and one more.
const SLICES: usize = 2 * QUEUE + 2;

/// Puts what is sent into the form of the wire. Called in the order of sending.
pub(crate) trait Encode: Send + 'static {
    /// What is sent.
    type Item: Send + 'static;

    /// Appends the frame up to its body to `head`, and answers with the body, which is not copied.
    fn encode(&mut self, item: Self::Item, head: &mut BytesMut) -> Bytes;
}

/// The way to the writer.
#[derive(Debug)]
pub(crate) struct Sender<T>(mpsc::Sender<Option<T>>);

/// The writer's task.
pub(crate) type Writer = AbortOnDropHandle<io::Result<()>>;

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Waits while the client does not read. Safe to drop.
    pub(crate) async fn send(&self, item: T) -> Result<(), Gone> {
        self.0.send(Some(item)).await.map_err(|_| Gone)
    }

    /// Lets the writer end when it has written what waits. It shuts the connection down in its direction then.
    pub(crate) async fn finish(&self) {
        let _ = self.0.send(None).await;
    }
}

/// Starts the writer of a connection.
pub(crate) fn start<E: Encode>(
    socket: impl AsyncWrite + Send + Unpin + 'static,
    encoder: E,
) -> (Sender<E::Item>, Writer) {
    let (sender, items) = mpsc::channel(QUEUE);
    (Sender(sender), AbortOnDropHandle::new(tokio::spawn(write(socket, encoder, items))))
}

async fn write<E: Encode>(
    mut socket: impl AsyncWrite + Unpin,
    mut encoder: E,
    mut items: mpsc::Receiver<Option<E::Item>>,
) -> io::Result<()> {
    let (mut head, mut batch) = (BytesMut::new(), VecDeque::with_capacity(SLICES));
    let mut is_last = false;
    while !is_last && let Some(first) = items.recv().await {
        let mut next = Some(first);
        while let Some(item) = next {
            let Some(item) = item else {
                is_last = true;
                break;
            };
            let body = encoder.encode(item, &mut head);
            batch.push_back(head.split().freeze());
            if !body.is_empty() {
                batch.push_back(body);
            }
            next = if batch.len() + 2 <= SLICES { items.try_recv().ok() } else { None };
        }
        write_batch(&mut socket, &mut batch).await?;
        socket.flush().await?;
    }
    socket.shutdown().await
}

async fn write_batch(socket: &mut (impl AsyncWrite + Unpin), batch: &mut VecDeque<Bytes>) -> io::Result<()> {
    while !batch.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        slices.iter_mut().zip(batch.iter()).for_each(|(slice, bytes)| *slice = IoSlice::new(bytes));
        let mut written = socket.write_vectored(&slices[..batch.len().min(SLICES)]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = batch.front_mut() {
            let here = written.min(first.len());
            first.advance(here);
            written -= here;
            if !first.is_empty() {
                break;
            }
            batch.pop_front();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    struct Lengths;

    impl Encode for Lengths {
        type Item = Bytes;

        fn encode(&mut self, item: Bytes, head: &mut BytesMut) -> Bytes {
            head.extend_from_slice(format!("{}:", item.len()).as_bytes());
            item
        }
    }

    #[tokio::test]
    async fn all_arrives_in_order_and_then_the_end() {
        // A small pipe, so that writes end in the midst of slices.
        let (ours, mut theirs) = tokio::io::duplex(7);
        let (sender, writer) = start(ours, Lengths);
        let sending = tokio::spawn(async move {
            for length in 0..200 {
                sender.send(vec![b'x'; length].into()).await.unwrap();
            }
            sender.finish().await;
            sender
        });
        let mut received = String::new();
        theirs.read_to_string(&mut received).await.unwrap();
        let expected: String = (0..200).map(|length| format!("{length}:{}", "x".repeat(length))).collect();
        assert_eq!(received, expected);
        writer.await.unwrap().unwrap();
        assert_eq!(sending.await.unwrap().send(Bytes::new()).await, Err(Gone));
    }

    #[tokio::test]
    async fn who_sends_waits_while_nobody_reads_and_learns_when_all_is_over() {
        let (ours, theirs) = tokio::io::duplex(1);
        let (sender, writer) = start(ours, Lengths);
        let mut sent = 0;
        while let Ok(outcome) =
            tokio::time::timeout(std::time::Duration::from_millis(50), sender.send(Bytes::from_static(b"ab")))
                .await
        {
            outcome.unwrap();
            sent += 1;
        }
        assert!(sent <= 2 * QUEUE + 1, "{sent}");
        drop(theirs);
        assert!(writer.await.unwrap().is_err());
        assert_eq!(sender.send(Bytes::new()).await, Err(Gone));
    }
}
