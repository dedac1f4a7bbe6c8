//! The sizes of the client's terminal, as they come on the resize stream: one JSON object after the other. Pure.

use serde::Deserialize;

use crate::TerminalSize;

/// The longest text that waits for its end. A size has some thirty letters.
const MAX_TEXT_BYTES: usize = 1024;

/// Reads sizes.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    text: Vec<u8>,
}

/// The text is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

impl Sizes {
    /// The last size that is whole after this piece of text, since those before it no longer matter. One without width
    /// or height is that of no terminal, and is left out.
    pub(crate) fn read(&mut self, piece: &[u8]) -> Result<Option<TerminalSize>, Malformed> {
        self.text.extend_from_slice(piece);
        let mut sizes = serde_json::Deserializer::from_slice(&self.text).into_iter::<Size>();
        let (mut last, mut read) = (None, 0);
        while let Some(size) = sizes.next() {
            match size {
                Ok(Size { width: 0, .. } | Size { height: 0, .. }) => {}
                Ok(Size { width, height }) => last = Some(TerminalSize { width, height }),
                Err(error) if error.is_eof() => break,
                Err(_) => return Err(Malformed),
            }
            read = sizes.byte_offset();
        }
        let rest = self.text.get(read..).unwrap_or_default().trim_ascii_start().len();
        self.text.drain(..self.text.len() - rest);
        if self.text.len() > MAX_TEXT_BYTES { Err(Malformed) } else { Ok(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_size_counts() {
        type Last = Result<Option<TerminalSize>, Malformed>;
        let size = |width, height| Ok(Some(TerminalSize { width, height }));
        let cases: [(&[&str], Last); 9] = [
            (&[r#"{"Width":80,"Height":24}"#], size(80, 24)),
            (&[r#"{"width":80,"height":24}"#], size(80, 24)),
            (&["{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":40}\n"], size(100, 40)),
            (&[r#"{"Width":80,"#, r#""Height":24}"#], size(80, 24)),
            (&[r#"{"Width":80,"Height":0}"#], Ok(None)),
            (&[r#"{"Width":1,"Height":1}{"Width":0,"Height":9}"#], size(1, 1)),
            (&["resize"], Err(Malformed)),
            (&[r#"{"Width":70000,"Height":24}"#], Err(Malformed)),
            (&[], Ok(None)),
        ];
        for (pieces, expected) in cases {
            let mut sizes = Sizes::default();
            let mut last = Ok(None);
            for piece in pieces {
                last = sizes.read(piece.as_bytes());
            }
            assert_eq!(last, expected, "{pieces:?}");
        }
    }

    #[test]
    fn text_without_an_end_is_not_kept() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.read(&[b' '; 1024]), Ok(None));
        assert_eq!(sizes.read(b"{\"Width\": "), Ok(None));
        assert_eq!(sizes.read(&[b' '; 1024]), Err(Malformed));
    }
}
