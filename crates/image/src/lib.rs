//! Container images: pulled or imported, verified while they stream, unpacked into overlay layers.
//!
//! In: references with credentials, or archives. Out: [`Image`]s, and for each the directories that make up its
//! root filesystem. Everything lies under one directory that nobody else writes to:
//!
//! ```text
//! layers/<chain id>/fs        an unpacked layer, as an overlay lower directory
//! layers/<chain id>/tar.zst   the layer's tar without the contents of its files, to write it again byte for byte
//! blobs/<digest>              manifests and configs as they came; layer blobs are never kept
//! ingest/                     what is being made or deleted; emptied at start
//! ```
//!
//! A layer's path: [`reference`](Reference) → `registry` (stream) → `blob` (hash, decompress, hash) → `unpack`
//! (confined to a directory in `ingest`) → `layer` (renamed into place) → `catalog` (one transaction makes the
//! image visible) → `rootfs`. Until that transaction nothing of a new image can be seen, and whatever fails
//! before it removes what it made.
//!
//! An image's id is the digest of its config, everywhere. Reads are answered from a snapshot and never wait.

mod archive;
mod attributes;
mod auth;
mod blob;
mod bounded;
mod catalog;
mod client;
mod config;
mod digest;
mod endpoint;
mod error;
mod failed;
mod failures;
mod flight;
#[doc(hidden)]
pub mod fuzzing;
mod gc;
mod hosts;
mod image;
mod images;
mod kept;
mod layer;
mod manifest;
mod origin;
mod progress;
mod pull;
mod reference;
mod registry;
mod removal;
mod rootfs;
mod survey;
mod tap;
mod tree;
mod unpack;
mod usage;

pub use auth::Auth;
pub use config::{HostConfig, RegistryConfig};
pub use digest::{ChainId, Digest, ImageId};
pub use endpoint::Capability;
pub use error::{Error, Result};
pub use failed::FailedPull;
pub use hosts::check_hosts;
pub use image::{FsInfo, Image, ImageConfig, LayerInfo, Platform};
pub use images::{ImageStore, Imported, PullRequest};
pub use kept::KeptImages;
pub use progress::PullProgress;
pub use reference::Reference;
pub use removal::remove_tree;
pub use survey::{StoredKind, files_of_images, files_of_unreadable, list_stored};
pub use usage::{DiskUsage, disk_usage};
