//! How soon a runtime that was killed answers again, with all of its pods.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_cri_proto::v1::ContainerState;
use berth_e2e::Cri;

use super::Bench;
use crate::load::{Fleet, Life};
use crate::peer::{Home, Peer};
use crate::report::Findings;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let steps: &[usize] = bench.effort.pick(&[3], &[10, 100], &[10, 100, 500]);
    let kills = bench.effort.pick(1, 5, 10);
    bench.server_rounds(1, |peer, _| {
        // One that was given is not ours to kill.
        let Some(home) = &peer.home else { return Ok(()) };
        let mut fleet = Fleet::new(peer, "restart");
        for pods in steps {
            fleet.grow(*pods, 10)?;
            findings.at([("pods", *pods)]);
            for _ in 0..kills {
                findings.time(&peer.name, "first answer with all running", restart(peer, home, *pods)?);
            }
        }
        let cri = peer.cri()?;
        Life::new(peer, &cri).exec(fleet.pods.first().context("there are pods")?, &["true"])?;
        fleet.stop(10)?;
        Ok(())
    })
}

/// From the start of the new process.
fn restart(peer: &Peer, home: &Home, pods: usize) -> Result<Duration> {
    home.kill();
    let begun = Instant::now();
    home.launch()?;
    while Cri::connect(&peer.socket).is_none_or(|cri| running(&cri) != Some(pods)) {
        if begun.elapsed() > PATIENCE {
            bail!("not all {pods} pods are there {PATIENCE:?} after a restart:\n{}", home.journal());
        }
        pause();
    }
    Ok(begun.elapsed())
}

/// None while there is no answer.
fn running(cri: &Cri) -> Option<usize> {
    let containers = cri.list_containers(Default::default()).ok()?.containers;
    Some(containers.iter().filter(|one| one.state() == ContainerState::ContainerRunning).count())
}

/// A socket that does not exist yet can only be tried again and again.
#[allow(clippy::disallowed_methods, reason = "there is no event to wait for")]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}
