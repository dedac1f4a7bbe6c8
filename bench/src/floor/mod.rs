//! The kernel's own part of a pod: the same objects as a runtime makes, with nothing else.

use anyhow::{Result, bail};
use clap::Args;

use crate::report::Row;

/// Make the kernel objects of a pod with nothing else, and tell how long that takes.
#[derive(Debug, Args)]
pub(crate) struct Floor {
    /// How many pods.
    #[arg(long, default_value_t = 100)]
    pods: usize,
}

impl Floor {
    /// Measures and prints it.
    pub(crate) fn run(self) -> Result<()> {
        println!("{:?}", measure(self.pods)?);
        Ok(())
    }
}

/// Makes so many pods, one after the other, and takes them down again. The rows are those of [`crate::scenario`]'s
/// `pod-start` that have a floor, by the same names, with results under [`crate::report::FLOOR`] alone.
pub(crate) fn measure(_pods: usize) -> Result<Vec<Row>> {
    bail!("the floor is still to come")
}
