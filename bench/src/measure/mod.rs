//! Numbers out of many measurements, and out of `/proc` and the cgroups.

mod quantiles;

pub(crate) use quantiles::Quantiles;
