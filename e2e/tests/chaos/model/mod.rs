//! Sequences of calls drawn by lot, each held against a simple model of the API: the answer, and all that the API shows
//! afterwards. Between the calls the agent is killed and started again, and monitors are killed.
//!
//! ```text
//! steps ── what can be done, drawn from a seed          world ── the model: what there should be, and the answers
//! calls ── the step as a call      play, compare ── both side by side      shrink ── the shortest that fails
//! ```
//! A sequence that fails is printed with its seed, and again without all that is not needed for it. `MODEL_SEED=N` plays
//! that of this seed, and `MODEL_STEPS=N` so many of its steps.

mod calls;
mod compare;
mod draw;
mod play;
mod shrink;
mod steps;
mod world;

use std::thread;
use std::time::{Duration, Instant};

use berth_dice::{seed, seed_or, steps_or};
use berth_e2e::{Node, REGISTRY, start_registry};
use rustix::process::Signal;

use crate::tally::{Tally, short_or_long};
use draw::draw;
use play::{Answers, Player};
use shrink::shrink;
use steps::{Client, ImageCall, Step, on_all_images};

/// Of a short pass, which is the same each time.
const SEED: u64 = 1;
/// For how long a sequence that fails is made shorter.
const SHRINKING: Duration = Duration::from_secs(120);

/// How many different answers to different calls a sequence has to get, or it says little.
const ENOUGH: usize = 20;

#[test]
#[ignore = "needs root, the test images and docker-registry"]
fn a_node_is_always_as_a_simple_model_says() {
    check(&[Client::Alone], steps_or(short_or_long(500, 10_000)));
}

#[test]
#[ignore = "needs root, the test images and docker-registry"]
fn what_others_do_with_their_own_pods_changes_nothing() {
    check(&[0, 1, 2, 3].map(Client::Of), steps_or(short_or_long(120, 3000)));
}

/// What went wrong, and when, if it was at a step.
struct Failure {
    at: Option<usize>,
    wrong: String,
}

/// Has each client play a sequence, all at the same time.
fn check(clients: &[Client], count: usize) {
    let seed = short_or_long(seed_or(SEED), seed());
    println!("MODEL_SEED={seed} MODEL_STEPS={count}");
    let lots: Vec<_> =
        (clients.iter().zip(seed..)).map(|(client, seed)| (*client, draw(seed, count, *client))).collect();
    let played = play(&lots);
    let all: Vec<_> = lots.iter().flat_map(|(_, steps)| steps).collect();
    let mut tally = Tally {
        what: if clients.len() == 1 { "calls drawn by lot" } else { "calls of several, drawn by lot" },
        tried: all.len(),
        restarts: all.iter().filter(|step| ***step == Step::KillAgent).count(),
        ..Tally::default()
    };
    match &played {
        Ok(answers) => {
            tally.survived = tally.tried;
            tally.remarks = format!("seed {seed}, {} different answers", answers.len());
            answers.iter().for_each(|((call, answer), count)| println!("{call:20} {answer:20} {count:5}"));
        }
        Err(failure) => {
            tally.remarks = format!("seed {seed}: {}", failure.wrong.lines().next().unwrap_or_default())
        }
    }
    tally.enter();
    let failure = match played {
        Ok(answers) => return assert!(answers.len() >= ENOUGH || count < 100, "too few different answers"),
        Err(failure) => failure,
    };
    println!("MODEL_SEED={seed}: {}", failure.wrong);
    // Several together would fail now and then.
    if let [(client, steps)] = &lots[..] {
        let whole = &steps[..failure.at.map_or(count, |at| at + 1)];
        let patience = Instant::now() + SHRINKING;
        let short =
            shrink(whole, |steps| Instant::now() < patience && play(&[(*client, steps.to_vec())]).is_err());
        println!("{} steps do it:", short.len());
        short.iter().for_each(|step| println!("    {step:?}"));
    }
    panic!("MODEL_SEED={seed}: {}", failure.wrong);
}

/// Plays the sequences on a node of their own, of which nothing must be left.
fn play(lots: &[(Client, Vec<Step>)]) -> Result<Answers, Failure> {
    let played = thread::scope(|scope| {
        // What panics is a failure as any other, and no end of the search for a shorter one.
        let node = scope.spawn(|| {
            let node = Node::start_empty(&format!(
                "[registries.hosts.'registry.test']\nmirrors = ['http://{REGISTRY}']"
            ));
            let mut registry = start_registry(&node);
            let played = play_on(&node, lots);
            if played.is_err() {
                remove_all(&node);
            }
            registry.signal(Signal::TERM);
            registry.wait(Duration::from_secs(10)).expect("the registry stops");
            played
        });
        node.join()
    });
    played.unwrap_or_else(|_| Err(Failure { at: None, wrong: "the test has panicked".to_owned() }))
}

fn play_on(node: &Node, lots: &[(Client, Vec<Step>)]) -> Result<Answers, Failure> {
    let fail = |wrong| Failure { at: None, wrong };
    let mut player = Player::new(node, Client::Alone);
    let mut all_images = |call| on_all_images(call).try_for_each(|step| player.play(&step).map_err(fail));
    // What is made once is no leftover.
    all_images(ImageCall::Pull)?;
    node.pod("first").take_down();
    all_images(ImageCall::Remove)?;
    let before = node.baseline();
    all_images(ImageCall::Pull)?;
    let played: Vec<_> = thread::scope(|scope| {
        let client =
            |(client, steps): &(Client, Vec<Step>)| play_to_the_end(&mut Player::new(node, *client), steps);
        let clients: Vec<_> = lots.iter().map(|lot| scope.spawn(move || client(lot))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut answers = Answers::new();
    for played in played {
        played?.into_iter().for_each(|(answer, count)| *answers.entry(answer).or_default() += count);
    }
    for step in on_all_images(ImageCall::Remove) {
        Player::new(node, Client::Alone).play(&step).map_err(fail)?;
    }
    let left = node.lasting_changes(&before.with_agent_of(&node.snapshot()));
    if left.is_empty() { Ok(answers) } else { Err(fail(format!("left behind: {}", left.join("\n")))) }
}

fn play_to_the_end(player: &mut Player<'_>, steps: &[Step]) -> Result<Answers, Failure> {
    for (at, step) in steps.iter().enumerate() {
        let wrong = |wrong| Failure { at: Some(at), wrong: format!("step {at}, {step:?}: {wrong}") };
        player.play(step).map_err(wrong)?;
    }
    player.clear().map_err(|wrong| Failure { at: None, wrong: format!("after all steps: {wrong}") })?;
    Ok(std::mem::take(&mut player.answers))
}

/// So that one failure is not followed by another when the node goes.
fn remove_all(node: &Node) {
    let cri = node.cri();
    for pod in cri.sandboxes() {
        let _ = cri.take_down(&pod.id);
    }
    for step in on_all_images(ImageCall::Remove) {
        let _ = Player::new(node, Client::Alone).play(&step);
    }
}
