//! nftables over netlink: a table as a value, and the transaction that puts it in place.
//!
//! A [`Table`] says what should be; [`replace`] makes it so in one transaction: make the table if missing,
//! delete it, make it again with all that it holds. Packets meet the old rules or the new ones, never none.
//! Only the expressions that our rules use are encoded here; what the rules are is decided in `rules`.
//!
//! ```text
//! message:     [nfgenmsg: family u8, version u8, resource u16 BE] [attributes]
//! attribute:   [length u16][kind u16][value, padded to 4]         numbers in values are big-endian
//! transaction: BATCH_BEGIN, messages…, BATCH_END                  all or nothing
//! ```
//!
//! Source: `linux/netfilter/nf_tables.h` and `nfnetlink.h`. Single elements of sets and maps can be added
//! and removed by transactions of their own, which need no replacement of the table.

use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::error::NetlinkError;
use crate::netlink::{self, Batch, Mode, attribute, text_of};

type Result<T> = std::result::Result<T, NetlinkError>;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = message(0);
const DELETE_TABLE: u16 = message(2);
const NEW_CHAIN: u16 = message(3);
const GET_CHAIN: u16 = message(4);
const NEW_RULE: u16 = message(6);

const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_INET: u8 = 1;
const HEADER_BYTES: usize = 4;
const REGISTER_1: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const POLICY_DROP: u32 = 0;
/// Where source address translation belongs among the chains of a hook (`srcnat`).
const PRIORITY_SRCNAT: u32 = 100;

const NETWORK_HEADER: u32 = 1;
const META_NFPROTO: u32 = 15;

/// A table of the `inet` family: it sees IPv4 and IPv6.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table<'a> {
    pub(crate) name: &'a str,
    /// The rules of the one chain, `postrouting`, in which sources are translated.
    pub(crate) postrouting: Vec<Rule>,
}

/// What a rule does with a packet, one after the other until one does not match.
pub(crate) type Rule = Vec<Expression>;

/// A step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Goes on with packets of this family (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
    Family(u8),
    /// Goes on if some bits of the network header compare so.
    Header(HeaderMatch),
    /// Gives the packet the address of the link by which it leaves.
    Masquerade,
}

/// Bytes of the network header, masked, compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderMatch {
    /// Bytes from the beginning of the IP header.
    pub(crate) offset: u32,
    /// At most 16 bytes.
    pub(crate) mask: Vec<u8>,
    pub(crate) comparison: Comparison,
    /// As long as the mask.
    pub(crate) value: Vec<u8>,
}

/// `NFT_CMP_EQ` and `NFT_CMP_NEQ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal = 0,
    Different = 1,
}

/// Puts the table in place of whatever has its name.
pub(crate) fn replace(table: &Table<'_>) -> Result<()> {
    let mut transaction = Transaction::new();
    transaction.clear(table.name);
    transaction.add(table);
    transaction.commit()
}

/// Removes the table of this name; one that is not there is fine.
pub(crate) fn remove(name: &str) -> Result<()> {
    let mut transaction = Transaction::new();
    transaction.clear(name);
    transaction.commit()
}

/// The chains, as `table chain`, that drop what is forwarded unless one of their rules accepts it.
pub(crate) fn dropping_forward_chains() -> Result<Vec<String>> {
    let mut batch = Batch::default();
    batch.encoded("list chains", GET_CHAIN, Mode::Dump, &header(FAMILY_UNSPECIFIED, 0));
    let told = batch.send(netlink::open(NETLINK_NETFILTER)?.as_fd())?;
    Ok(told.iter().filter_map(|body| dropping_forward_chain(body)).collect())
}

fn dropping_forward_chain(body: &[u8]) -> Option<String> {
    let chain = body.get(HEADER_BYTES..)?;
    let hook = attribute(attribute(chain, 4)?, 1)?;
    let policy = attribute(chain, 5)?;
    let dropping = hook == HOOK_FORWARD.to_be_bytes() && policy == POLICY_DROP.to_be_bytes();
    let name = |kind| attribute(chain, kind).map(text_of);
    dropping.then_some(format!("{} {}", name(1)?, name(3)?))
}

struct Transaction {
    batch: Batch,
}

impl Transaction {
    fn new() -> Self {
        let mut batch = Batch::default();
        batch.mark("begin nftables transaction", BATCH_BEGIN, &header(FAMILY_UNSPECIFIED, SUBSYSTEM));
        Self { batch }
    }

