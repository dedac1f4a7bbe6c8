//! How cost grows with the number of pods: each runtime climbs from none to many, once, and comes down again. On the way
//! it is looked at with so many pods, and what a look finds is noted twice: as it was seen, under the name of the look, and
//! as what it is for each pod (`growth`), so that what grows as the pods do stays level.
//!
//! ```text
//! 0 ──▶ 10 ──▶ 100 ──▶ 500     up: one pod more, memory, lists
//! 0 ◀── 10 ◀── 100 ◀── 500     down: restarts, so that memory on the way up is that of one that was never killed
//! ```
//! Whoever wants only some of the looks names these; the climb is the same.

mod disk;
mod lists;
mod memory;
mod one_more;
mod restart;

use anyhow::{Context, Result};

use self::memory::Held;
use super::{Bench, Effort};
use crate::load::{Fleet, Voyage};
use crate::measure::Cpu;
use crate::peer::Peer;
use crate::report::{Findings, GROWTH, Unit};

/// How many pods are asked for at once on the way up and down.
const CALLERS: usize = 10;

/// What is done with a runtime that has so many pods.
pub(crate) type See = fn(&Stage<'_>, &mut Findings) -> Result<()>;

/// Something to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Look {
    Up(See),
    Down(See),
}

pub(super) const ONE_MORE: Look = Look::Up(one_more::see);
pub(super) const MEMORY: Look = Look::Up(memory::see);
pub(super) const LISTS: Look = Look::Up(lists::see);
pub(super) const RESTART: Look = Look::Down(restart::see);

/// A runtime with so many pods, which nobody starts or stops meanwhile.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    peer: &'a Peer,
    effort: Effort,
    fleet: &'a Fleet<'a>,
    /// What it took of memory when it had no pod.
    empty: Held,
}

/// Lets one runtime after the other climb; what is looked at has its name with it.
pub(super) fn measure(bench: &Bench, looks: &[(&'static str, Look)], findings: &mut Findings) -> Result<()> {
    bench.server_rounds(1, |peer, _| {
        let is_first = bench.peers.first().is_some_and(|first| first.name == peer.name);
        climb(peer, sizes(bench.effort, is_first), bench.effort, looks, findings)
    })
}

/// Hundreds of pods take a slow runtime minutes, which the standard set has only for berth.
fn sizes(effort: Effort, is_first: bool) -> &'static [usize] {
    let standard: &[usize] = if is_first { &[0, 10, 100, 500] } else { &[0, 10, 100] };
    effort.pick(&[0, 3, 6], standard, &[0, 10, 100, 500])
}

fn climb(
    peer: &Peer,
    sizes: &[usize],
    effort: Effort,
    looks: &[(&'static str, Look)],
    findings: &mut Findings,
) -> Result<()> {
    let (mut fleet, empty) = (Fleet::new(peer, "growth"), Held::by(peer)?);
    for pods in sizes {
        timed("start", *pods, &mut fleet, findings, |fleet| fleet.grow(*pods, CALLERS))?;
        let stage = Stage { peer, effort, fleet: &fleet, empty };
        for (name, look) in looks {
            if let Look::Up(see) = look {
                stage.look(name, *see, findings)?;
            }
        }
    }
    for pods in sizes.iter().rev() {
        timed("stop and remove", *pods, &mut fleet, findings, |fleet| fleet.shrink(*pods, CALLERS))?;
        let stage = Stage { peer, effort, fleet: &fleet, empty };
        for (name, look) in looks {
            if let Look::Down(see) = look {
                stage.look(name, *see, findings)?;
            }
        }
    }
    Ok(())
}

/// Notes what starting or stopping takes for each of those that come or go, under the larger number of pods.
fn timed(
    what: &str,
    pods: usize,
    fleet: &mut Fleet<'_>,
    findings: &mut Findings,
    go: impl FnOnce(&mut Fleet<'_>) -> Result<Voyage>,
) -> Result<()> {
    let before = fleet.pods.len();
    if before == pods {
        return Ok(());
    }
    let peer = fleet.peer;
    let (cpu, used) = (Cpu::of(peer)?, Cpu::of(peer)?.used()?);
    let took = go(fleet)?.took;
    let used = cpu.used()?.saturating_sub(used);
    let moved = before.abs_diff(pods) as f64;
    findings.of(GROWTH);
    findings.at([("pods", before.max(pods))]);
    let what = format!("{what}, {CALLERS} at a time");
    for (unit, time) in [(Unit::Ms, took), (Unit::CpuMs, used)] {
        findings.note(&peer.name, &what, unit, time.as_secs_f64() * 1e3 / moved);
    }
    Ok(())
}

impl Stage<'_> {
    fn look(&self, name: &'static str, see: See, findings: &mut Findings) -> Result<()> {
        findings.at([("pods", self.pods())]);
        findings.of(name);
        see(self, findings).with_context(|| format!("{name} of {} pods", self.pods()))
    }

    fn pods(&self) -> usize {
        self.fleet.pods.len()
    }

    /// Notes what something costs, divided by the number of pods, in the table of growth; with no pod nothing.
    fn note_for_each(&self, findings: &mut Findings, what: &str, unit: Unit, cost: f64) {
        if self.pods() > 0 {
            findings.aside(GROWTH, &self.peer.name, what, unit, cost / self.pods() as f64);
        }
    }
}
