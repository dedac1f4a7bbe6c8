//! System call filters: what a profile says becomes a program for the kernel.
//!
//! ```text
//! JSON text ──parse──▶ Document ─┐
//!                                ├─resolve(Facts)──▶ Profile ──compile──▶ BPF program
//! the default profile ───────────┘
//! ```
//! A [`Document`] is a profile file as written, checked whole; its rules may depend on the container's capabilities,
//! the kernel's version and the architecture. [`Facts`] say what these are, and leave a [`Profile`] with no conditions
//! but those on a call's own arguments. [`Filters`] keeps what has been compiled, since a node starts the same few
//! profiles over and over.
//!
//! Pure but for [`Filters::of_file`], which reads a file. Installing a program is `berth_sys::seccomp`'s job. Profiles
//! are operators' files, not strangers' input, and yet nothing in one may take the agent down: sizes are bounded, and
//! the parser is fuzzed.
//!
//! Not here: handing calls to a supervisor (`SCMP_ACT_NOTIFY`), which is refused by name.

mod action;
mod arch;
mod bpf;
mod compile;
mod condition;
mod default;
mod document;
mod error;
mod filters;
mod multiplexed;
mod oci;
mod profile;

pub use action::Action;
pub use arch::Arch;
pub use compile::compile;
pub use condition::{Comparison, Condition};
pub use default::default_profile;
pub use document::Document;
pub use error::{Error, Result};
pub use filters::{Filter, Filters};
pub use profile::{Facts, Profile, Rule};
