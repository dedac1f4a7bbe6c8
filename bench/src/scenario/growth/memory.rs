//! What a runtime takes of memory with no pod and with many, beyond what their workloads take.

use anyhow::Result;

use super::Stage;
use crate::measure::{Memory, slab_kib};
use crate::peer::Peer;
use crate::report::{Findings, Unit};

/// What is taken of memory at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    memory: Memory,
    /// Of all that the kernel holds, workloads and their files too.
    slab_kib: u64,
}

impl Held {
    /// Looks at a runtime and at the kernel.
    pub(super) fn by(peer: &Peer) -> Result<Self> {
        Ok(Self { memory: Memory::of(peer, &peer.cri()?)?, slab_kib: slab_kib()? })
    }
}

pub(super) fn see(stage: &Stage<'_>, findings: &mut Findings) -> Result<()> {
    let (peer, empty, full) = (stage.peer, stage.empty, Held::by(stage.peer)?);
    let mut note = |what: &str, unit, now: u64, then: u64| {
        findings.note(&peer.name, what, unit, now as f64);
        stage.note_for_each(findings, what, unit, now as f64 - then as f64);
    };
    let (now, then) = (full.memory, empty.memory);
    note("PSS of the process that answers", Unit::Kib, now.server_kib, then.server_kib);
    note("PSS of all processes", Unit::Kib, now.all_kib, then.all_kib);
    note("processes", Unit::Count, now.processes as u64, then.processes as u64);
    stage.note_for_each(
        findings,
        "slab of the kernel",
        Unit::Kib,
        full.slab_kib as f64 - empty.slab_kib as f64,
    );
    Ok(())
}
