//! nftables over netlink: a table as a value, and the transaction that puts it in place.
//!
//! A [`Table`] says what should be; [`replace`] makes it so in one transaction: make the table if missing,
//! delete it, make it again with all that it holds. Packets meet the old rules or the new ones, never none.
//! [`replace_rules`] leaves the maps as they are, and [`add_elements`] and [`remove_elements`] change nothing but a
//! map, however much it holds. What the rules are is decided in `rules`.
//!
//! ```text
//! message:     [nfgenmsg: family u8, version u8, resource u16 BE] [attributes]
//! transaction: BATCH_BEGIN, messages…, BATCH_END                  all or nothing
//! ```
//!
//! Source: `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

mod expression;

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use crate::attributes::{Attributes, header};
use crate::error::NetlinkError;
use crate::netlink::{self, Batch, Mode, attribute, of_kind, text_of};
use expression::{data, encode};

pub(crate) use expression::{Comparison, Expression, Family, HeaderMatch, Redirect, Rule};

type Result<T> = std::result::Result<T, NetlinkError>;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = message(0);
const DELETE_TABLE: u16 = message(2);
const NEW_CHAIN: u16 = message(3);
const GET_CHAIN: u16 = message(4);
const NEW_RULE: u16 = message(6);
const GET_RULE: u16 = message(7);
const DELETE_RULE: u16 = message(8);
const NEW_SET: u16 = message(9);
const NEW_ELEMENTS: u16 = message(12);
const GET_ELEMENTS: u16 = message(13);
const DELETE_ELEMENTS: u16 = message(14);

const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_INET: u8 = 1;
const HEADER_BYTES: usize = 4;
const POLICY_DROP: u32 = 0;
const SET_IS_MAP: u32 = 1 << 3;
/// As many bits of a map's type tell one field.
const FIELD_TYPE_BITS: u32 = 6;
/// An attribute's length has 16 bits, and a transaction has to fit into the socket's buffer.
const ELEMENTS_AT_ONCE: usize = 500;

/// A table of the `inet` family: it sees IPv4 and IPv6.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table<'a> {
    pub(crate) name: &'a str,
    pub(crate) maps: Vec<Map>,
    pub(crate) chains: Vec<Chain>,
}

impl Table<'_> {
    /// How many rules it has.
    pub(crate) fn rule_count(&self) -> usize {
        self.chains.iter().map(|chain| chain.rules.len()).sum()
    }
}

/// Rules for the packets of one hook.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) kind: ChainKind,
    pub(crate) hook: Hook,
    /// Its place among the chains of the hook; low comes first.
    pub(crate) priority: i32,
    pub(crate) rules: Vec<Rule>,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Filter,
    /// Its rules see the first packet of a connection only.
    Nat,
}

/// `NF_INET_…`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// A map by hash: a lookup costs the same however many elements there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Field],
    pub(crate) value: &'static [Field],
}

/// A part of a key or value, by nft's number of its type; each is padded to four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Address4 = 7,
    Address6 = 8,
    Protocol = 12,
    Port = 13,
}

impl Field {
    fn bytes(self) -> u32 {
        match self {
            Self::Address4 | Self::Protocol | Self::Port => 4,
            Self::Address6 => 16,
        }
    }
}

/// What a map holds under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) map: &'static str,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// Puts the table in place of whatever has its name.
///
/// What exceeds the first few hundred elements follows in transactions of its own.
pub(crate) fn replace(table: &Table<'_>, elements: &[Element]) -> Result<()> {
    let (first, rest) = elements.split_at(elements.len().min(ELEMENTS_AT_ONCE));
    let mut transaction = Transaction::new();
    transaction.clear(table.name);
    transaction.push("create table", NEW_TABLE, Mode::Create, Attributes::new().text(1, table.name));
    for (index, map) in table.maps.iter().enumerate() {
        transaction.add_map(table.name, map, index as u32 + 1);
    }
    for chain in &table.chains {
        transaction.add_chain(table.name, chain);
        transaction.add_rules(table.name, chain);
    }
    transaction.put_elements(table.name, first);
    transaction.commit()?;
    add_elements(table.name, rest)
}

