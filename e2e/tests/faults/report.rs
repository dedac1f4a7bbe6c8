//! The table that says what was tried and what came of it.

use std::collections::BTreeMap;
use std::fmt;

/// One step broken in one way.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) point: String,
    pub(crate) action: String,
    /// Calls that failed on the way.
    pub(crate) retries: usize,
    /// Times that the agent was started again.
    pub(crate) restarts: usize,
    /// Why this is no success.
    pub(crate) problems: Vec<String>,
    /// What has come or gone for good, each line beginning with `+` or `-` and the kind.
    pub(crate) leftovers: Vec<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Trial>);

impl Report {
    pub(crate) fn add(&mut self, trial: Trial) {
        self.0.push(trial);
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.0.iter().all(|trial| trial.problems.is_empty() && trial.leftovers.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:44} {:6} {:>7} {:>8} {:>9}", "point", "action", "retries", "restarts", "leftovers")?;
        let mut kinds = BTreeMap::<&str, usize>::new();
        for Trial { point, action, retries, restarts, problems, leftovers } in &self.0 {
            writeln!(f, "{point:44} {action:6} {retries:7} {restarts:8} {:9}", leftovers.len())?;
            for line in problems.iter().chain(leftovers) {
                writeln!(f, "    {line}")?;
            }
            for kind in leftovers.iter().filter_map(|line| line.split(' ').nth(1)) {
                *kinds.entry(kind).or_default() += 1;
            }
        }
        let sum = |of: fn(&Trial) -> usize| self.0.iter().map(of).sum::<usize>();
        let survivors = self.0.iter().filter(|trial| trial.problems.is_empty()).count();
        let (retries, restarts) = (sum(|trial| trial.retries), sum(|trial| trial.restarts));
        write!(f, "{} trials, {survivors} survived, {retries} retries, {restarts} restarts, ", self.0.len())?;
        writeln!(f, "{} leftovers {kinds:?}", sum(|trial| trial.leftovers.len()))
    }
}
