//! The laps of many pods as rows of the report.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::watch::{Lap, Step};
use crate::report::{Better, FLOOR, Row, Sample, Unit};

/// The scenarios that have these rows.
const CALLS: &str = "pod-start";
const STEPS: &str = "floor";

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rows {
    /// The calls of a pod's life, each few with what they add up to, by the names that `pod-start` has for them.
    pub(crate) calls: Vec<Row>,
    /// Each step.
    pub(crate) steps: Vec<Row>,
}

/// The calls that add up to something, with its name.
const START: (&[&str], &str) = (&["RunPodSandbox", "CreateContainer", "StartContainer"], "pod start");
const END: (&[&str], &str) = (&["StopContainer", "StopPodSandbox", "RemovePodSandbox"], "stop + remove");

const EXEC: &str = "ExecSync";

/// Adds the laps up.
pub(super) fn of(rounds: &[Vec<Lap>]) -> Rows {
    let mut calls = with_whole(START, rounds);
    calls.push(of_calls(&[EXEC], EXEC, rounds));
    calls.extend(with_whole(END, rounds));
    let step = |step: &Step| row(STEPS, step.words(), rounds, |other| other == *step);
    Rows { calls, steps: Step::ALL.iter().map(step).collect() }
}

fn with_whole((calls, whole): (&[&str], &str), rounds: &[Vec<Lap>]) -> Vec<Row> {
    let each = calls.iter().map(|call| of_calls(&[call], call, rounds));
    each.chain([of_calls(calls, whole, rounds)]).collect()
}

fn of_calls(calls: &[&str], what: &str, rounds: &[Vec<Lap>]) -> Row {
    row(CALLS, what, rounds, |step| calls.contains(&step.call()))
}

/// The sum, in each round, of the steps that are wanted.
fn row(scenario: &str, what: &str, rounds: &[Vec<Lap>], is_wanted: impl Fn(Step) -> bool) -> Row {
    let sum = |laps: &Vec<Lap>| laps.iter().filter(|lap| is_wanted(lap.step)).map(|lap| lap.ns).sum::<u64>();
    let milliseconds = |laps| sum(laps) as f64 / 1e6;
    Row {
        scenario: scenario.to_owned(),
        what: what.to_owned(),
        at: BTreeMap::new(),
        unit: Unit::Ms,
        better: Better::Less,
        results: [(FLOOR.to_owned(), Sample::new(rounds.iter().map(milliseconds).collect()))].into(),
    }
}

/// Markdown.
pub(super) fn table(rows: &Rows) -> String {
    let mut text = "| ms | min | p50 | p90 | p99 |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for row in rows.calls.iter().chain(&rows.steps) {
        for Sample { quantiles, .. } in row.results.values() {
            let (name, bold) = (&row.what, if row.scenario == CALLS { "**" } else { "" });
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "| {bold}{name}{bold} | {:.3} | {:.3} | {:.3} | {:.3} |",
                quantiles.min, quantiles.p50, quantiles.p90, quantiles.p99
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(rows: &Rows, what: &str) -> Vec<f64> {
        let row = rows.calls.iter().chain(&rows.steps).find(|row| row.what == what).unwrap();
        row.results[FLOOR].values.clone()
    }

    #[test]
    fn calls_are_the_sums_of_their_steps_in_each_round() {
        // 1 ms for the first step, 2 ms for the second …, and ten times that in the second round.
        let round = |factor: u64| -> Vec<Lap> {
            let ns = |index: usize| (index as u64 + 1) * factor * 1_000_000;
            Step::ALL.iter().enumerate().map(|(index, step)| Lap { step: *step, ns: ns(index) }).collect()
        };
        let rows = of(&[round(1), round(10)]);
        assert_eq!(value(&rows, "RunPodSandbox"), [21.0, 210.0]);
        assert_eq!(value(&rows, "CreateContainer"), [99.0, 990.0]);
        assert_eq!(value(&rows, "StartContainer"), [16.0, 160.0]);
        assert_eq!(value(&rows, "pod start"), [136.0, 1360.0]);
        assert_eq!(value(&rows, "mount the overlay"), [11.0, 110.0]);
        assert_eq!(value(&rows, "stop + remove"), [123.0, 1230.0]);
        // Every step is in one of the calls, and no call is forgotten.
        let wholes = ["pod start", "ExecSync", "stop + remove"];
        let all: f64 = wholes.iter().map(|whole| value(&rows, whole)[0]).sum();
        assert_eq!(all, round(1).iter().map(|lap| lap.ns as f64 / 1e6).sum::<f64>());
        let table = table(&rows);
        assert!(table.contains("| **pod start** | 136.000 | 136.000 | 1360.000 | 1360.000 |\n"), "{table}");
        assert_eq!(table.lines().count(), 2 + rows.calls.len() + rows.steps.len());
    }
}
