//! Every step that the program names is broken: it fails, or takes its process with it, by turns in a short pass, and both
//! and also hangs in a long one. A client that
//! goes on as kubelets do gets its pod or its image all the same, another pod notices nothing, and when it is removed so
//! is all that was made for it.
//!
//! The steps are asked for from the program under test, which `hack/chaos` builds; one that no scenario comes to fails the
//! test by its name.

pub(crate) mod client;
mod images;
mod ordeals;
pub(crate) mod pods;
mod report;
mod sequences;

use std::fs;
use std::time::Duration;

use berth_cri_proto::v1::{ImageSpec, RemoveImageRequest};
use berth_e2e::{Node, REGISTRY, repository, requests, run, start_registry};

use client::{Efforts, Life, live};
use images::PulledImage;
use ordeals::{AfterAnother, WithDeadAgent, WithSlowCommand};
use pods::MadePod;
use report::Trial;
use rustix::process::Signal;

use crate::bystander::Bystander;
use crate::tally::short_or_long;

/// One way to break a step: what is done there, as the file for it has it, and whether the pods have users of their own.
type Way = (&'static str, bool);

/// A step that hangs takes longer than all that waits for it, so this takes its time.
const LONG: &[Way] = &[("fail", false), ("kill", false), ("hang", false), ("fail", true), ("kill", true)];

/// One for each step, in turn.
const SHORT: &[Way] = &[("kill", false), ("fail", true)];

/// The same for sandboxes that wait for pods. None of these has users of its own.
const LONG_OF_SPARES: &[Way] = &[("fail", false), ("kill", false), ("hang", false)];

/// The same.
const SHORT_OF_SPARES: &[Way] = &[("kill", false), ("fail", false)];

/// Steps of sandboxes that wait for pods, which a node without them does not come by.
const OF_SPARES: &[&str] = &[
    "make spare sandbox",
    "look at the spare sandbox",
    "occupy the spare sandbox",
    "carry out occupation",
    "move monitor and pause",
];

/// Steps that a spare takes by itself, or that leave more of a pod that is made of one.
const ALSO_OF_SPARES: &[&str] = &[
    "make cgroup",
    "start monitor and pause",
    "hear the monitor's greeting",
    "attach network",
    "record intent",
    "write the pod's files",
    "record readiness",
    "remove cgroup",
    "detach network",
];

/// What has to break before some steps are come by.
const BEFORE: &[(&str, &str)] = &[("take down what was intended", "kill record readiness")];

/// The other runtime that makes a container.
const HANDLER: &str = "runc";

#[test]
#[ignore = "needs root, the test images, runc, docker-registry and the program that hack/chaos builds"]
fn whatever_step_breaks_a_retry_succeeds_and_nothing_is_left() {
    let settings = format!(
        "[registries.hosts.'{REGISTRY}']\nplain_http = true\n[handlers.{HANDLER}]\npath = '/usr/sbin/runc'"
    );
    let node = Node::start_breakable(&settings);
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    let mut registry = start_registry(&node);
    let points = points(&node);
    let points = points.iter().filter(|point| !OF_SPARES.contains(&point.as_str()));
    let lives = |name: &str, way: Way| lives(&node, name, way);
    // What an agent makes with its first pod and keeps is no leftover.
    for life in lives("first", LONG[0]).iter().chain(&lives("second", LONG[3])) {
        live(&node, &**life, &mut Efforts::default()).expect("with no step broken");
    }
    let ways = points
        .enumerate()
        .map(|(number, point)| (point.as_str(), short_or_long(&SHORT[number % SHORT.len()..][..1], LONG)));
    let trials = break_all(&node, ways, lives);
    let image = Some(ImageSpec { image: requests::BUSYBOX.into(), ..Default::default() });
    node.cri().remove_image(RemoveImageRequest { image }).unwrap();
    registry.signal(Signal::TERM);
    registry.wait(Duration::from_secs(10)).expect("the registry stops");
    let tally = report::tally("broken steps", trials);
    tally.enter();
    assert!(tally.is_clean(), "see the table above");
}

#[test]
#[ignore = "needs root, the test images and the program that hack/chaos builds"]
fn whatever_step_of_a_spare_sandbox_breaks_the_pod_is_made_and_nothing_is_left() {
    let images = repository().join("hack/images/out");
    let spares = AfterAnother::SPARES;
    let settings = format!("[sandboxes]\nspare = {spares}\n[images]\nimport = '{}'", images.display());
    let node = Node::start_breakable(&settings);
    let parents = node.cgroup_directories("kubepods");
    parents.iter().for_each(|directory| fs::create_dir(directory).unwrap());
    let lives = |name: &str, _: Way| lives_after_others(&node, name);
    for life in lives("first", LONG_OF_SPARES[0]) {
        live(&node, &*life, &mut Efforts::default()).expect("with no step broken");
    }
    let points = points(&node);
    let points =
        points.iter().filter(|point| OF_SPARES.iter().chain(ALSO_OF_SPARES).any(|name| name == point));
    let ways = points.map(|point| (point.as_str(), short_or_long(SHORT_OF_SPARES, LONG_OF_SPARES)));
    let trials = break_all(&node, ways, lives);
    assert!(node.spares().len() <= spares, "those of an agent that has died live on");
    // As a kubelet does.
    parents.iter().for_each(|directory| fs::remove_dir(directory).unwrap());
    let tally = report::tally("broken steps of spare sandboxes", trials);
    tally.enter();
    assert!(tally.is_clean(), "see the table above");
}

/// All steps that can be broken.
fn points(node: &Node) -> Vec<String> {
    let points = run(&mut node.berth(&["faults"]));
    // For whoever looks into one: the points whose names have this in them.
    let only = std::env::var("CHAOS_POINT").unwrap_or_default();
    let points: Vec<_> = points.lines().filter(|point| point.contains(&only)).map(str::to_owned).collect();
    assert!(points.windows(2).all(|pair| pair[0] != pair[1]), "two steps have one name: {points:?}");
    points
}

/// Breaks each step in its ways, beside a pod that must not notice.
fn break_all<'a>(
    node: &Node,
    points: impl Iterator<Item = (&'a str, &'static [Way])>,
    lives: impl Fn(&str, Way) -> Vec<Box<dyn Life + 'a>>,
) -> Vec<Trial> {
    print!("{}", report::HEAD);
    let mut bystander = Bystander::start(node);
    let mut trials = Vec::new();
    for (number, (point, ways)) in points.enumerate() {
        for (turn, way) in ways.iter().enumerate() {
            let lives = lives(&format!("p{number}-{turn}"), *way);
            let trial = break_once(node, &mut bystander, point, *way, &lives);
            print!("{trial}");
            trials.push(trial);
        }
    }
    bystander.end();
    trials
}

