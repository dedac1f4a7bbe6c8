//! Kubernetes Pod manifests without Kubernetes: read, checked, and run on any CRI runtime.
//!
//! ```text
//! file.yaml ──load──▶ PodManifest ──sandbox, container──▶ CRI configs ──Runner──▶ a CRI socket
//!             parse   (k8s-openapi)   (pure conversions)                 runner
//!             fields: what is supported; anything else is refused by its path in the YAML
//! ```
//!
//! [`load`] is pure but for reading the file. [`Runner`] is a tiny kubelet: it pulls images, makes the sandbox, runs
//! init containers in turn and the others together, restarts them as the pod says, prints their logs and takes
//! everything down in the end. It knows the runtime only through the CRI, so it can drive another one too.
//!
//! Deliberately absent: probes, hooks, ports of the host, every volume that needs an API server.

mod container;
mod dns;
mod env;
mod error;
mod fields;
mod parse;
mod quantity;
mod resources;
mod runner;
mod sandbox;
mod security;
mod volumes;

pub use error::{Error, FieldError};
pub use fields::supported_fields;
pub use parse::{PodManifest, load};
pub use runner::{Dirs, Mode, Options, Outcome, Output, RunError, Runner, remove_detached};
