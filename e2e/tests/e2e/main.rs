//! berth as its users meet it: real agents, driven by crictl, by a CRI client and by its own commands. One file for
//! each promise that is kept here. Every test has an agent of its own and leaves nothing behind; that is part of each
//! of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic, and so may what it is made of"
)]

mod bad_input;
mod churn;
mod contested;
mod credentials;
mod devices;
mod escapes;
mod events;
mod exec;
mod explain;
mod foreign;
mod hooks;
mod idempotence;
mod image_volumes;
mod images;
mod leaks;
mod lifecycle;
mod logs;
mod manifests;
mod mounts;
mod namespaces;
mod neighbours;
mod network;
mod ports;
mod records;
mod recovery;
mod removal;
mod rights;
mod seccomp;
mod session;
mod spares;
mod stats;
mod streams;
mod updates;
mod userns;
