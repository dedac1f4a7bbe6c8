//! The API's messages to our own types, and back.
//!
//! On the way in everything is checked, once: a [`Refusal`] names the field, its value and what is wrong, and inside
//! the edge no type can hold nonsense. What the API has and this runtime does not serve yet is refused by name, never
//! ignored; what Linux has no use for (Windows' fields) is nonsense. All of it is pure.

pub(crate) mod check;
pub(crate) mod container;
pub(crate) mod container_status;
pub(crate) mod devices;
pub(crate) mod image;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod pod_status;
pub(crate) mod ports;
pub(crate) mod profiles;
pub(crate) mod refusal;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod signals;
pub(crate) mod stats;
pub(crate) mod sysctls;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod user_namespaces;

pub(crate) use refusal::{Refusal, Result};
