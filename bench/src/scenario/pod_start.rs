//! One pod with one container after the other: each call of its life, a start up to the first line in the log, a command,
//! the end. The kernel's own part gets its turn with the others.

use anyhow::Result;

use super::Bench;
use crate::floor;
use crate::load::{IDLE, Life, rest};
use crate::report::Findings;

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let (rounds, pods) = bench.effort.pick((1, 3), (10, 10), (20, 25));
    for round in 0..rounds {
        bench.rounds(1, |peer, _| {
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
        })?;
        floor::measure(bench.ground.dir(), pods)?.calls.iter().for_each(|row| findings.add(row));
    }
    Ok(())
}
