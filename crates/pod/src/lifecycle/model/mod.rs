//! The states held against the rules of the CRI: a client, a kernel, a monitor and a clock that do what they like, drawn
//! by lot. `MODEL_SEED` and `MODEL_STEPS` choose others.
//!
//! `node` carries out what the states say, as the driver does, in a `world` that is only played, for a `client`; `rules`
//! knows nothing of the states, and watches what clients are told.

mod client;
mod node;
mod rules;
mod world;

use std::time::Duration;

use berth_dice::{Dice, seed, steps_or};

use self::node::Node;
use self::world::Monitor;
use super::container::Request;
use super::sandbox;

/// A second or two in a build that is not optimised.
const STEPS: usize = 100_000;

/// With so many steps every request meets every state.
const ENOUGH: usize = 50_000;

const REQUESTS: [Request; 7] = [
    Request::Start,
    Request::Stop,
    Request::Remove,
    Request::Join,
    Request::ReopenLog,
    Request::Update,
    Request::Stats,
];

#[test]
fn whatever_happens_in_whatever_order_pods_and_containers_keep_the_rules() {
    let (seed, steps) = (seed(), steps_or(STEPS));
    println!("MODEL_SEED={seed} MODEL_STEPS={steps}");
    let mut dice = Dice::new(seed);
    let mut node = Node::new();
    for _ in 0..steps {
        step(&mut node, &mut dice);
        node.check();
    }
    node.settle();
    if steps >= ENOUGH {
        node.rules.check_that_all_was_tried();
    }
}

/// What can happen next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Run,
    FinishRun,
    StopPod,
    RemovePod,
    AskPod,
    Create,
    Start,
    Stop,
    Ask,
    TimePasses,
    WorkloadEnds,
    NewsComes,
    ProcessHangs,
    ProcessGoesOn,
    MonitorChanges,
    MonitorDies,
    PauseDies,
    ConnectionBreaks,
    AgentDies,
    ClockIsSetBack,
}

/// How often each happens; what ends a pod is rare, so that others have time to happen in it.
const LIKELIHOODS: [(usize, Step); 20] = [
    (40, Step::Run),
    (40, Step::FinishRun),
    (2, Step::StopPod),
    (20, Step::RemovePod),
    (20, Step::AskPod),
    (120, Step::Create),
    (120, Step::Start),
    (50, Step::Stop),
    (200, Step::Ask),
    (120, Step::TimePasses),
    (15, Step::WorkloadEnds),
    (60, Step::NewsComes),
    (8, Step::ProcessHangs),
    (12, Step::ProcessGoesOn),
    (20, Step::MonitorChanges),
    (2, Step::MonitorDies),
    (2, Step::PauseDies),
    (10, Step::ConnectionBreaks),
    (4, Step::AgentDies),
    (10, Step::ClockIsSetBack),
];

fn step(node: &mut Node, dice: &mut Dice) {
    let id = node.some_id(dice);
    match dice.weighed(&LIKELIHOODS) {
        Step::Run => node.run(dice.once_in(5)),
        Step::FinishRun => node.finish_run(dice),
        Step::StopPod => node.stop_pod(),
        // Mostly of one that is of no use any more.
        Step::RemovePod if node.is_ready() && !dice.once_in(10) => {}
        Step::RemovePod => node.remove_pod(),
        Step::AskPod => node.ask_pod(dice.one_of(&[
            sandbox::Request::Stop,
            sandbox::Request::Remove,
            sandbox::Request::Update,
            sandbox::Request::CreateContainer,
            sandbox::Request::StartContainer,
            sandbox::Request::ReopenLog,
            sandbox::Request::JoinContainer,
            sandbox::Request::PortForward,
        ])),
        Step::Create => node.create(dice.below(3), dice.once_in(10), dice),
        Step::Start => node.start(id, dice),
        Step::Stop => node.stop(id, grace(dice), dice),
        Step::Ask => match dice.one_of(&REQUESTS) {
            Request::Start => node.start(id, dice),
            Request::Stop => node.stop(id, grace(dice), dice),
            Request::Remove => node.remove(id),
            other @ (Request::Join | Request::ReopenLog | Request::Update | Request::Stats) => {
                let _ = node.ask(other, id);
            }
        },
        Step::TimePasses => node.pass_time(Duration::from_millis(dice.one_of(&[1, 400, 3_000, 20_000]))),
        Step::WorkloadEnds => node.workload_ends(id, dice),
        Step::NewsComes => node.hear(dice),
        Step::ProcessHangs => node.world.hang(id),
        Step::ProcessGoesOn => node.process_goes_on(id),
        Step::MonitorChanges => {
            let kinds = [(10, Monitor::Well), (4, Monitor::HeldUp), (1, Monitor::Foreign)];
            node.monitor_becomes(dice.weighed(&kinds));
        }
        Step::MonitorDies => node.monitor_dies(),
        Step::PauseDies => node.pause_dies(),
        Step::ConnectionBreaks => node.connection_breaks(dice.once_in(3)),
        Step::AgentDies => node.agent_dies(),
        Step::ClockIsSetBack => node.world.wall_ns -= 3_600_000_000_000,
    }
}

fn grace(dice: &mut Dice) -> Duration {
    Duration::from_secs(dice.one_of(&[0, 1, 2, 30, u64::MAX]))
}
