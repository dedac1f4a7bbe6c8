//! What filters of lists have in common.

use std::collections::{BTreeMap, HashMap};

/// Whether all labels of a selector are there; an empty selector fits everything.
pub(crate) fn has_labels(labels: &BTreeMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
