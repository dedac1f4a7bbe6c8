//! What one pod more takes, alone, where there are so many already.

use anyhow::Result;

use super::Stage;
use crate::load::{IDLE, Life, rest};
use crate::report::Findings;

/// Of a pod's life, what is noted.
const NOTED: [&str; 2] = ["pod start", "stop + remove"];

pub(super) fn see(stage: &Stage<'_>, findings: &mut Findings) -> Result<()> {
    let (peer, cri) = (stage.peer, stage.peer.cri()?);
    for number in 0..stage.effort.pick(1, 7, 15) {
        rest();
        let mut life = Life::new(peer, &cri);
        // A shell that has not said a word yet would not hear that it is to end.
        let pod = life.start_to_first_line(&format!("one-more-{number}"), IDLE)?;
        life.stop(&pod)?;
        for (name, time) in life.times.iter().filter(|(name, _)| NOTED.contains(name)) {
            findings.time(&peer.name, &format!("one more: {name}"), *time);
        }
    }
    Ok(())
}
