//! The heart: pods and their states.

pub mod clock;
pub mod spec;
pub mod timeline;
pub mod view;