/// Puts these rules in place of the ones there are, in the chains that there are.
pub(crate) fn replace_rules(table: &Table<'_>) -> Result<()> {
    let mut transaction = Transaction::new();
    let all = Attributes::new().text(1, table.name);
    transaction.push("delete rules", DELETE_RULE, Mode::Plain, all);
    for chain in &table.chains {
        transaction.add_rules(table.name, chain);
    }
    transaction.commit()
}

/// Adds to maps. An element that is there already with the same value is fine.
pub(crate) fn add_elements(table: &str, elements: &[Element]) -> Result<()> {
    for some in elements.chunks(ELEMENTS_AT_ONCE) {
        let mut transaction = Transaction::new();
        transaction.put_elements(table, some);
        transaction.commit()?;
    }
    Ok(())
}

/// Takes from maps; what is not there is fine, be it the element, its map or the table.
pub(crate) fn remove_elements(table: &str, elements: &[Element]) -> Result<()> {
    for some in elements.chunks(ELEMENTS_AT_ONCE) {
        match remove_all(table, some) {
            // One that is missing fails the whole transaction: then each has its own.
            Err(error) if error.refusal() == Some(Errno::NOENT) => {
                for element in some {
                    match remove_all(table, std::slice::from_ref(element)) {
                        Err(error) if error.refusal() == Some(Errno::NOENT) => {}
                        removed => removed?,
                    }
                }
            }
            removed => removed?,
        }
    }
    Ok(())
}

fn remove_all(table: &str, elements: &[Element]) -> Result<()> {
    let mut transaction = Transaction::new();
    let item = |element: &Element| Attributes::new().nested(1, data(&element.key));
    transaction.push_elements("remove map elements", DELETE_ELEMENTS, Mode::Plain, table, elements, item);
    transaction.commit()
}

/// What a map holds; nothing where there is no such map or table.
pub(crate) fn list_elements(table: &str, map: &'static str) -> Result<Vec<Element>> {
    let mut batch = Batch::default();
    let names = Attributes::new().text(1, table).text(2, map);
    batch.encoded("list map elements", GET_ELEMENTS, Mode::Dump, &[header(FAMILY_INET, 0), names.0].concat());
    let told = match batch.send(netlink::open(NETLINK_NETFILTER)?.as_fd()) {
        Err(error) if error.refusal() == Some(Errno::NOENT) => return Ok(Vec::new()),
        told => told?,
    };
    Ok(told.iter().flat_map(|body| elements_in(body, map)).collect())
}

/// The elements that one answer tells of: in a list (3), each (1) with its key (1) and value (2).
fn elements_in(body: &[u8], map: &'static str) -> Vec<Element> {
    let list = body.get(HEADER_BYTES..).and_then(|attributes| attribute(attributes, 3)).unwrap_or_default();
    let read = |element: &[u8]| {
        let bytes = |kind| Some(attribute(attribute(element, kind)?, 1)?.to_vec());
        Some(Element { map, key: bytes(1)?, value: bytes(2)? })
    };
    of_kind(list, 1).filter_map(read).collect()
}

/// Removes the table of this name; one that is not there is fine.
pub(crate) fn remove(name: &str) -> Result<()> {
    let mut transaction = Transaction::new();
    transaction.clear(name);
    transaction.commit()
}

