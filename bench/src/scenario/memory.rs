//! What a runtime takes of memory with no pod and with many, beyond what their workloads take.

use anyhow::Result;

use super::Bench;
use crate::load::Fleet;
use crate::measure::{Memory, slab_kib};
use crate::peer::Peer;
use crate::report::{Findings, Unit};

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let steps: &[usize] = bench.effort.pick(&[3], &[10, 100], &[10, 100, 500]);
    bench.rounds(1, |peer, _| grow(peer, steps, findings))
}

fn grow(peer: &Peer, steps: &[usize], findings: &mut Findings) -> Result<()> {
    let empty = look(peer)?;
    note(peer, 0, &empty, findings);
    let mut fleet = Fleet::new(peer, "memory");
    for pods in steps {
        fleet.grow(*pods, 10)?;
        let full = look(peer)?;
        note(peer, *pods, &full, findings);
        let each = |now: u64, then: u64| (now as f64 - then as f64) / *pods as f64;
        let (memory, processes) = (each(full.memory.all_kib, empty.memory.all_kib), full.memory.processes);
        findings.note(&peer.name, "of all processes, for a pod", Unit::Kib, memory);
        let processes = each(processes as u64, empty.memory.processes as u64);
        findings.note(&peer.name, "processes for a pod", Unit::Count, processes);
        // Of all that the kernel holds, workloads and their files too.
        findings.note(
            &peer.name,
            "of the kernel's slab, for a pod",
            Unit::Kib,
            each(full.slab_kib, empty.slab_kib),
        );
    }
    fleet.stop(10)?;
    Ok(())
}

struct Look {
    memory: Memory,
    slab_kib: u64,
}

fn look(peer: &Peer) -> Result<Look> {
    Ok(Look { memory: Memory::of(peer, &peer.cri()?)?, slab_kib: slab_kib()? })
}

fn note(peer: &Peer, pods: usize, look: &Look, findings: &mut Findings) {
    findings.at([("pods", pods)]);
    findings.note(&peer.name, "of the process that answers", Unit::Kib, look.memory.server_kib as f64);
    findings.note(&peer.name, "of all processes", Unit::Kib, look.memory.all_kib as f64);
}
