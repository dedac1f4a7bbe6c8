//! Whole messages, with descriptors, over a `SOCK_SEQPACKET` Unix socket.
//!
//! A message arrives whole or not at all, so no length prefix and no partial read exist; descriptors travel
//! with the message that speaks of them. All descriptors received are close-on-exec.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, open};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recv,
    recvmsg, sendmsg, socket_with, socketpair,
};

/// The longest message, in bytes. Larger values travel as a memfd beside a short message.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 8;

/// A connected pair, both ends close-on-exec; the second argument says whether they block.
///
/// # Errors
/// The errno of `socketpair`.
pub fn pair(blocking: Blocking) -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, blocking.socket_flags(), None)
}

/// Listens on the socket `name` in `directory`, without blocking; one that is there already is replaced.
///
/// # Errors
/// The errno of the call that failed.
pub fn listen_in(directory: &Path, name: &str, backlog: i32) -> Result<OwnedFd, Errno> {
    let (handle, address) = address_in(directory, name)?;
    match rustix::fs::unlinkat(&handle, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, Blocking::No.socket_flags(), None)?;
    bind(&socket, &address)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// Connects to the socket `name` in `directory`.
///
/// # Errors
/// `NOENT` or `CONNREFUSED` when nobody listens there.
pub fn connect_in(directory: &Path, name: &str, blocking: Blocking) -> Result<OwnedFd, Errno> {
    let (_handle, address) = address_in(directory, name)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, blocking.socket_flags(), None)?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// A socket's address has room for 108 bytes and a path of ours may be longer, so the directory is named by a
/// descriptor, which has to stay open as long as the address is used. Source: unix(7), BUGS.
fn address_in(directory: &Path, name: &str) -> Result<(OwnedFd, SocketAddrUnix), Errno> {
    let handle = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))?;
    Ok((handle, address))
}

/// Whether calls on a socket wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// Calls wait.
    Yes,
    /// Calls return `EAGAIN` instead.
    No,
}

impl Blocking {
    /// The flags for `socket(2)`, always with close-on-exec.
    pub fn socket_flags(self) -> SocketFlags {
        match self {
            Self::Yes => SocketFlags::CLOEXEC,
            Self::No => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        }
    }
}

/// One received message.
#[derive(Debug)]
pub struct Packet {
    /// The bytes, never empty.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, in the order in which they were sent.
    pub fds: Vec<OwnedFd>,
}

/// Sends one message with `fds`; never raises SIGPIPE.
///
/// # Errors
/// `EAGAIN` when a non-blocking socket's queue is full, `EPIPE` when the peer is gone, `MSGSIZE` when it is
/// too long.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    if bytes.len() > MAX_MESSAGE_BYTES || bytes.is_empty() || fds.len() > MAX_DESCRIPTORS {
        return Err(Errno::MSGSIZE);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message; `None` when the peer has closed. A socket has one reader at a time.
///
/// # Errors
/// `EAGAIN` when a non-blocking socket has nothing, `MSGSIZE` for a message that was cut short (its
/// descriptors are closed).
pub fn receive(socket: impl AsFd) -> Result<Option<Packet>, Errno> {
    // Room for just this message: room for any would cost a process that lives on some pages of its own.
    let length = retry_on_intr(|| recv(&socket, &mut [0_u8; 0], RecvFlags::PEEK | RecvFlags::TRUNC))?.1;
    receive_at_most(socket, length.min(MAX_MESSAGE_BYTES))
}

/// Receives what a socket of another kind has, a stream, up to so many bytes; a message of this kind that is longer is cut
/// short.
///
/// # Errors
/// As [`receive`].
pub fn receive_at_most(socket: impl AsFd, bytes: usize) -> Result<Option<Packet>, Errno> {
    let mut bytes = vec![0; bytes];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE);
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, fds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (a, b) = pair(Blocking::Yes).unwrap();
        let (extra, _) = pair(Blocking::Yes).unwrap();
        send(&a, b"first", &[extra.as_fd()]).unwrap();
        send(&a, b"second", &[]).unwrap();
        let first = receive(&b).unwrap().unwrap();
        assert_eq!(first.bytes, b"first");
        assert_eq!(first.fds.len(), 1);
        assert_ne!(first.fds[0].as_raw_fd(), extra.as_raw_fd());
        assert_eq!(receive(&b).unwrap().unwrap().bytes, b"second");
    }

    #[test]
    fn descriptors_come_over_a_stream_too() {
        let (mut a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        send(&a, b"name", &[b.as_fd()]).unwrap();
        let packet = receive_at_most(&b, 64).unwrap().unwrap();
        assert_eq!((packet.bytes.as_slice(), packet.fds.len()), (&b"name"[..], 1));
        std::io::Write::write_all(&mut a, b"more").unwrap();
        assert_eq!(receive_at_most(&b, 2).unwrap().unwrap().bytes, b"mo");
    }

    #[test]
    fn a_socket_may_lie_deeper_than_its_address_has_room_for() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let listener = listen_in(&deep, "socket", 1).unwrap();
        let client = connect_in(&deep, "socket", Blocking::Yes).unwrap();
        let server = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
        send(&client, b"hello", &[]).unwrap();
        assert_eq!(receive(&server).unwrap().unwrap().bytes, b"hello");
    }

    #[test]
    fn a_closed_peer_reads_as_the_end_and_refuses_what_is_sent() {
        let (a, b) = pair(Blocking::Yes).unwrap();
        drop(a);
        assert!(receive(&b).unwrap().is_none());
        assert_eq!(send(&b, b"x", &[]), Err(Errno::PIPE));
    }

    #[test]
    fn an_empty_or_oversized_message_is_refused_before_it_is_sent() {
        let (a, _b) = pair(Blocking::No).unwrap();
        assert_eq!(send(&a, b"", &[]), Err(Errno::MSGSIZE));
        assert_eq!(send(&a, &vec![0; MAX_MESSAGE_BYTES + 1], &[]), Err(Errno::MSGSIZE));
    }
}