    /// Deleting what is not there would be refused, so it is made first.
    fn clear(&mut self, table: &str) {
        self.push("create table", NEW_TABLE, Mode::Ensure, Attributes::new().text(1, table));
        self.push("delete table", DELETE_TABLE, Mode::Plain, Attributes::new().text(1, table));
    }

    fn add(&mut self, table: &Table<'_>) {
        const CHAIN: &str = "postrouting";
        self.push("create table", NEW_TABLE, Mode::Create, Attributes::new().text(1, table.name));
        let hook = Attributes::new().number(1, HOOK_POSTROUTING).number(2, PRIORITY_SRCNAT);
        let chain = Attributes::new().text(1, table.name).text(3, CHAIN).nested(4, hook).text(7, "nat");
        self.push("create chain", NEW_CHAIN, Mode::Create, chain);
        for rule in &table.postrouting {
            let list =
                rule.iter().flat_map(encode).fold(Attributes::new(), |list, item| list.nested(1, item));
            let rule = Attributes::new().text(1, table.name).text(2, CHAIN).nested(4, list);
            self.push("create rule", NEW_RULE, Mode::Ensure, rule);
        }
    }

    fn push(&mut self, step: &'static str, kind: u16, mode: Mode, attributes: Attributes) {
        self.batch.encoded(step, kind, mode, &[header(FAMILY_INET, 0), attributes.0].concat());
    }

    fn commit(mut self) -> Result<()> {
        self.batch.mark("commit nftables transaction", BATCH_END, &header(FAMILY_UNSPECIFIED, SUBSYSTEM));
        self.batch.send(netlink::open(NETLINK_NETFILTER)?.as_fd())?;
        Ok(())
    }
}

/// The kernel's own expressions for ours: a name, and attributes that only this kind of expression has.
fn encode(expression: &Expression) -> Vec<Attributes> {
    match expression {
        Expression::Family(family) => {
            let load = Attributes::new().number(1, REGISTER_1).number(2, META_NFPROTO);
            vec![named("meta", load), compare(Comparison::Equal, &[*family])]
        }
        Expression::Header(header) => {
            let length = header.mask.len() as u32;
            let load = Attributes::new()
                .number(1, REGISTER_1)
                .number(2, NETWORK_HEADER)
                .number(3, header.offset)
                .number(4, length);
            let mask = Attributes::new()
                .number(1, REGISTER_1)
                .number(2, REGISTER_1)
                .number(3, length)
                .nested(4, data(&header.mask))
                .nested(5, data(&vec![0; header.mask.len()]));
            vec![named("payload", load), named("bitwise", mask), compare(header.comparison, &header.value)]
        }
        Expression::Masquerade => vec![named("masq", Attributes::new())],
    }
}

fn compare(comparison: Comparison, value: &[u8]) -> Attributes {
    let attributes = Attributes::new().number(1, REGISTER_1).number(2, comparison as u32);
    named("cmp", attributes.nested(3, data(value)))
}

fn named(name: &str, attributes: Attributes) -> Attributes {
    Attributes::new().text(1, name).nested(2, attributes)
}

fn data(value: &[u8]) -> Attributes {
    Attributes::new().bytes(1, value)
}

const fn message(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

fn header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// Attributes, one after the other.
struct Attributes(Vec<u8>);

impl Attributes {
    const NESTED: u16 = 0x8000;

    fn new() -> Self {
        Self(Vec::new())
    }

    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn nested(self, kind: u16, value: Self) -> Self {
        self.bytes(kind | Self::NESTED, &value.0)
    }
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

    #[test]
    fn chain_that_drops_forwarded_packets_is_recognised() {
        let check = |hook: u32, policy: u32, expected: Option<&str>| {
            let hook = Attributes::new().number(1, hook).number(2, 0);
            let chain =
                Attributes::new().text(1, "filter").text(3, "FORWARD").nested(4, hook).number(5, policy);
            let body = [header(2, 0), chain.0].concat();
            assert_eq!(dropping_forward_chain(&body).as_deref(), expected);
        };
        check(HOOK_FORWARD, POLICY_DROP, Some("filter FORWARD"));
        check(HOOK_FORWARD, 1, None);
        check(HOOK_POSTROUTING, POLICY_DROP, None);
    }
}
