//! What a run has found: rows of numbers with a name and a unit, and the circumstances.
//!
//! In: rows, as scenarios give them. Out: a JSON file, which holds every single value, a table in Markdown, and plots
//! drawn from that file.

mod findings;
mod machine;
pub(crate) mod plot;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure::Quantiles;

pub(crate) use findings::Findings;
pub(crate) use table::markdown;

/// One run of the bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// When it began, RFC 3339, UTC.
    pub(crate) date: String,
    /// Where.
    pub(crate) machine: Machine,
    /// Who took part, in the order of the columns; the first is berth.
    pub(crate) peers: Vec<Contender>,
    /// What was measured, in the order in which it was.
    pub(crate) rows: Vec<Row>,
}

/// What the machine was, and what else it did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// Of the processor.
    pub(crate) model: String,
    /// Processors that this process may use.
    pub(crate) cores: usize,
    /// All of its memory.
    pub(crate) memory_mib: u64,
    /// `v1` or `v2`.
    pub(crate) cgroups: String,
    /// The load average over a minute when the run began: what others did, mostly.
    pub(crate) load_before: f64,
    /// The same when it ended.
    pub(crate) load_after: f64,
}

/// A runtime that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Contender {
    /// As in the columns.
    pub(crate) name: String,
    /// Of each of its parts, as they tell it themselves.
    pub(crate) versions: Vec<String>,
}

/// One thing that was measured, of all who took part in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The scenario's name: `pod-start`.
    pub(crate) scenario: String,
    /// What was measured: `RunPodSandbox`.
    pub(crate) what: String,
    /// Under which circumstances, by name: `pods` 100, `concurrency` 10. Rows that differ in one of them make a curve.
    pub(crate) at: BTreeMap<String, u64>,
    /// Of all values.
    pub(crate) unit: Unit,
    /// Which way is the better one.
    pub(crate) better: Better,
    /// By the name of who took part; [`FLOOR`] is the kernel's own part. Not everybody takes part in everything.
    pub(crate) results: BTreeMap<String, Sample>,
}

/// The name under which the kernel's own part is among the results.
pub(crate) const FLOOR: &str = "floor";

/// The scenario whose rows tell what one of many pods costs, each in its own unit, with few of them and with many (`pods`).
pub(crate) const GROWTH: &str = "growth";

/// What stands above these rows.
const GROWTH_TITLE: &str = "growth: what one of so many pods costs";

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Milliseconds on the clock.
    Ms,
    /// Microseconds on the clock.
    Us,
    /// Milliseconds of CPU time.
    CpuMs,
    /// Microseconds of CPU time.
    CpuUs,
    /// KiB of memory.
    Kib,
    /// MiB in a second.
    MibPerSecond,
    /// Things in a second: pods, lines, connections.
    PerSecond,
    /// Seconds of CPU time for each GiB.
    CpuSecondsPerGib,
    /// Hundredths of one processor.
    CpuPercent,
    /// Things.
    Count,
}

/// Which way is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    /// Times and sizes.
    Less,
    /// Rates.
    More,
}

/// What one of them did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Of the values.
    pub(crate) quantiles: Quantiles,
    /// Each that was taken, in the order in which they were.
    pub(crate) values: Vec<f64>,
}

impl Run {
    /// Reads what [`Run::write`] has written.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} holds no run", path.display()))
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

impl Sample {
    /// Takes values as they came; there is at least one.
    pub(crate) fn new(values: Vec<f64>) -> Self {
        Self { quantiles: Quantiles::of(&values), values }
    }
}
