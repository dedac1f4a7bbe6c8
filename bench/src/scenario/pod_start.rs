//! One pod with one container after the other: each call of its life, a start up to the first line in the log, a command,
//! the end. The kernel's own part gets its turn with the others, and so does podman, which starts one container.
//!
//! Then ten sandboxes are asked for at once, of a runtime that has nothing else to do.

use anyhow::{Context, Result};

use super::Bench;
use crate::floor;
use crate::load::{IDLE, Life, closed, rest};
use crate::peer::Peer;
use crate::report::Findings;

/// How many sandboxes are asked for at once.
const AT_ONCE: usize = 10;

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let (rounds, pods) = bench.effort.pick((1, 3), (8, 9), (20, 25));
    for round in 0..rounds {
        bench.rounds(1, |peer, _| one_after_the_other(peer, round, pods, findings))?;
        bench.rounds(1, |peer, _| at_once(peer, round, findings))?;
        floor::measure(bench.ground.dir(), pods)?.calls.iter().for_each(|row| findings.add(row));
        if let Some(podman) = &bench.podman {
            for number in 0..pods.min(3) {
                rest();
                let times = podman.start_and_stop(&format!("start-{round}-{number}"))?;
                times.iter().for_each(|(name, time)| findings.time(podman.name(), name, *time));
            }
        }
    }
    Ok(())
}

fn one_after_the_other(peer: &Peer, round: usize, pods: usize, findings: &mut Findings) -> Result<()> {
    let cri = peer.cri()?;
    for number in 0..=pods {
        rest();
        let mut life = Life::new(peer, &cri);
        let pod = life.start_to_first_line(&format!("start-{round}-{number}"), IDLE)?;
        life.exec(&pod, &["true"])?;
        life.stop(&pod)?;
        // The first one after the others' turns finds cold caches.
        if number > 0 {
            life.times.iter().for_each(|(name, time)| findings.time(&peer.name, name, *time));
        }
    }
    Ok(())
}

/// Those before have had time enough: what waits for pods is there again.
fn at_once(peer: &Peer, round: usize, findings: &mut Findings) -> Result<()> {
    let requests = (0..AT_ONCE).map(|number| peer.sandbox(&format!("at-once-{round}-{number}")));
    let requests = requests.collect::<Result<Vec<_>>>()?;
    rest();
    let (made, _) = closed(peer, AT_ONCE, AT_ONCE, |cri, number| {
        let mut life = Life::new(peer, cri);
        let request = requests[number].clone();
        let id = life.time("RunPodSandbox, ten at once", || cri.run_pod_sandbox(request))?.pod_sandbox_id;
        Ok((id, life.times))
    })?;
    made.iter().flat_map(|(_, times)| times).for_each(|(name, time)| findings.time(&peer.name, name, *time));
    closed(peer, AT_ONCE, made.len(), |cri, number| {
        cri.take_down(&made[number].0).context("take a sandbox down")
    })?;
    Ok(())
}
