//! SVG from what a run has found.

use std::path::Path;

use anyhow::{Result, bail};

use super::Run;

/// Draws one file for each scenario into a directory.
pub(crate) fn draw(_run: &Run, _to: &Path) -> Result<()> {
    bail!("plots are still to come")
}
