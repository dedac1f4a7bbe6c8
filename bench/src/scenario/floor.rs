//! The kernel's own part of a pod's life, step by step; no runtime takes part.

use anyhow::Result;

use super::Bench;
use crate::floor;
use crate::report::Findings;

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let pods = bench.effort.pick(3, 100, 500);
    floor::measure(bench.ground.dir(), pods)?.steps.iter().for_each(|row| findings.add(row));
    Ok(())
}
