//! The kernel calls that no safe library offers, each behind a typed and owned function.
//!
//! In: values and borrowed descriptors; out: owned descriptors, children, named errors. This is the only
//! crate of the workspace in which `unsafe` is allowed: everything that `rustix` already offers safely
//! (mount API, setns, pidfd, capabilities, pty …) is used from there and not wrapped again.
//!
//! - [`bpf`](mod@bpf), `bpf(2)` for the programs that control a cgroup's devices
//! - [`clone`](mod@clone), `clone3(2)` for a process that is known to be single-threaded
//! - [`exec`](mod@exec), `execve(2)`, and the signal state a workload expects to be born with
//! - [`heap`](mod@heap), memory that the allocator keeps
//! - [`packet`](mod@packet), whole messages with descriptors over a `SOCK_SEQPACKET` pair
//! - [`mountattr`](mod@mountattr), `mount_setattr(2)`
//! - [`rest`](mod@rest), a process that is only to exist
//! - [`rseq`](mod@rseq), what glibc has the kernel write to every thread
//! - [`sched`](mod@sched), `sched_setattr(2)` for short turns
//! - [`seccomp`](mod@seccomp), installing a compiled filter
//! - [`netns`](mod@netns), work in another network namespace on a thread of its own
//! - [`tcp`](mod@tcp), what `setsockopt(2)` can do to TCP besides
//! - [`stack`](mod@stack), what deep calls have used of it
//! - [`termination`](mod@termination), SIGTERM to be read, with its sender
//! - [`title`](mod@title), the name that `ps` shows
//!
//! Nothing here decides anything, logs, retries or keeps state. A failed call returns the errno and leaves
//! nothing behind.

pub mod bpf;
pub mod clone;
pub mod exec;
pub mod heap;
pub mod mountattr;
pub mod netns;
pub mod packet;
pub mod rest;
pub mod rseq;
pub mod sched;
pub mod seccomp;
pub mod stack;
pub mod tcp;
pub mod termination;
pub mod title;
