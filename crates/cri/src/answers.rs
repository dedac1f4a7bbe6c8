//! Answers that come in several messages.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use prost::Message;
use tonic::Status;

/// Several messages, or a failure midway.
pub(crate) type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Enough for any client, and much less than what one may refuse.
const PART_BYTES: usize = 1 << 20;

/// Sends each item once, in messages of at most [`PART_BYTES`] unless a single item is larger.
pub(crate) fn in_parts<I, T>(items: Vec<I>, message: impl Fn(Vec<I>) -> T + Send + 'static) -> Answers<T>
where
    I: Message + Send + 'static,
    T: Send + 'static,
{
    stream::iter(parts(items, PART_BYTES)).map(move |part| Ok(message(part))).boxed()
}

fn parts<I: Message>(items: Vec<I>, part_bytes: usize) -> Vec<Vec<I>> {
    let mut parts: Vec<Vec<I>> = Vec::new();
    let mut room = 0;
    for item in items {
        let size = item.encoded_len();
        match parts.last_mut() {
            Some(part) if size <= room => {
                room -= size;
                part.push(item);
            }
            _ => {
                room = part_bytes.saturating_sub(size);
                parts.push(vec![item]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_in_one_part_and_parts_are_bounded() {
        let item = |length: usize| "x".repeat(length);
        let sizes = |lengths: &[usize]| -> Vec<usize> {
            parts(lengths.iter().map(|length| item(*length)).collect(), 20).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&[]), [0_usize; 0]);
        // A text in a message of its own costs two bytes more.
        assert_eq!(sizes(&[8, 8, 8]), [2, 1]);
        assert_eq!(sizes(&[50, 1, 50]), [1, 1, 1]);
    }
}
