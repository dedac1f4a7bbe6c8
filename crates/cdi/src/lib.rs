//! Container Device Interface: vendors describe their devices in files, and a container asks for them by name.
//!
//! ```text
//! names ─▶ resolve ─▶ directory (files, bounded) ─▶ spec (one file, validated) ─▶ Edits
//! ```
//! In: directories and qualified names, `vendor.com/class=device`. Out: [`Edits`], what the devices add to the
//! container, in the order in which they were asked for; paths in them are not looked at. Files are read anew at each
//! call, which is rare and must see what a device plugin has just written; calls block on small files.
//!
//! A file that is broken is as if it were absent, so that one vendor's mistake does not take away another's devices;
//! it is told when a device is not found, and to the caller besides. Nothing is cached or watched, and hooks are for
//! others to run.
//! Source: CNCF container-device-interface, SPEC.md, versions 0.3 to 1.0.

mod directory;
mod edits;
mod error;
mod name;
mod resolve;
mod spec;

pub use edits::{Edits, Hook, HookPoint, Mount, Node, NodeKind};
pub use error::{Error, FileError, Result};
pub use name::DeviceName;
pub use resolve::{Resolved, resolve};
