//! How fast what containers write becomes log records in files, and what CPU time that takes, without that of the
//! writers.
//!
//! Containers come to a gate, a FIFO that is opened for them once all are there; then each copies the same file of lines
//! to its output, again and again, which costs it next to nothing, and says a last word. What a runtime does is done
//! when that word is in the log.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_e2e::{poll, requests, run};

use super::Bench;
use crate::load::{Life, Pod, closed};
use crate::measure::Cpu;
use crate::peer::Peer;
use crate::report::{Findings, Unit};

/// Of each line, with its end.
const LINE_BYTES: usize = 100;
/// Of the file that is copied.
const FILE_BYTES: usize = 1_000_000;
/// What comes last.
const LAST: &str = "that was all";
/// How long it may take to be in the log.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn measure(bench: &Bench, findings: &mut Findings) -> Result<()> {
    let rounds = bench.effort.pick(1, 3, 5);
    // Copies of the file that each container writes.
    for (containers, copies) in
        bench.effort.pick([(1, 8), (4, 2)], [(1, 200), (50, 4)], [(1, 1000), (50, 20)])
    {
        bench.server_rounds(rounds, |peer, round| {
            findings.at([("containers", containers)]);
            write(peer, round, containers, copies, findings)
        })?;
    }
    Ok(())
}

fn write(peer: &Peer, round: usize, containers: usize, copies: usize, findings: &mut Findings) -> Result<()> {
    let gate = Gate::make(&peer.logs.join(format!("gate-{containers}-{round}")))?;
    let script = format!(
        ": </gate/fifo; i=0; while [ $i -lt {copies} ]; do cat /gate/lines; i=$((i+1)); done; echo {LAST}; \
         trap 'exit 0' TERM; sleep 1000000 & wait"
    );
    let (writers, _) = closed(peer, 5, containers, |cri, number| {
        let mut life = Life::new(peer, cri);
        let request = peer.sandbox(&format!("logs-{containers}-{round}-{number}"))?;
        let directory = request.config.as_ref().context("a request has a config")?.log_directory.clone();
        let mut container = requests::shell("work", &script);
        container.mounts.push(requests::volume(&gate.directory, "/gate"));
        Ok((life.start_sandbox(request, container)?, PathBuf::from(directory).join("work.log")))
    })?;
    let (pods, logs): (Vec<Pod>, Vec<PathBuf>) = writers.into_iter().unzip();
    let own =
        pods.iter().map(|pod| Cpu::of_container(&peer.cri()?, &pod.container)).collect::<Result<Vec<_>>>()?;
    let (all, used_by_all, used_by_own) = (Cpu::of(peer)?, Cpu::of(peer)?.used()?, total(&own)?);

    let begun = Instant::now();
    let open = gate.open()?;
    logs.iter().try_for_each(|log| await_last_word(log))?;
    let took = begun.elapsed().as_secs_f64();
    drop(open);
    let used =
        all.used()?.saturating_sub(used_by_all).saturating_sub(total(&own)?.saturating_sub(used_by_own));

    let bytes = (containers * copies * FILE_BYTES) as f64;
    findings.note(&peer.name, "lines", Unit::PerSecond, bytes / LINE_BYTES as f64 / took);
    findings.note(&peer.name, "text", Unit::MibPerSecond, bytes / f64::from(1 << 20) / took);
    let gib = bytes / f64::from(1 << 30);
    findings.note(&peer.name, "CPU of the runtime", Unit::CpuSecondsPerGib, used.as_secs_f64() / gib);
    closed(peer, 5, pods.len(), |cri, number| Life::new(peer, cri).stop(&pods[number]))?;
    for log in &logs {
        fs::remove_file(log).with_context(|| format!("remove {}", log.display()))?;
    }
    Ok(())
}

fn total(of: &[Cpu]) -> Result<Duration> {
    of.iter().map(Cpu::used).sum()
}

/// Looks at the end of the log every few milliseconds, which is nothing beside seconds.
fn await_last_word(log: &Path) -> Result<()> {
    let is_there = || {
        let file = File::open(log).ok()?;
        let length = file.metadata().ok()?.len();
        let mut end = [0; LAST.len() + 1];
        file.read_exact_at(&mut end, length.checked_sub(LAST.len() as u64 + 1)?).ok()?;
        end.starts_with(LAST.as_bytes()).then_some(())
    };
    if poll(PATIENCE, is_there).is_none() {
        bail!("{} did not come to an end within {PATIENCE:?}", log.display());
    }
    Ok(())
}

/// A directory with the lines, and the FIFO that holds up those who read it.
struct Gate {
    directory: PathBuf,
}

impl Gate {
    fn make(directory: &Path) -> Result<Self> {
        fs::create_dir(directory).with_context(|| format!("make {}", directory.display()))?;
        run(Command::new("mkfifo").arg(directory.join("fifo")));
        let line = format!("{}\n", "0123456789".repeat(LINE_BYTES / 10).split_at(LINE_BYTES - 1).0);
        fs::write(directory.join("lines"), line.repeat(FILE_BYTES / LINE_BYTES))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Lets all go that open it, those that wait and those that come while it is open. For both ways, since that waits for
    /// nobody. Source: fifo(7).
    fn open(&self) -> Result<File> {
        File::options().read(true).write(true).open(self.directory.join("fifo")).context("open the gate")
    }
}
