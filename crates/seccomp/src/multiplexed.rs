//! Calls that 32-bit x86 also reaches through another call: `socketcall` and `ipc` take the number of the real one as
//! their first argument. A rule about `socket` that did not hold for `socketcall` could be walked around.
//!
//! Only rules without conditions can be carried over: the arguments of the real call lie in memory.
//! Source: socketcall(2), ipc(2), include/uapi/linux/net.h, include/uapi/linux/ipc.h.

use crate::arch::Arch;
use crate::condition::{Comparison, Condition};

/// `SYS_SOCKET` to `SYS_SENDMMSG`, from 1 on.
const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The upper half of ipc's first argument is a version.
const IPC_CALL_MASK: u64 = 0xffff;

/// The other way to a call: through which number, and under which condition.
pub(crate) fn other_way(arch: Arch, name: &str) -> Option<(u32, Condition)> {
    if arch != Arch::X86 {
        return None;
    }
    let through =
        |number: Option<u32>, comparison, value| Some((number?, Condition { index: 0, comparison, value }));
    if let Some((_, number)) = SOCKET_CALLS.iter().zip(1..).find(|(call, _)| **call == name) {
        return through(arch.number("socketcall"), Comparison::Equal, number);
    }
    let (_, number) = IPC_CALLS.iter().find(|(call, _)| *call == name)?;
    through(arch.number("ipc"), Comparison::MaskedEqual(IPC_CALL_MASK), *number)
}
