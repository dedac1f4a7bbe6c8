//! Misbehaviours, one after the other on one node: each is contained, is named by `berth explain`, leaves nothing behind,
//! and no other pod notices.

use std::time::{Duration, Instant};

use berth_e2e::{Node, eventually};
use serde_json::Value;

use crate::bystander::Bystander;
use crate::tally::Tally;

/// How long an explanation may take to have caught up with what happened.
const PATIENCE: Duration = Duration::from_secs(20);

/// Leftovers of one trial that are printed.
const MOST_SHOWN: usize = 5;

/// Why a misbehaviour was not survived.
pub(crate) type Problem = String;

/// A node with another pod that must not notice.
#[derive(Debug)]
pub(crate) struct Lab<'a> {
    pub(crate) node: &'a Node,
    pub(crate) bystander: Bystander<'a>,
    tally: Tally,
    remarks: Vec<String>,
}

impl<'a> Lab<'a> {
    /// `what` is what the trials are, in the plural.
    pub(crate) fn new(node: &'a Node, what: &'static str) -> Self {
        // What an agent makes with its first pod and keeps is no leftover.
        node.pod("first").take_down();
        let bystander = Bystander::start(node);
        Self { node, bystander, tally: Tally { what, ..Tally::default() }, remarks: Vec::new() }
    }

    /// Does something bad, which says what was measured or what went wrong.
    pub(crate) fn attempt(&mut self, name: &str, trial: impl FnOnce(&mut Self) -> Result<String, Problem>) {
        // For whoever looks into one: the trials whose names have this in them.
        if !name.contains(&std::env::var("CHAOS_TRIAL").unwrap_or_default()) {
            return;
        }
        let (before, begun) = (self.node.baseline(), Instant::now());
        let outcome = trial(self);
        let mut problems = Vec::new();
        match outcome {
            Ok(remark) if remark.is_empty() => {}
            Ok(remark) => self.remarks.push(format!("{name}: {remark}")),
            Err(problem) => {
                problems.push(problem);
                self.clear();
            }
        }
        problems.extend(self.bystander.check().err());
        let leftovers = self.node.lasting_changes(&before);
        problems.extend(await_well(self.node).err());
        self.tally.tried += 1;
        self.tally.survived += usize::from(problems.is_empty() && leftovers.is_empty());
        println!("{name}: {:.1} s, {} left", begun.elapsed().as_secs_f64(), leftovers.len());
        problems.iter().chain(leftovers.iter().take(MOST_SHOWN)).for_each(|line| println!("    {line}"));
        self.tally.leftovers.extend(leftovers);
    }

    /// Removes what a trial has left that broke off, so that the next one is none the worse for it.
    pub(crate) fn clear(&self) {
        let cri = self.node.cri();
        for pod in cri.sandboxes().iter().filter(|pod| pod.id != self.bystander.pod()) {
            let _ = cri.take_down(&pod.id);
        }
    }

    /// Enters the line, and fails unless all was survived.
    pub(crate) fn finish(self) {
        let Self { bystander, mut tally, remarks, .. } = self;
        bystander.end();
        tally.remarks = remarks.join("; ");
        tally.enter();
        assert!(tally.is_clean(), "see above");
    }
}

/// Waits until a trouble of this kind is told of a pod or container, or node-wide, with these words.
pub(crate) fn await_trouble(
    node: &Node,
    subject: Option<&str>,
    what: &str,
    words: &str,
) -> Result<(), Problem> {
    let mut told = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        told = troubles(node, subject);
        if told.iter().any(|(kind, detail)| kind == what && detail.contains(words)) {
            return Ok(());
        }
    }
    Err(format!("berth explain {subject:?} says nothing of {what} {words:?}: {told:?}"))
}

/// Waits until nothing on the node is unwell.
pub(crate) fn await_well(node: &Node) -> Result<(), Problem> {
    let mut told = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        told = troubles(node, None);
        if told.is_empty() {
            return Ok(());
        }
    }
    Err(format!("berth explain still says {told:?}"))
}

/// What `berth explain` says that is wrong, each with its kind.
pub(crate) fn troubles(node: &Node, subject: Option<&str>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let accounts = explain(node, subject);
    let all = accounts.iter().flat_map(|account| account["troubles"].as_array().unwrap());
    all.map(|trouble| (text(&trouble["what"]), text(&trouble["detail"]))).collect()
}

/// What `berth explain` says.
pub(crate) fn explain(node: &Node, subject: Option<&str>) -> Vec<Value> {
    let args: Vec<_> = ["explain", "--json"].into_iter().chain(subject).collect();
    let output = node.berth(&args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "berth explain {subject:?}: {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The condition, or what is wrong.
pub(crate) fn need(condition: bool, otherwise: impl FnOnce() -> Problem) -> Result<(), Problem> {
    if condition { Ok(()) } else { Err(otherwise()) }
}

/// A pod answers to somebody on the host.
pub(crate) fn await_reachable(node: &Node, address: &str) {
    eventually(&format!("an answer of {address}"), PATIENCE, || {
        let mut ping = node.site().command("ping");
        ping.args(["-c", "1", "-W", "1", address]).output().unwrap().status.success().then_some(())
    });
}
