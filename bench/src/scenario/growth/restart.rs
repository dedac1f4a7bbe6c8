//! How soon a runtime that was killed answers again, with all of its pods. It has to work then.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use berth_cri_proto::v1::ContainerState;
use berth_e2e::Cri;

use super::Stage;
use crate::load::{IDLE, Life};
use crate::peer::{Home, Peer};
use crate::report::{Findings, Unit};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn see(stage: &Stage<'_>, findings: &mut Findings) -> Result<()> {
    // One that was given is not ours to kill.
    let Some(home) = &stage.peer.home else { return Ok(()) };
    for _ in 0..stage.effort.pick(1, 5, 10) {
        let time = restart(stage.peer, home, stage.pods())?;
        findings.time(&stage.peer.name, "first answer with all running", time);
        stage.note_for_each(findings, "restart", Unit::Ms, time.as_secs_f64() * 1e3);
    }
    let (peer, cri) = (stage.peer, stage.peer.cri()?);
    let mut life = Life::new(peer, &cri);
    match stage.fleet.pods.first() {
        Some(pod) => life.exec(pod, &["true"]),
        None => {
            let pod = life.start_to_first_line("after-restart", IDLE)?;
            life.stop(&pod)
        }
    }
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
