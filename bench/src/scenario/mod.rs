//! One question to the runtimes for each file: what is done, by how many at a time, and what is noted.
//!
//! A scenario gets all runtimes and turns to each of them several times, so that what the machine does meanwhile meets
//! all alike; while one is measured, the others have nothing to do. It takes down what it has made, also what it has
//! warmed up with.

mod floor;
mod growth;
mod images;
mod logs;
mod network;
mod pod_start;
mod probes;
mod scale;
mod streams;

use anyhow::{Context, Result};

use self::growth::Look;
use crate::ground::Ground;
use crate::load::check_interrupt;
use crate::peer::podman::Podman;
use crate::peer::{Home, Peer};
use crate::report::{Findings, GROWTH, Row};

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// A little of everything, to see that it works.
    Quick,
    /// What fits into a quarter of an hour.
    Standard,
    /// All of it.
    Long,
}

impl Effort {
    /// One of three.
    pub(crate) fn pick<T>(self, quick: T, standard: T, long: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Standard => standard,
            Self::Long => long,
        }
    }
}

/// Who takes part, and how much is done.
#[derive(Debug)]
pub(crate) struct Bench {
    /// In the order of their turns.
    pub(crate) peers: Vec<Peer>,
    /// Which answers no CRI, and takes part in the starts of single pods only; it may not be there.
    pub(crate) podman: Option<Podman>,
    /// How much.
    pub(crate) effort: Effort,
    /// Where all of them have their directories; goes after them.
    pub(crate) ground: Ground,
}

impl Bench {
    /// Gives every peer its turn, so many times; with the number of the round.
    pub(crate) fn rounds(&self, rounds: usize, turn: impl FnMut(&Peer, usize) -> Result<()>) -> Result<()> {
        by_turns(&self.peers.iter().collect::<Vec<_>>(), rounds, turn)
    }

    /// The same, for what has nothing to do with the programs that make containers: of peers that differ in nothing else
    /// only one takes part.
    pub(crate) fn server_rounds(
        &self,
        rounds: usize,
        turn: impl FnMut(&Peer, usize) -> Result<()>,
    ) -> Result<()> {
        by_turns(&self.servers().collect::<Vec<_>>(), rounds, turn)
    }

    /// Those that differ in more than in what makes their containers, which is the second of their parts.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Peer> {
        let is_known = |index: usize, peer: &Peer| {
            self.peers[..index].iter().any(|other| other.versions.first() == peer.versions.first())
        };
        self.peers
            .iter()
            .enumerate()
            .filter(move |(index, peer)| !is_known(*index, peer))
            .map(|(_, peer)| peer)
    }
}

fn by_turns(peers: &[&Peer], rounds: usize, mut turn: impl FnMut(&Peer, usize) -> Result<()>) -> Result<()> {
    for round in 0..rounds {
        for peer in peers {
            check_interrupt()?;
            turn(peer, round).with_context(|| peer.name.clone())?;
            // What was answered before it was done burdens nobody else's turn. What stays is told at the end.
            peer.home.as_ref().map(Home::leftovers);
        }
    }
    Ok(())
}

/// One of them.
pub(crate) struct Scenario {
    /// As on the command line and in the rows.
    pub(crate) name: &'static str,
    /// What is asked.
    pub(crate) about: &'static str,
    way: Way,
}

/// How a scenario is measured.
enum Way {
    Alone(fn(&Bench, &mut Findings) -> Result<()>),
    /// Together with those beside it, in one climb.
    Climb(Look),
}

/// All, in the order in which they are run: what tells of memory first, while nobody has had much of it.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: GROWTH,
        about: "what one of few pods costs, and one of many; with any of the next three, that too",
        way: Way::Climb(growth::ONE_MORE),
    },
    Scenario {
        name: "memory",
        about: "what the runtime takes with no pod and with many",
        way: Way::Climb(growth::MEMORY),
    },
    Scenario {
        name: "lists",
        about: "List, Status and Stats while others start, and List while the disk is saturated",
        way: Way::Climb(growth::LISTS),
    },
    Scenario {
        name: "restart",
        about: "the runtime is killed, and answers again",
        way: Way::Climb(growth::RESTART),
    },
    Scenario {
        name: "pod-start",
        about: "the calls of a pod's life, one pod at a time, and sandboxes ten at once",
        way: Way::Alone(pod_start::measure),
    },
    Scenario {
        name: "floor",
        about: "the kernel's own part of a pod's life, step by step",
        way: Way::Alone(floor::measure),
    },
    Scenario {
        name: "scale",
        about: "many pods, up and down, few or many at a time",
        way: Way::Alone(scale::measure),
    },
    Scenario {
        name: "logs",
        about: "what containers write, on its way to their logs",
        way: Way::Alone(logs::measure),
    },
    Scenario {
        name: "probes",
        about: "a command a second in each of many pods",
        way: Way::Alone(probes::measure),
    },
    Scenario {
        name: "images",
        about: "pulls from a registry on loopback, and imports of archives",
        way: Way::Alone(images::measure),
    },
    Scenario {
        name: "streams",
        about: "input of commands and forwarded ports",
        way: Way::Alone(streams::measure),
    },
    Scenario { name: "network", about: "from pod to pod over the bridge", way: Way::Alone(network::measure) },
];

/// What can be measured at once, of scenarios in their order: one alone, or those that climb together.
pub(crate) fn together<'a>(chosen: &'a [&'static Scenario]) -> impl Iterator<Item = &'a [&'static Scenario]> {
    let climbs = |scenario: &Scenario| matches!(scenario.way, Way::Climb(_));
    chosen.chunk_by(move |one, next| climbs(one) && climbs(next))
}

/// Measures scenarios that can be at once.
pub(crate) fn measure(scenarios: &[&Scenario], bench: &Bench) -> Result<Vec<Row>> {
    let mut findings = Findings::new(scenarios.first().map_or(GROWTH, |scenario| scenario.name));
    let mut looks = Vec::new();
    for scenario in scenarios {
        match scenario.way {
            Way::Alone(measure) => measure(bench, &mut findings)?,
            Way::Climb(look) => looks.push((scenario.name, look)),
        }
    }
    if !looks.is_empty() {
        growth::measure(bench, &looks, &mut findings)?;
    }
    Ok(findings.into_rows())
}
