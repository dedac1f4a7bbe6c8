//! What a hundred pods cost that have a command run in them once a second each, as by a kubelet with exec probes.
//!
//! The commands come in an open loop, whether the runtime keeps up or not; where it does not, the rate says so.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Bench;
use crate::load::{Fleet, Life, open};
use crate::measure::Cpu;
use crate::peer::Peer;
use crate::report::{Findings, Unit};

/// How many may wait for an answer at once.
const CALLERS: usize = 32;

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let (pods, seconds) = bench.effort.pick((3, 2), (100, 10), (100, 30));
    bench.rounds(1, |peer, _| {
        let mut fleet = Fleet::new(peer, "probes");
        fleet.grow(pods, 10)?;
        findings.at([("pods", pods)]);
        probe(peer, &fleet, seconds, findings)?;
        fleet.shrink(0, 10)?;
        Ok(())
    })
}

fn probe(peer: &Peer, fleet: &Fleet<'_>, seconds: usize, findings: &mut Findings) -> Result<()> {
    let pods = &fleet.pods;
    let interval = Duration::from_secs(1) / u32::try_from(pods.len())?;
    let probes = pods.len() * seconds;
    let cpu = Cpu::of(peer)?;
    let (begun, before) = (Instant::now(), cpu.used()?);
    let times = open(peer, CALLERS, interval, probes, |cri, number| {
        Life::new(peer, cri).exec(&pods[number % pods.len()], &["true"])
    })?;
    let (took, used) = (begun.elapsed().as_secs_f64(), (cpu.used()?.saturating_sub(before)).as_secs_f64());
    times.iter().for_each(|time| findings.time(&peer.name, "from when it was due to its answer", *time));
    findings.note(&peer.name, "probes answered", Unit::PerSecond, probes as f64 / took);
    findings.note(&peer.name, "CPU for a probe", Unit::CpuMs, used * 1e3 / probes as f64);
    findings.note(&peer.name, "CPU meanwhile", Unit::CpuPercent, used * 100.0 / took);
    Ok(())
}
