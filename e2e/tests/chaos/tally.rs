//! What a part of the tests came to, as a line of the table that `hack/chaos` prints.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

/// Set by `hack/chaos`: the file that the lines are added to, columns apart by tabs.
const TABLE: &str = "CHAOS_TABLE";
/// Set by `hack/chaos --long`.
const LONG: &str = "CHAOS_LONG";

/// How much to try: the first in a short pass, which fits between other tests; the second in a long one.
pub(crate) fn short_or_long<T>(short: T, long: T) -> T {
    if std::env::var_os(LONG).is_some() { long } else { short }
}

/// What was tried in one part, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// What a trial is, in the plural: "broken steps", "kills".
    pub(crate) what: &'static str,
    pub(crate) tried: usize,
    /// The trials after which all was as it should be.
    pub(crate) survived: usize,
    /// Calls that failed and were made again.
    pub(crate) retries: usize,
    /// Times that an agent was started again.
    pub(crate) restarts: usize,
    /// What came or went for good, as lines of [`berth_e2e::Snapshot::changes`].
    pub(crate) leftovers: Vec<String>,
    /// What else was measured.
    pub(crate) remarks: String,
}

impl Tally {
    /// Adds the line to the table, whatever it says: a part that fails is to be seen there too.
    pub(crate) fn enter(&self) {
        let Self { what, tried, survived, retries, restarts, leftovers, remarks } = self;
        let left = by_kind(leftovers);
        let line = format!("{what}\t{tried}\t{survived}\t{retries}\t{restarts}\t{left}\t{remarks}\n");
        print!("{line}");
        if let Some(path) = std::env::var_os(TABLE) {
            let mut table = File::options().append(true).create(true).open(path).unwrap();
            table.write_all(line.as_bytes()).unwrap();
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.tried == self.survived && self.leftovers.is_empty()
    }
}

/// "0", or "3: file 2, mount 1".
fn by_kind(leftovers: &[String]) -> String {
    let mut kinds = BTreeMap::<&str, usize>::new();
    for kind in leftovers.iter().filter_map(|line| line.split(' ').nth(1)) {
        *kinds.entry(kind).or_default() += 1;
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    if kinds.is_empty() { "0".into() } else { format!("{}: {}", leftovers.len(), kinds.join(", ")) }
}
