//! What rules are made of: our few expressions, and the kernel's own for each of them.
//!
//! The kernel's expressions work on registers of four bytes. A lookup takes its key from as many registers in a
//! row as the key has fields (an IPv6 address takes four), and puts the value into such a row again.
//!
//! Source: `linux/netfilter/nf_tables.h`.

use crate::attributes::Attributes;

/// The first register of four bytes (`NFT_REG32_00`); the others follow.
const FIRST_REGISTER: u32 = 8;
/// The first register of sixteen bytes, the same memory.
const REGISTER_1: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Where TCP, UDP and SCTP all have the destination's port.
const DESTINATION_PORT_OFFSET: u32 = 2;

const META_IN_NAME: u32 = 6;
const META_OUT_NAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// Interface names are compared as the kernel keeps them, with zeros to this length.
const NAME_BYTES: usize = 16;

const CONNTRACK_STATUS: u32 = 2;
const STATUS_DESTINATION_TRANSLATED: u32 = 1 << 5;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_BY_DESTINATION: u32 = 1 << 1;
/// `RTN_LOCAL`, one of the addresses of this host.
const LOCAL: u32 = 2;
const DESTINATION_TRANSLATION: u32 = 1;
const VERDICT_DROP: u32 = 0;

/// IP versions as netfilter numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4 = 2,
    V6 = 10,
}

impl Family {
    /// Of an address.
    pub(crate) fn of(ip: std::net::IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Where the destination stands in the IP header, in bytes.
    fn destination_offset(self) -> u32 {
        match self {
            Self::V4 => 16,
            Self::V6 => 24,
        }
    }

    fn address_bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// What a rule does with a packet, one after the other until one does not match.
pub(crate) type Rule = Vec<Expression>;

/// A step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Goes on with packets of this family.
    Family(Family),
    /// Goes on if some bits of the network header compare so.
    Header(HeaderMatch),
    /// Goes on with what came in by the link of this name.
    CameBy(String),
    /// Goes on with what leaves by the link of this name.
    LeavesBy(String),
    /// Goes on with what is sent to an address of this host.
    ToThisHost,
    /// Goes on with connections whose destination has been translated.
    Redirected,
    /// Looks destination, protocol and port up in a map, and sends on to the address and port found there.
    Redirect(Redirect),
    /// Gives the packet the address of the link by which it leaves.
    Masquerade,
    /// Ends the packet.
    Drop,
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

/// A lookup whose key is `[address .] protocol . port` and whose value is `address . port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) family: Family,
    pub(crate) map: &'static str,
    /// Whether the destination's address is part of the key.
    pub(crate) by_address: bool,
}

/// The kernel's own expressions for ours: a name, and attributes that only this kind of expression has.
pub(crate) fn encode(expression: &Expression) -> Vec<Attributes> {
    match expression {
        Expression::Family(family) => {
            vec![meta(META_NFPROTO, REGISTER_1), compare(Comparison::Equal, &[*family as u8])]
        }
        Expression::Header(header) => encode_header(header),
        Expression::CameBy(link) => vec![meta(META_IN_NAME, REGISTER_1), equals_name(link)],
        Expression::LeavesBy(link) => vec![meta(META_OUT_NAME, REGISTER_1), equals_name(link)],
        Expression::ToThisHost => {
            let load = Attributes::new().number(1, REGISTER_1).number(2, FIB_ADDRESS_TYPE);
            let load = named("fib", load.number(3, FIB_BY_DESTINATION));
            vec![load, compare(Comparison::Equal, &LOCAL.to_ne_bytes())]
        }
        Expression::Redirected => {
            let load = Attributes::new().number(1, REGISTER_1).number(2, CONNTRACK_STATUS);
            let mask = STATUS_DESTINATION_TRANSLATED.to_ne_bytes();
            vec![named("ct", load), masked(&mask), compare(Comparison::Different, &[0; 4])]
        }
        Expression::Redirect(redirect) => encode_redirect(redirect),
        Expression::Masquerade => vec![named("masq", Attributes::new())],
        Expression::Drop => {
            let verdict = Attributes::new().nested(2, Attributes::new().number(1, VERDICT_DROP));
            vec![named("immediate", Attributes::new().number(1, VERDICT_REGISTER).nested(2, verdict))]
        }
    }
}

fn encode_header(header: &HeaderMatch) -> Vec<Attributes> {
    let load = payload(REGISTER_1, NETWORK_HEADER, header.offset, header.mask.len() as u32);
    vec![load, masked(&header.mask), compare(header.comparison, &header.value)]
}

fn encode_redirect(redirect: &Redirect) -> Vec<Attributes> {
    let family = redirect.family;
    let address_registers = family.address_bytes() / 4;
    let mut list = Vec::new();
    let mut register = FIRST_REGISTER;
    if redirect.by_address {
        list.push(payload(register, NETWORK_HEADER, family.destination_offset(), family.address_bytes()));
        register += address_registers;
    }
    list.push(meta(META_L4PROTO, register));
    list.push(payload(register + 1, TRANSPORT_HEADER, DESTINATION_PORT_OFFSET, 2));
    let lookup = Attributes::new().text(1, redirect.map).number(2, FIRST_REGISTER).number(3, FIRST_REGISTER);
    list.push(named("lookup", lookup));
    let translate = Attributes::new()
        .number(1, DESTINATION_TRANSLATION)
        .number(2, family as u32)
        .number(3, FIRST_REGISTER)
        .number(5, FIRST_REGISTER + address_registers);
    list.push(named("nat", translate));
    list
}

fn meta(key: u32, register: u32) -> Attributes {
    named("meta", Attributes::new().number(1, register).number(2, key))
}

fn payload(register: u32, base: u32, offset: u32, length: u32) -> Attributes {
    let load = Attributes::new().number(1, register).number(2, base).number(3, offset).number(4, length);
    named("payload", load)
}

fn masked(mask: &[u8]) -> Attributes {
    let attributes = Attributes::new()
        .number(1, REGISTER_1)
        .number(2, REGISTER_1)
        .number(3, mask.len() as u32)
        .nested(4, data(mask))
        .nested(5, data(&vec![0; mask.len()]));
    named("bitwise", attributes)
}

fn equals_name(link: &str) -> Attributes {
    let mut name = link.as_bytes().to_vec();
    name.resize(NAME_BYTES, 0);
    compare(Comparison::Equal, &name)
}

fn compare(comparison: Comparison, value: &[u8]) -> Attributes {
    let attributes = Attributes::new().number(1, REGISTER_1).number(2, comparison as u32);
    named("cmp", attributes.nested(3, data(value)))
}

fn named(name: &str, attributes: Attributes) -> Attributes {
    Attributes::new().text(1, name).nested(2, attributes)
}

/// A value as compared, masked with, or put into a map.
pub(super) fn data(value: &[u8]) -> Attributes {
    Attributes::new().bytes(1, value)
}
