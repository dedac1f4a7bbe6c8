//! What filters of lists have in common: ids, which may be the beginning of one, and labels. All conditions must hold.

use std::collections::{BTreeMap, HashMap};

use berth_pod::view::{ContainerView, PodView, Snapshot};

/// Which containers a filter lets through, apart from their state; empty texts and selectors ask for nothing.
pub(crate) fn containers(
    snapshot: &Snapshot,
    id: String,
    pod: String,
    labels: HashMap<String, String>,
) -> impl Fn(&ContainerView) -> bool + Send + 'static {
    // The beginning of an id that fits several names none.
    let only = snapshot.container(&id).ok().map(|container| container.id.clone());
    let only_pod = snapshot.pod(&pod).ok().map(|pod| pod.id.clone());
    move |container| {
        (id.is_empty() || Some(&container.id) == only.as_ref())
            && (pod.is_empty() || Some(&container.pod) == only_pod.as_ref())
            && has_labels(&container.spec.labels, &labels)
    }
}

/// Which pods a filter lets through, apart from their state.
pub(crate) fn pods(
    snapshot: &Snapshot,
    id: String,
    labels: HashMap<String, String>,
) -> impl Fn(&PodView) -> bool + Send + 'static {
    let only = snapshot.pod(&id).ok().map(|pod| pod.id.clone());
    move |pod| (id.is_empty() || Some(&pod.id) == only.as_ref()) && has_labels(&pod.spec.labels, &labels)
}

fn has_labels(labels: &BTreeMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