#[test]
#[ignore = "needs the program that hack/chaos builds"]
fn a_program_that_is_shipped_has_no_step_to_break() {
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe().unwrap();
    let programs = test.ancestors().nth(2).unwrap();
    let names_the_file = |program: &str| {
        let bytes = fs::read(programs.join(program)).unwrap();
        bytes.windows(11).any(|window| window == b"BERTH_FAULT")
    };
    assert!(names_the_file("berth-faults"));
    assert!(!names_the_file("berth"));
}

/// What comes by steps: most of them by those of the first.
fn lives<'a>(node: &'a Node, name: &str, (_, own_users): Way) -> Vec<Box<dyn Life + 'a>> {
    let pod = |kind: &str| {
        let pod = MadePod::new(node, &format!("{name}-{kind}"), "");
        if own_users { pod.in_user_namespace() } else { pod }
    };
    vec![
        Box::new(pod("pod")),
        Box::new(PulledImage),
        Box::new(MadePod::new(node, &format!("{name}-{HANDLER}"), HANDLER)),
        Box::new(WithSlowCommand(pod("slow"))),
        Box::new(WithDeadAgent::new(node, pod("left"))),
    ]
}

/// What comes by steps of sandboxes that wait: pods made of them, in the agent's cgroup or in a kubelet's.
fn lives_after_others<'a>(node: &'a Node, name: &str) -> Vec<Box<dyn Life + 'a>> {
    let after_another = |kind: &str, pod: fn(MadePod, &str) -> MadePod| -> Box<dyn Life + 'a> {
        let other = MadePod::new(node, &format!("{name}-{kind}-other"), "").without_ports();
        let made = MadePod::new(node, &format!("{name}-{kind}"), "");
        Box::new(AfterAnother { node, other, pod: pod(made, &format!("{}/kubepods", node.cgroup())) })
    };
    vec![after_another("plain", |pod, _| pod), after_another("guest", MadePod::in_cgroup)]
}

/// Breaks one step in one way, in the first life that comes by it.
fn break_once(
    node: &Node,
    bystander: &mut Bystander<'_>,
    point: &str,
    (action, own_users): Way,
    lives: &[Box<dyn Life + '_>],
) -> Trial {
    let before = node.baseline();
    let first = BEFORE.iter().find(|(later, _)| *later == point);
    let lines =
        first.map(|(_, first)| format!("{first}\n")).unwrap_or_default() + &format!("{action} {point}");
    fs::write(node.fault(), lines).unwrap();
    let is_broken = || fs::read_to_string(node.fault()).unwrap().is_empty();
    let (mut efforts, mut problems) = (Efforts::default(), Vec::new());
    for life in lives {
        problems.extend(live(node, &**life, &mut efforts).err());
        if is_broken() {
            break;
        }
    }
    if !is_broken() {
        problems.push("nothing came by this point".to_owned());
        fs::write(node.fault(), "").unwrap();
    }
    problems.extend(bystander.check().err());
    let leftovers = node.lasting_changes(&before.with_agent_of(&node.snapshot()));
    let Efforts { retries, restarts } = efforts;
    Trial { point: point.to_owned(), action, own_users, retries, restarts, problems, leftovers }
}
