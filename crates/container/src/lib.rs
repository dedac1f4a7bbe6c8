//! One container: what was asked for ([`spec`]), and how it comes about ([`plan`]).
//!
//! In: a validated request (CRI types end in the `cri` crate), the image's configuration and the pod's paths. Out: one
//! [`berth_monitor::plan::LaunchPlan`] with nothing left to decide. All of it is pure: no file is read, no kernel
//! asked; what can be refused without root is refused here or before. [`oci`] says a plan again, for another runtime.

pub mod capability;
pub mod error;
pub mod oci;
pub mod plan;
pub mod spec;

mod filesystem;
mod process;
mod volumes;

pub use error::{Error, Result};
