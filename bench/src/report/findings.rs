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
    scenario: &'static str,
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

    /// What is noted from now on belongs to this scenario.
    pub(crate) fn of(&mut self, scenario: &'static str) {
        self.scenario = scenario;
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
            Unit::Ms
            | Unit::Us
            | Unit::CpuMs
            | Unit::CpuUs
            | Unit::Kib
            | Unit::CpuSecondsPerGib
            | Unit::CpuPercent
            | Unit::Count => Better::Less,
        };
        let key = Key { scenario: self.scenario, what: what.to_owned(), at: self.at.clone(), unit, better };
        let index = self.found.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            self.found.push((key, BTreeMap::new()));
            self.found.len() - 1
        });
        self.found[index].1.entry(peer.to_owned()).or_default().push(value);
    }

    /// Notes a value of another scenario.
    pub(crate) fn aside(&mut self, scenario: &'static str, peer: &str, what: &str, unit: Unit, value: f64) {
        let own = std::mem::replace(&mut self.scenario, scenario);
        self.note(peer, what, unit, value);
        self.scenario = own;
    }

    /// Notes every value of a row that was found elsewhere.
    pub(crate) fn add(&mut self, row: &Row) {
        for (peer, sample) in &row.results {
            sample.values.iter().for_each(|value| self.note(peer, &row.what, row.unit, *value));
        }
    }

    /// All that was found, that of each scenario together, and in it that of few before that of many.
    pub(crate) fn into_rows(mut self) -> Vec<Row> {
        let scenarios: Vec<_> = self.found.iter().map(|(key, _)| key.scenario).collect();
        let place = |key: &Key| scenarios.iter().position(|first| *first == key.scenario);
        self.found.sort_by(|(one, _), (other, _)| (place(one), &one.at).cmp(&(place(other), &other.at)));
        let rows = self.found.into_iter().map(|(key, results)| Row {
            scenario: key.scenario.to_owned(),
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

    #[test]
    fn rows_of_one_scenario_are_together_and_few_come_before_many() {
        let mut findings = Findings::new("one");
        for (scenario, pods) in [("one", 500), ("other", 10), ("one", 100)] {
            findings.of(scenario);
            findings.at([("pods", pods)]);
            findings.note("berth", "memory", Unit::Kib, 1.0);
        }
        findings.aside("other", "berth", "lists", Unit::Ms, 1.0);
        let rows = findings.into_rows();
        let found: Vec<_> = rows.iter().map(|row| (row.scenario.as_str(), row.at["pods"])).collect();
        assert_eq!(found, [("one", 100), ("one", 500), ("other", 10), ("other", 100)]);
    }
}
