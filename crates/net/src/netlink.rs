//! Several netlink requests in one system call.
//!
//! A [`Batch`] collects requests, each with the words for what it does. [`Batch::send`] hands them to the
//! kernel in one message; the kernel carries them out one after the other before the send returns, and
//! queues an acknowledgement for each, which carries the request's sequence number. Reading them therefore
//! never waits, and is done without blocking: an answer that is missing is an error, not a hang.
//!
//! ```text
//! one send:     [header seq=7 │ body] [header seq=8 │ body] [header seq=9 │ body]
//! many answers: [ack 7] [refused 8: errno, hint] [ack 9]        -> error: the words of request 8
//! ```
//!
//! The kernel does not stop at a refused route request: what follows it is still attempted. A caller undoes
//! the whole batch, never a part. A batch for nftables is a transaction and leaves nothing when refused.
//!
//! Sequence numbers are unique in the process. So a socket that is used again after an error, as a pod's is,
//! ignores the answers that were left unread in it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags};

use crate::error::NetlinkError;

const HEADER_BYTES: usize = 16;
/// The largest datagram that the kernel makes when it dumps.
const RECEIVE_BYTES: usize = 32 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// An answer's flags: the refused request is quoted by its header only; attributes follow.
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

static NEXT_SEQUENCE: AtomicU32 = AtomicU32::new(1);

type Result<T> = std::result::Result<T, NetlinkError>;

/// Opens a socket in the caller's network namespace, one that explains refusals where the kernel can.
///
/// `protocol` is one of `netlink_sys::protocols`.
pub(crate) fn open(protocol: isize) -> Result<Socket> {
    let socket = Socket::new(protocol).map_err(NetlinkError::Open)?;
    socket.set_ext_ack(true).map_err(NetlinkError::Open)?;
    Ok(socket)
}

/// What a request does when the object is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not about making something: change, delete, get one.
    Plain,
    /// Refused if it exists.
    Create,
    /// Made, or changed to be as wanted.
    Put,
    /// Made if missing.
    Ensure,
    /// Made, and put behind the others of its kind.
    Append,
    /// List all.
    Dump,
}

impl Mode {
    fn flags(self) -> u16 {
        match self {
            Self::Plain => NLM_F_ACK,
            Self::Create => NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            Self::Put => NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
            Self::Ensure => NLM_F_ACK | NLM_F_CREATE,
            Self::Append => NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND,
            Self::Dump => NLM_F_DUMP,
        }
    }
}

/// Requests in the order in which the kernel will carry them out.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    sequence: u32,
    step: &'static str,
    answered: bool,
}

impl Batch {
    /// Adds a route request; `step` completes "failed to …", and names the step when it is the first refused.
    pub fn route(mut self, step: &'static str, mode: Mode, message: &RouteNetlinkMessage) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        self.push(step, message.message_type(), mode.flags(), &body);
        self
    }

    /// Adds a request that is encoded already and wants an acknowledgement.
    pub(crate) fn encoded(&mut self, step: &'static str, kind: u16, mode: Mode, body: &[u8]) {
        self.push(step, kind, mode.flags(), body);
    }

    /// Adds a mark, such as the beginning of a transaction, which the kernel answers only to refuse it.
    pub(crate) fn mark(&mut self, step: &'static str, kind: u16, body: &[u8]) {
        self.push(step, kind, 0, body);
    }

    fn push(&mut self, step: &'static str, kind: u16, flags: u16, body: &[u8]) {
        let sequence = NEXT_SEQUENCE.fetch_add(1, Ordering::Relaxed);
        // Attributes are padded to four bytes, and bodies are made of them: so is every message.
        let length = (HEADER_BYTES + body.len()) as u32;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(body);
        self.requests.push(Request { sequence, step, answered: flags == 0 });
    }

    /// Sends all requests and collects the bodies of what the kernel tells besides acknowledging.
    ///
    /// The socket's namespace is the one that changes. One call at a time per socket. It blocks only while
    /// the kernel works.
    ///
    /// Errors: the first request that was refused, by its step.
    pub fn send(self, socket: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
        let mut told = Vec::new();
        self.send_and_hear(socket, |body| told.push(body.to_vec()))?;
        Ok(told)
    }

    /// As [`Batch::send`], but hands on each body as it comes: for answers that may be many.
    pub(crate) fn send_and_hear(mut self, socket: BorrowedFd<'_>, mut hear: impl FnMut(&[u8])) -> Result<()> {
        let Some(step) = self.requests.first().map(|request| request.step) else {
            return Ok(());
        };
        rustix::net::send(socket, &self.bytes, SendFlags::empty())
            .map_err(|errno| NetlinkError::Send { step, source: errno.into() })?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        while self.requests.iter().any(|request| !request.answered) {
            let length =
                receive(socket, &mut buffer).map_err(|source| NetlinkError::Receive { step, source })?;
            self.read_answers(&buffer[..length], &mut hear)?;
        }
        Ok(())
    }

    fn read_answers(&mut self, datagram: &[u8], hear: &mut impl FnMut(&[u8])) -> Result<()> {
        let mut rest = datagram;
        while let Ok(message) = NetlinkBuffer::new_checked(&rest) {
            let request = self.requests.iter_mut().find(|r| r.sequence == message.sequence_number());
            if let Some(request) = request {
                let is_answer = matches!(message.message_type(), NLMSG_ERROR | NLMSG_DONE);
                match refusal(&message) {
                    Some((hint, source)) => {
                        return Err(NetlinkError::Refused { step: request.step, hint, source });
                    }
                    None if is_answer => request.answered = true,
                    None => hear(message.payload()),
                }
            }
            let aligned = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(aligned..).unwrap_or_default();
        }
        Ok(())
    }
}

