//! A hundred pods and more, few or many at a time, up and down: how many in a second, and how long each call takes then.

use anyhow::Result;

use super::{Bench, Effort};
use crate::load::{Fleet, Voyage};
use crate::measure::Cpu;
use crate::peer::Peer;
use crate::report::{Findings, Unit};

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let sizes: &[usize] = bench.effort.pick(&[6], &[100], &[100, 500]);
    let callers: &[usize] = bench.effort.pick(&[3], &[1, 10, 50], &[1, 10, 50]);
    for (pods, callers) in sizes.iter().flat_map(|pods| callers.iter().map(move |callers| (*pods, *callers)))
    {
        let turn = |peer: &Peer, _| {
            findings.at([("pods", pods), ("concurrency", callers)]);
            up_and_down(peer, pods, callers, findings)
        };
        // In the standard set everybody takes part only where it says most; a slow runtime takes half a minute for each.
        if bench.effort == Effort::Standard && callers != 10 {
            bench.server_rounds(1, turn)?;
        } else {
            bench.rounds(1, turn)?;
        }
    }
    Ok(())
}

fn up_and_down(peer: &Peer, pods: usize, callers: usize, findings: &mut Findings) -> Result<()> {
    let cpu = Cpu::of(peer)?;
    let before = cpu.used()?;
    let mut fleet = Fleet::new(peer, &format!("scale-{pods}-{callers}"));
    let up = fleet.grow(pods, callers)?;
    let down = fleet.shrink(0, callers)?;
    let used = cpu.used()?.saturating_sub(before);
    note(peer, "started", pods, &up, findings);
    note(peer, "stopped and removed", pods, &down, findings);
    findings.note(&peer.name, "for a pod, up and down", Unit::CpuMs, used.as_secs_f64() * 1e3 / pods as f64);
    Ok(())
}

fn note(peer: &Peer, what: &str, pods: usize, voyage: &Voyage, findings: &mut Findings) {
    let rate = pods as f64 / voyage.took.as_secs_f64();
    findings.note(&peer.name, &format!("pods {what}"), Unit::PerSecond, rate);
    voyage.times.iter().for_each(|(name, time)| findings.time(&peer.name, name, *time));
}
