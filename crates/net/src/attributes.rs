//! Netlink attributes as netfilter wants them: numbers big-endian, texts ended by a zero, nesting marked.
//!
//! ```text
//! attribute:   [length u16][kind u16][value, padded to 4]
//! ```

/// Attributes, one after the other.
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    const NESTED: u16 = 0x8000;

    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn nested(self, kind: u16, value: Self) -> Self {
        self.bytes(kind | Self::NESTED, &value.0)
    }
}

/// What begins the body of every message of netfilter's: family, version, and a number that few messages use.
/// Source: `linux/netfilter/nfnetlink.h`, `nfgenmsg`.
pub(crate) fn header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_say_their_length() {
        let attributes = Attributes::new().text(1, "ab").nested(4, Attributes::new().number(2, 100));
        let expected =
            [&[7, 0, 1, 0, b'a', b'b', 0, 0][..], &[12, 0, 4, 0x80, 8, 0, 2, 0, 0, 0, 0, 100]].concat();
        assert_eq!(attributes.0, expected);
    }
}
