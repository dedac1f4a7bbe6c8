//! Values as a scenario takes them, one by one, on their way into rows.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Better, Row, Sample, Unit};

/// What one scenario has found so far.
#[derive(Debug)]
pub(crate) struct Findings {
    scenario: &'static str,
    at: BTreeMap<String, u64>,
    /// In the order in which they first came.
    found: Vec<(Key, BTreeMap<String, Vec<f64>>)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Key {
    what: String,
    at: BTreeMap<String, u64>,
    unit: Unit,
    better: Better,
}

impl Findings {
    /// None yet.
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self { scenario, at: BTreeMap::new(), found: Vec::new() }
    }

    /// What is noted from now on was found under these circumstances.
    pub(crate) fn at<const N: usize>(&mut self, circumstances: [(&str, usize); N]) {
        self.at = circumstances.into_iter().map(|(name, value)| (name.to_owned(), value as u64)).collect();
    }

    /// Notes how long something took.
    pub(crate) fn time(&mut self, peer: &str, what: &str, time: Duration) {
        self.note(peer, what, Unit::Ms, time.as_secs_f64() * 1e3);
    }

    /// Notes a value; of rates, the larger ones are the better ones.
    pub(crate) fn note(&mut self, peer: &str, what: &str, unit: Unit, value: f64) {
        let better = match unit {
            Unit::MibPerSecond | Unit::PerSecond => Better::More,
            Unit::Ms | Unit::CpuMs | Unit::Kib | Unit::CpuSecondsPerGib | Unit::CpuPercent | Unit::Count => {
                Better::Less
            }
        };
        let key = Key { what: what.to_owned(), at: self.at.clone(), unit, better };
        let index = self.found.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.found.push((key, BTreeMap::new()));
            self.found.len() - 1
        });
        self.found[index].1.entry(peer.to_owned()).or_default().push(value);
    }

    /// Notes every value of a row that was found elsewhere.
    pub(crate) fn add(&mut self, row: &Row) {
        for (peer, sample) in &row.results {
            sample.values.iter().for_each(|value| self.note(peer, &row.what, row.unit, *value));
        }
    }

    /// All that was found.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        let rows = self.found.into_iter().map(|(key, results)| Row {
            scenario: self.scenario.to_owned(),
            what: key.what,
            at: key.at,
            unit: key.unit,
            better: key.better,
            results: results.into_iter().map(|(peer, values)| (peer, Sample::new(values))).collect(),
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_one_kind_become_one_row() {
        let mut findings = Findings::new("scenario");
        for (peer, ms) in [("berth", 1), ("other", 20), ("berth", 3)] {
            findings.time(peer, "call", Duration::from_millis(ms));
        }
        findings.at([("pods", 10)]);
        findings.time("berth", "call", Duration::from_millis(5));
        let rows = findings.into_rows();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].results["berth"].values, [1.0, 3.0]);
        assert_eq!(rows[0].results["other"].values, [20.0]);
        assert_eq!((rows[1].at["pods"], &rows[1].results["berth"].values[..]), (10, &[5.0][..]));
    }
}
