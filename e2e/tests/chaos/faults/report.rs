//! The table that says what was tried and what came of it.

use std::fmt;

use crate::tally::Tally;

/// One step broken in one way.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) point: String,
    pub(crate) action: &'static str,
    /// Whether the pods had users of their own.
    pub(crate) own_users: bool,
    /// Calls that failed on the way.
    pub(crate) retries: usize,
    /// Times that the agent was started again.
    pub(crate) restarts: usize,
    /// Why this is no success.
    pub(crate) problems: Vec<String>,
    /// What has come or gone for good, each line beginning with `+` or `-` and the kind.
    pub(crate) leftovers: Vec<String>,
}

/// The first line of the table.
pub(crate) const HEAD: &str =
    "point                                         action users  retries  restarts  leftovers\n";

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { point, action, own_users, retries, restarts, problems, leftovers } = self;
        let users = if *own_users { "own" } else { "host" };
        writeln!(f, "{point:45} {action:6} {users:5} {retries:8} {restarts:9} {:10}", leftovers.len())?;
        problems.iter().chain(leftovers).try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// All of them in a line; `what` is what they are, in the plural.
pub(crate) fn tally(what: &'static str, trials: Vec<Trial>) -> Tally {
    let sum = |of: fn(&Trial) -> usize| trials.iter().map(of).sum();
    Tally {
        what,
        tried: trials.len(),
        survived: trials
            .iter()
            .filter(|trial| trial.problems.is_empty() && trial.leftovers.is_empty())
            .count(),
        retries: sum(|trial| trial.retries),
        restarts: sum(|trial| trial.restarts),
        remarks: String::new(),
        leftovers: trials.into_iter().flat_map(|trial| trial.leftovers).collect(),
    }
}