/// How many rules the table of this name has; none if there is no such table.
pub(crate) fn count_rules(table: &str) -> Result<usize> {
    let mut batch = Batch::default();
    let body = [header(FAMILY_INET, 0), Attributes::new().text(1, table).0].concat();
    batch.encoded("list rules", GET_RULE, Mode::Dump, &body);
    let told = batch.send(netlink::open(NETLINK_NETFILTER)?.as_fd())?;
    let ours = |body: &Vec<u8>| {
        let name = attribute(body.get(HEADER_BYTES..)?, 1)?;
        (text_of(name) == table).then_some(())
    };
    Ok(told.iter().filter_map(ours).count())
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
    let dropping = hook == (Hook::Forward as u32).to_be_bytes() && policy == POLICY_DROP.to_be_bytes();
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

    /// `number` tells the maps of a transaction apart.
    fn add_map(&mut self, table: &str, map: &Map, number: u32) {
        let set = Attributes::new()
            .text(1, table)
            .text(2, map.name)
            .number(3, SET_IS_MAP)
            .number(4, type_of(map.key))
            .number(5, map.key.iter().map(|field| field.bytes()).sum())
            .number(6, type_of(map.value))
            .number(7, map.value.iter().map(|field| field.bytes()).sum())
            .number(10, number);
        self.push("create map", NEW_SET, Mode::Create, set);
    }

    fn add_chain(&mut self, table: &str, chain: &Chain) {
        let kind = match chain.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let hook = Attributes::new().number(1, chain.hook as u32);
        let hook = hook.bytes(2, &chain.priority.to_be_bytes());
        let body = Attributes::new().text(1, table).text(3, chain.name).nested(4, hook).text(7, kind);
        self.push("create chain", NEW_CHAIN, Mode::Create, body);
    }

    fn add_rules(&mut self, table: &str, chain: &Chain) {
        for rule in &chain.rules {
            let list =
                rule.iter().flat_map(encode).fold(Attributes::new(), |list, item| list.nested(1, item));
            let rule = Attributes::new().text(1, table).text(2, chain.name).nested(4, list);
            self.push("create rule", NEW_RULE, Mode::Append, rule);
        }
    }

    fn put_elements(&mut self, table: &str, elements: &[Element]) {
        let item = |element: &Element| {
            Attributes::new().nested(1, data(&element.key)).nested(2, data(&element.value))
        };
        self.push_elements("add map elements", NEW_ELEMENTS, Mode::Ensure, table, elements, item);
    }

    /// One request for each map: the answers to one for each element could exceed the socket's buffer.
    fn push_elements(
        &mut self,
        step: &'static str,
        kind: u16,
        mode: Mode,
        table: &str,
        elements: &[Element],
        item: impl Fn(&Element) -> Attributes,
    ) {
        let mut by_map = BTreeMap::<_, Vec<_>>::new();
        for element in elements {
            by_map.entry(element.map).or_default().push(element);
        }
        for (map, elements) in by_map {
            let add = |list: Attributes, element| list.nested(1, item(element));
            let list = elements.into_iter().fold(Attributes::new(), add);
            self.push(step, kind, mode, Attributes::new().text(1, table).text(2, map).nested(3, list));
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

/// nft's number for fields in a row.
fn type_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| number << FIELD_TYPE_BITS | *field as u32)
}

const fn message(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_that_drops_forwarded_packets_is_recognised() {
        let check = |hook: Hook, policy: u32, expected: Option<&str>| {
            let hook = Attributes::new().number(1, hook as u32).number(2, 0);
            let chain =
                Attributes::new().text(1, "filter").text(3, "FORWARD").nested(4, hook).number(5, policy);
            let body = [header(2, 0), chain.0].concat();
            assert_eq!(dropping_forward_chain(&body).as_deref(), expected);
        };
        check(Hook::Forward, POLICY_DROP, Some("filter FORWARD"));
        check(Hook::Forward, 1, None);
        check(Hook::Postrouting, POLICY_DROP, None);
    }

    #[test]
    fn elements_are_read_as_they_are_written() {
        let element = |port: u8| Element {
            map: "ports4",
            key: vec![6, 0, 0, 0, 0, port],
            value: vec![10, 88, 0, port],
        };
        let item = |element: &Element| {
            Attributes::new().nested(1, data(&element.key)).nested(2, data(&element.value))
        };
        let written = [element(80), element(81)];
        let list = written.iter().fold(Attributes::new(), |list, element| list.nested(1, item(element)));
        let body =
            [header(FAMILY_INET, 0), Attributes::new().text(1, "t").text(2, "ports4").nested(3, list).0]
                .concat();
        assert_eq!(elements_in(&body, "ports4"), written);
        for length in 0..body.len() {
            elements_in(&body[..length], "ports4");
        }
    }

    #[test]
    fn a_maps_type_has_six_bits_for_each_field() {
        assert_eq!(type_of(&[Field::Port]), 13);
        assert_eq!(type_of(&[Field::Address4, Field::Protocol, Field::Port]), 7 << 12 | 12 << 6 | 13);
    }
}
