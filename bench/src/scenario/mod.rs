//! One question to the runtimes for each file: what is done, by how many at a time, and what is noted.
//!
//! A scenario gets all runtimes and turns to each of them several times, so that what the machine does meanwhile meets
//! all alike; while one is measured, the others have nothing to do. It takes down what it has made, also what it has
//! warmed up with.

mod floor;
mod images;
mod lists;
mod logs;
mod memory;
mod network;
mod pod_start;
mod probes;
mod restart;
mod scale;
mod streams;

use anyhow::{Context, Result};

use crate::ground::Ground;
use crate::load::check_interrupt;
use crate::peer::{Home, Peer};
use crate::report::{Findings, Row};

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
    measure: fn(&Bench, &mut Findings) -> Result<()>,
}

/// All, in the order in which they are run.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "pod-start",
        about: "the calls of a pod's life, one pod at a time",
        measure: pod_start::measure,
    },
    Scenario {
        name: "floor",
        about: "the kernel's own part of a pod's life, step by step",
        measure: floor::measure,
    },
    Scenario {
        name: "scale",
        about: "many pods, up and down, few or many at a time",
        measure: scale::measure,
    },
    Scenario {
        name: "memory",
        about: "what the runtime takes with no pod and with many",
        measure: memory::measure,
    },
    Scenario {
        name: "lists",
        about: "List, Status and Stats while others start, and List while the disk is busy",
        measure: lists::measure,
    },
    Scenario {
        name: "logs",
        about: "what containers write, on its way to their logs",
        measure: logs::measure,
    },
    Scenario { name: "probes", about: "a command a second in each of many pods", measure: probes::measure },
    Scenario {
        name: "restart",
        about: "the runtime is killed, and answers again",
        measure: restart::measure,
    },
    Scenario {
        name: "images",
        about: "pulls from a registry on loopback, and imports of archives",
        measure: images::measure,
    },
    Scenario { name: "streams", about: "input of commands and forwarded ports", measure: streams::measure },
    Scenario { name: "network", about: "from pod to pod over the bridge", measure: network::measure },
];

impl Scenario {
    /// Measures.
    pub(crate) fn run(&self, bench: &Bench) -> Result<Vec<Row>> {
        let mut findings = Findings::new(self.name);
        (self.measure)(bench, &mut findings).with_context(|| format!("scenario {}", self.name))?;
        Ok(findings.into_rows())
    }
}
