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

/// The first line of the table.
pub(crate) const HEAD: &str =
    "point                                         action  retries  restarts  leftovers\n";

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { point, action, retries, restarts, problems, leftovers } = self;
        writeln!(f, "{point:45} {action:6} {retries:8} {restarts:9} {:10}", leftovers.len())?;
        problems.iter().chain(leftovers).try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// The last line of the table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = BTreeMap::<&str, usize>::new();
        let leftovers = self.0.iter().flat_map(|trial| &trial.leftovers);
        for kind in leftovers.filter_map(|line| line.split(' ').nth(1)) {
            *kinds.entry(kind).or_default() += 1;
        }
        let sum = |of: fn(&Trial) -> usize| self.0.iter().map(of).sum::<usize>();
        let survivors = self.0.iter().filter(|trial| trial.problems.is_empty()).count();
        let (retries, restarts) = (sum(|trial| trial.retries), sum(|trial| trial.restarts));
        write!(f, "{} trials, {survivors} survived, {retries} retries, {restarts} restarts, ", self.0.len())?;
        writeln!(f, "{} leftovers {kinds:?}", sum(|trial| trial.leftovers.len()))
    }
}
