//! The harness of the end-to-end tests: agents of their own, driven by real clients and looked at with other tools.
//!
//! ```text
//! Site ── a network namespace that stands for a machine's network; the machine's own is never touched
//!  └─ Node ── an agent there: directories, cgroups, bridge and tables of its own
//!      ├─ crictl, Cri ── what a person and a kubelet would call
//!      ├─ Pod ── a sandbox and its containers, as most tests need them
//!      └─ Snapshot ── what the kernel and the disk hold for this agent; two of them are compared
//! ```
//! When a [`Node`] goes, its pods are removed and its agent is stopped as an operator would; whatever is left then
//! fails the test, and is cleaned away. A test that fails on its own prints the agent's last words, and cleans as well.
//! Everything here panics with what it attempted, since nobody but a test calls it. Waiting is for a condition, with a
//! deadline. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness that can't go on fails its test"
)]

pub mod cri;
mod disk;
mod leftovers;
mod log;
mod node;
mod pod;
mod processes;
mod registry;
pub mod requests;
mod site;
mod terminal;
mod tools;

pub use cri::{Cri, EventStream};
pub use disk::{Disk, DiskKind};
pub use leftovers::{Scope, Snapshot, Spare};
pub use log::{Line, read_log, whole_lines};
pub use node::{Build, Node, Revived};
pub use pod::Pod;
pub use registry::{REGISTRY, serve_images, start_registry};
pub use site::Site;
pub use terminal::Terminal;
pub use tools::{Running, eventually, poll, repository, run, spawn};
