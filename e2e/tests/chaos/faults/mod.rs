//! Every step that the program names is broken, once in each way: it fails, or takes its process with it. A client that
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
use ordeals::{WithDeadAgent, WithSlowCommand};
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
    let points = run(&mut node.berth(&["faults"]));
    // For whoever looks into one: the points whose names have this in them.
    let only = std::env::var("CHAOS_POINT").unwrap_or_default();
    let points: Vec<&str> = points.lines().filter(|point| point.contains(&only)).collect();
    assert!(points.windows(2).all(|pair| pair[0] != pair[1]), "two steps have one name: {points:?}");
    // What an agent makes with its first pod and keeps is no leftover.
    for life in lives(&node, "first", LONG[0]).iter().chain(&lives(&node, "second", LONG[3])) {
        live(&node, &**life, &mut Efforts::default()).expect("with no step broken");
    }
    print!("{}", report::HEAD);
    let mut bystander = Bystander::start(&node);
    let mut trials = Vec::new();
    for (number, point) in points.iter().enumerate() {
        let ways = short_or_long(&SHORT[number % SHORT.len()..][..1], LONG);
        for (turn, way) in ways.iter().enumerate() {
            let lives = lives(&node, &format!("p{number}-{turn}"), *way);
            let trial = break_once(&node, &mut bystander, point, *way, &lives);
            print!("{trial}");
            trials.push(trial);
        }
    }
    bystander.end();
    let image = Some(ImageSpec { image: requests::BUSYBOX.into(), ..Default::default() });
    node.cri().remove_image(RemoveImageRequest { image }).unwrap();
    registry.signal(Signal::TERM);
    registry.wait(Duration::from_secs(10)).expect("the registry stops");
    let tally = report::tally(trials);
    tally.enter();
    assert!(tally.is_clean(), "see the table above");
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
fn lives<'a>(node: &'a Node, name: &str, (_, own_users): Way) -> [Box<dyn Life + 'a>; 5] {
    let pod = |kind: &str| {
        let pod = MadePod::new(node, &format!("{name}-{kind}"), "");
        if own_users { pod.in_user_namespace() } else { pod }
    };
    [
        Box::new(pod("pod")),
        Box::new(PulledImage),
        Box::new(MadePod::new(node, &format!("{name}-{HANDLER}"), HANDLER)),
        Box::new(WithSlowCommand(pod("slow"))),
        Box::new(WithDeadAgent::new(node, pod("left"))),
    ]
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