/// One datagram from the kernel; those of other senders are dropped.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let (length, _, sender) = rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::DONTWAIT)?;
        let sender = sender.and_then(|address| SocketAddrNetlink::try_from(address).ok());
        // A process in a pod that may send netlink could otherwise answer in the kernel's place.
        if sender.is_some_and(|address| address.pid() == 0) {
            return Ok(length);
        }
    }
}

/// The kernel's words and the error, if this is an answer that refuses.
///
/// Shape: an error number in the host's order, zero or negative; after an `NLMSG_ERROR`'s number the refused
/// request, whole or only its header, then attributes if a flag says so. Source: netlink(7).
fn refusal(message: &NetlinkBuffer<&&[u8]>) -> Option<(Option<String>, io::Error)> {
    if !matches!(message.message_type(), NLMSG_ERROR | NLMSG_DONE) {
        return None;
    }
    let payload = message.payload();
    let number = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    if number == 0 {
        return None;
    }
    Some((hint(message.message_type(), message.flags(), payload), io::Error::from_raw_os_error(-number)))
}

fn hint(kind: u16, flags: u16, payload: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let quoted = match kind {
        NLMSG_DONE => 0,
        _ if flags & NLM_F_CAPPED != 0 => HEADER_BYTES,
        _ => u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?).next_multiple_of(4) as usize,
    };
    let text = attribute(payload.get(4 + quoted..)?, NLMSGERR_ATTR_MSG)?;
    Some(text_of(text))
}

/// The value of the first attribute of this kind.
pub(crate) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    of_kind(attributes, kind).next()
}

/// The values of all attributes of this kind.
pub(crate) fn of_kind(attributes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    let all = NlasIterator::new(attributes).map_while(std::result::Result::ok);
    all.filter(move |nla| nla.kind() == kind).map(|nla| {
        // `NlaBuffer::value` borrows from the buffer that the iterator made, not from ours.
        let bytes: &[u8] = nla.into_inner();
        let length = u16::from_ne_bytes([bytes[0], bytes[1]]) as usize;
        &bytes[4..length]
    })
}

/// Text from an attribute that ends with a zero byte.
pub(crate) fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// A 32-bit number in the host's order.
pub(crate) fn number_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &str = "create veth";
    const ADDRESS: &str = "add address";

    fn two_requests() -> Batch {
        let mut batch = Batch::default();
        batch.encoded(CREATE, 16, Mode::Create, &[0; 16]);
        batch.encoded(ADDRESS, 20, Mode::Plain, &[0; 8]);
        batch
    }

    fn answer(sequence: u32, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = (HEADER_BYTES + payload.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An error number, the quoted header of a request, and the kernel's words.
    fn refused(errno: i32, words: &str) -> Vec<u8> {
        let mut payload = (-errno).to_ne_bytes().to_vec();
        payload.extend([0; HEADER_BYTES]);
        payload.extend(((5 + words.len()) as u16).to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(words.as_bytes());
        payload.push(0);
        payload
    }

    #[test]
    fn requests_follow_each_other_with_rising_sequence() {
        let batch = two_requests();
        assert_eq!(batch.bytes.len(), 16 + 16 + 16 + 8);
        assert_eq!(batch.bytes[..4], 32_u32.to_ne_bytes());
        assert_eq!(batch.bytes[32..36], 24_u32.to_ne_bytes());
        assert_eq!(batch.bytes[4..6], 16_u16.to_ne_bytes());
        assert_eq!(batch.bytes[6..8], 0x605_u16.to_ne_bytes());
        assert!(batch.requests[0].sequence < batch.requests[1].sequence);
    }

    #[test]
    fn answers_are_matched_by_sequence() {
        let mut batch = two_requests();
        let [first, second] = [batch.requests[0].sequence, batch.requests[1].sequence];
        let mut told = Vec::new();
        let datagram = [
            answer(first.wrapping_sub(1), NLMSG_ERROR, 0, &(-17_i32).to_ne_bytes()),
            answer(first, NLMSG_ERROR, 0, &0_i32.to_ne_bytes()),
            answer(second, 16, 0, b"link"),
        ]
        .concat();
        batch.read_answers(&datagram, &mut |body: &[u8]| told.push(body.to_vec())).unwrap();
        assert_eq!(told, [b"link"]);
        let answered: Vec<bool> = batch.requests.iter().map(|request| request.answered).collect();
        assert_eq!(answered, [true, false]);
    }

    #[test]
    fn first_refusal_names_its_step_and_the_kernels_words() {
        let mut batch = two_requests();
        let [first, second] = [batch.requests[0].sequence, batch.requests[1].sequence];
        let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        let datagram = [
            answer(first, NLMSG_ERROR, 0, &0_i32.to_ne_bytes()),
            answer(second, NLMSG_ERROR, flags, &refused(19, "no such link")),
        ]
        .concat();
        let error = batch.read_answers(&datagram, &mut |_: &[u8]| {}).unwrap_err();
        assert_eq!(error.to_string(), "add address (kernel: no such link)");
        assert!(error.is_no_device());
    }

    #[test]
    fn nonsense_from_the_socket_is_no_panic() {
        let mut batch = two_requests();
        let sequence = batch.requests[0].sequence;
        let whole = answer(sequence, NLMSG_ERROR, NLM_F_ACK_TLVS, &refused(1, "x"));
        for length in 0..whole.len() {
            let _ = batch.read_answers(&whole[..length], &mut |_: &[u8]| {});
            let _ = hint(NLMSG_ERROR, NLM_F_ACK_TLVS, &whole[..length]);
        }
    }
}
