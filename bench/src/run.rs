//! `berth-bench run`: who takes part, what is measured, and where the result goes.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::ground::Ground;
use crate::load::{IDLE, Life, catch_interrupts};
use crate::peer::berth::{self, Spares};
use crate::peer::podman::Podman;
use crate::peer::{Peer, containerd, given};
use crate::report::{self, Contender, Machine, Row};
use crate::scenario::{self, Bench, Effort, Scenario};

/// What to measure, and beside whom.
#[derive(Debug, Args)]
#[command(after_help = scenarios())]
pub(crate) struct Run {
    /// Names of scenarios, and `quick` for a little of each; all of them if none is named.
    #[arg(value_name = "SCENARIO")]
    what: Vec<String>,
    /// Do more of everything, and with more pods.
    #[arg(long)]
    long: bool,
    /// The berth to measure; the one beside this program if none is named.
    #[arg(long, value_name = "PROGRAM")]
    berth: Option<PathBuf>,
    /// The containerd to measure it beside, with `ctr` and the shim in the same directory.
    #[arg(long, value_name = "PROGRAM", default_value = "/usr/bin/containerd")]
    containerd: PathBuf,
    /// What makes containerd's containers; may be given more than once.
    #[arg(long, value_name = "PROGRAM", default_values = ["/usr/sbin/runc", "/usr/bin/crun"])]
    runtime: Vec<PathBuf>,
    /// Measure no containerd.
    #[arg(long)]
    no_containerd: bool,
    /// What starts single containers, too, with the first of the programs named by --runtime.
    #[arg(long, value_name = "PROGRAM", default_value = "/usr/bin/podman")]
    podman: PathBuf,
    /// Measure no podman.
    #[arg(long)]
    no_podman: bool,
    /// Another runtime that runs already and has the test images; may be given more than once.
    #[arg(long, value_name = "NAME=SOCKET")]
    peer: Vec<given::Given>,
    /// Where the results go.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    out: PathBuf,
}

impl Run {
    /// Measures, prints the table, and writes the results.
    pub(crate) fn run(self) -> Result<()> {
        let chosen = self.chosen()?;
        if !rustix::process::geteuid().is_root() {
            bail!("starting runtimes needs root");
        }
        catch_interrupts()?;
        let mut result = report::Run {
            date: berth_e2e::run(Command::new("date").args(["-u", "+%FT%TZ"])).trim().into(),
            machine: Machine::look(),
            peers: Vec::new(),
            rows: Vec::new(),
        };
        let ground = Ground::make()?;
        let bench = Bench {
            peers: self.start_peers(&ground)?,
            podman: self.start_podman(&ground),
            effort: self.effort(),
            ground,
        };
        result.peers = bench.peers.iter().map(contender).collect();
        result.peers.extend(bench.podman.as_ref().map(Podman::contender));
        let measured = scenario::together(&chosen).try_for_each(|scenarios| {
            result.rows.extend(measure(scenarios, &bench)?);
            Ok(())
        });
        result.machine.look_again();
        // What was found before a failure is worth something, too.
        let table = report::markdown(&result);
        println!("{table}");
        self.write(&result, &table)?;
        if measured.is_err() {
            bench.peers.iter().for_each(Peer::abandon);
            return measured;
        }
        let Bench { peers, podman, ground, .. } = bench;
        let mut problems = end(peers);
        problems.extend(podman.into_iter().flat_map(Podman::end));
        drop(ground);
        if !problems.is_empty() {
            bail!("after the run:\n{}", problems.join("\n"));
        }
        Ok(())
    }

    fn effort(&self) -> Effort {
        match (self.what.iter().any(|name| name == QUICK), self.long) {
            (true, _) => Effort::Quick,
            (false, true) => Effort::Long,
            (false, false) => Effort::Standard,
        }
    }

    fn chosen(&self) -> Result<Vec<&'static Scenario>> {
        let names: Vec<_> = self.what.iter().filter(|name| *name != QUICK).collect();
        if let Some(unknown) =
            names.iter().find(|name| scenario::ALL.iter().all(|known| known.name != **name))
        {
            bail!("there is no scenario {unknown}; {}", scenarios());
        }
        let wanted =
            |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| *name == scenario.name);
        Ok(scenario::ALL.iter().filter(wanted).collect())
    }

    /// In the order of the columns.
    fn start_peers(&self, ground: &Ground) -> Result<Vec<Peer>> {
        let berth = match &self.berth {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("find this program")?.with_file_name("berth"),
        };
        let mut peers =
            vec![berth::start(ground, &berth, Spares::Some)?, berth::start(ground, &berth, Spares::None)?];
        for runtime in self.runtime.iter().filter(|_| !self.no_containerd) {
            let programs =
                containerd::Programs { containerd: self.containerd.clone(), runtime: runtime.clone() };
            peers.push(containerd::start(ground, &programs)?);
        }
        for given in &self.peer {
            peers.push(given::connect(ground, given)?);
        }
        peers.iter().try_for_each(warm_up)?;
        Ok(peers)
    }

    /// It is only a second opinion: where it does not work, the others are measured without it.
    fn start_podman(&self, ground: &Ground) -> Option<Podman> {
        if self.no_podman {
            return None;
        }
        let runtime = self.runtime.first()?;
        Podman::start(ground, &self.podman, runtime)
            .inspect_err(|error| eprintln!("podman does not take part: {error:#}"))
            .ok()
    }

    /// Every value, the table, and a picture of each scenario.
    fn write(&self, result: &report::Run, table: &str) -> Result<()> {
        let out = &self.out;
        std::fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
        result.write(&out.join("run.json"))?;
        std::fs::write(out.join("run.md"), table).with_context(|| format!("write to {}", out.display()))?;
        report::plot::draw(result, out)?;
        println!("all values, and pictures: {}", out.display());
        Ok(())
    }
}

/// The word for a little of everything.
const QUICK: &str = "quick";

fn scenarios() -> String {
    let line = |scenario: &Scenario| format!("\n  {:<12} {}", scenario.name, scenario.about);
    format!("Scenarios:{}", scenario::ALL.iter().map(line).collect::<String>())
}

fn contender(peer: &Peer) -> Contender {
    Contender { name: peer.name.clone(), versions: peer.versions.clone() }
}

/// A first pod makes what stays, and shows that the runtime works at all.
fn warm_up(peer: &Peer) -> Result<()> {
    let cri = peer.cri()?;
    let mut life = Life::new(peer, &cri);
    let pod = life.start_to_first_line("warm-up", IDLE)?;
    life.stop(&pod)?;
    if let Some(home) = &peer.home {
        home.remember();
    }
    Ok(())
}

fn measure(scenarios: &[&Scenario], bench: &Bench) -> Result<Vec<Row>> {
    let names: Vec<_> = scenarios.iter().map(|scenario| scenario.name).collect();
    let (names, begun) = (names.join(", "), Instant::now());
    let rows = scenario::measure(scenarios, bench).with_context(|| format!("scenario {names}"))?;
    eprintln!("{names}: {:.0} s", begun.elapsed().as_secs_f64());
    Ok(rows)
}

/// Ends all; what is wrong with one of them, with its name.
fn end(peers: Vec<Peer>) -> Vec<String> {
    let mut problems = Vec::new();
    for peer in peers {
        let name = peer.name.clone();
        problems.extend(peer.end().into_iter().map(|problem| format!("{name}: {problem}")));
    }
    problems
}
