//! A client that goes on as a kubelet does: it looks at what there is, does the next thing that is missing, and after an
//! error looks again. It keeps to one identity, for names that are not given back are what operators meet.

use berth_e2e::cri::Answer;
use berth_e2e::{Cri, Node, Revived};
use tonic::Status;

/// More calls than a life takes with one step broken.
const MAX_CALLS: usize = 40;

/// Where something is to be brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It is there, and has been used.
    Used,
    /// Nothing of it is known any more.
    Gone,
}

/// What is brought there.
pub(crate) trait Life {
    /// Makes the next call, if one is needed; whether the goal was reached.
    fn step(&self, cri: &Cri, goal: Goal) -> Answer<bool>;
}

/// How much it took.
#[derive(Debug, Default)]
pub(crate) struct Efforts {
    /// Calls that failed.
    pub(crate) retries: usize,
    /// Times that the agent had died.
    pub(crate) restarts: usize,
}

/// A whole life, from nothing to nothing.
pub(crate) fn live(node: &Node, life: &dyn Life, efforts: &mut Efforts) -> Result<(), String> {
    let lived = drive(node, life, Goal::Used, efforts).and_then(|()| drive(node, life, Goal::Gone, efforts));
    if lived.is_err() {
        // So that one failure is not that of all that come after.
        let _ = drive(node, life, Goal::Gone, efforts);
    }
    lived
}

/// Between a call that failed and the next: a kubelet does not ask at once, and an agent may take a second to find out what
/// has become of a monitor.
#[allow(clippy::disallowed_methods, reason = "a kubelet's patience, not a wait for a state")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(100));
}

/// Makes one call after the other until the goal is reached.
fn drive(node: &Node, life: &dyn Life, goal: Goal, efforts: &mut Efforts) -> Result<(), String> {
    let mut errors = Vec::new();
    for _ in 0..MAX_CALLS {
        let cri = Cri::connect(&node.socket()).ok_or_else(|| Status::unavailable("nobody listens"));
        match cri.and_then(|cri| life.step(&cri, goal)) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(status) => {
                efforts.retries += 1;
                errors.push(format!("{:?}: {}", status.code(), status.message()));
                efforts.restarts += usize::from(node.revive() == Revived::Restarted);
                pause();
            }
        }
    }
    Err(format!("not {goal:?} after {MAX_CALLS} calls: {}", errors.join("; ")))
}
