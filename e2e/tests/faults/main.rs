//! Every step that the program names is broken, once in each way: it fails, or takes its process with it. A kubelet that goes
//! on as kubelets do gets its pod all the same, another pod notices nothing, and when the pod is gone so is all that was
//! made for it.
//!
//! The steps are asked for from the program under test, which `hack/chaos` builds; one that no scenario comes to fails the
//! test by its name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic, and so may what it is made of"
)]

mod bystander;
mod kubelet;
mod report;

use std::fs;

use berth_e2e::{Node, repository, run};

use bystander::Bystander;
use kubelet::{Goal, Kubelet};
use report::{Report, Trial};

/// What is done at a point; as the file for it has it.
const ACTIONS: [&str; 2] = ["fail", "kill"];

#[test]
#[ignore = "needs root, the test images and the program that hack/chaos builds"]
fn whatever_step_breaks_the_pod_comes_to_be_and_nothing_is_left() {
    let node = Node::start_breakable("");
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    let points = run(&mut node.berth(&["faults"]));
    // For whoever looks into one: the points whose names have this in them.
    let only = std::env::var("CHAOS_POINT").unwrap_or_default();
    let points: Vec<&str> = points.lines().filter(|point| point.contains(&only)).collect();
    assert!(points.windows(2).all(|pair| pair[0] != pair[1]), "two steps have one name: {points:?}");
    // What an agent makes with its first pod and keeps is no leftover.
    attempt(&node, "first").1.expect("a pod whose steps are whole");
    let mut bystander = Bystander::start(&node);
    let mut report = Report::default();
    for (number, point) in points.iter().enumerate() {
        for action in ACTIONS {
            let trial = break_once(&node, &mut bystander, point, action, number);
            report.add(trial);
        }
    }
    println!("{report}");
    assert!(report.is_clean(), "see the table above");
}

/// Breaks one step of a pod's life in one way.
fn break_once(node: &Node, bystander: &mut Bystander<'_>, point: &str, action: &str, number: usize) -> Trial {
    let before = node.baseline();
    fs::write(node.fault(), format!("{action} {point}")).unwrap();
    let (kubelet, lived) = attempt(node, &format!("{action}-{number}"));
    let mut problems: Vec<String> = lived.err().into_iter().collect();
    if !fs::read_to_string(node.fault()).unwrap().is_empty() {
        problems.push("nothing came by this point".to_owned());
        fs::write(node.fault(), "").unwrap();
    }
    problems.extend(bystander.check().err());
    let mut leftovers = node.lasting_changes(&before.with_agent_of(&node.snapshot()));
    leftovers.retain(|line| !bystander::is_its_passing_process(line));
    let Kubelet { retries, restarts, .. } = kubelet;
    Trial { point: point.to_owned(), action: action.to_owned(), retries, restarts, problems, leftovers }
}

/// The life of a pod, from nothing to nothing.
fn attempt<'a>(node: &'a Node, name: &str) -> (Kubelet<'a>, Result<(), String>) {
    let mut kubelet = Kubelet::new(node, name);
    let lived = kubelet.drive(Goal::Served).and_then(|()| kubelet.drive(Goal::Gone));
    if lived.is_err() {
        // So that one failure is not that of all that come after.
        let _ = kubelet.drive(Goal::Gone);
    }
    (kubelet, lived)
}
