//! Numbers out of many measurements, and out of `/proc` and the cgroups.

mod cpu;
mod memory;
mod processes;
mod quantiles;

pub(crate) use cpu::{Cpu, cpu_hierarchy};
pub(crate) use memory::{Memory, slab_kib};
pub(crate) use processes::RuntimeProcesses;
pub(crate) use quantiles::Quantiles;
