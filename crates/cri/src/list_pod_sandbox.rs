//! ListPodSandbox and its twin StreamPodSandboxes: one snapshot, filtered, the oldest first.

use berth_cri_proto::v1::{
    ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox, PodSandboxFilter, PodSandboxState,
    StreamPodSandboxesRequest, StreamPodSandboxesResponse,
};
use berth_pod::view::{PodView, Snapshot};

use crate::answers::{Answers, in_parts};
use crate::convert::check;
use crate::convert::pod_status::{sandbox_of, state_of};
use crate::filter;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: ListPodSandboxRequest,
) -> Result<ListPodSandboxResponse, Failure> {
    Ok(ListPodSandboxResponse { items: sandboxes(&edge.pods.snapshot(), request.filter)? })
}

pub(crate) async fn stream(
    edge: &Edge,
    request: StreamPodSandboxesRequest,
) -> Result<Answers<StreamPodSandboxesResponse>, Failure> {
    let sandboxes = sandboxes(&edge.pods.snapshot(), request.filter)?;
    Ok(in_parts(sandboxes, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
}

fn sandboxes(snapshot: &Snapshot, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, Failure> {
    let filter = filter.unwrap_or_default();
    let state = match filter.state {
        Some(value) => Some(check::enumeration::<PodSandboxState>("filter.state.state", value.state)?),
        None => None,
    };
    let wanted = filter::pods(snapshot, filter.id, filter.label_selector);
    let matches = |pod: &PodView| state.is_none_or(|state| state == state_of(pod.state)) && wanted(pod);
    let mut found: Vec<_> =
        snapshot.pods.values().filter(|pod| matches(pod)).map(|pod| sandbox_of(pod)).collect();
    found.sort_by_key(|pod| pod.created_at);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use berth_cri_proto::v1::PodSandboxStateValue;
    use berth_monitor::id::PodId;
    use berth_pod::view::PodState;

    use super::*;
    use crate::convert::testing::pod_view;

    fn snapshot() -> Snapshot {
        let pod = |byte, created_at_ns, state, app: &str| {
            let mut spec = (*pod_view().spec).clone();
            spec.labels.insert("app".into(), app.into());
            let id = PodId::from_random([byte; 32]);
            (id.clone(), Arc::new(PodView { id, spec: spec.into(), created_at_ns, state, ..pod_view() }))
        };
        let pods = [
            pod(0xa1, 30, PodState::Ready, "web"),
            pod(0xa2, 20, PodState::NotReady, "web"),
            pod(0xb0, 10, PodState::Ready, "db"),
        ];
        Snapshot { pods: pods.into() }
    }

    fn check(filter: PodSandboxFilter, want: &[&str]) {
        let found = sandboxes(&snapshot(), Some(filter)).unwrap();
        let found: Vec<_> = found.iter().map(|pod| &pod.id[..2]).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn filters_are_anded_and_the_oldest_comes_first() {
        let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
        let labels = |app: &str| HashMap::from([("app".to_owned(), app.to_owned())]);
        let all = PodSandboxFilter::default;
        check(all(), &["b0", "a2", "a1"]);
        check(PodSandboxFilter { id: "b".into(), ..all() }, &["b0"]);
        check(PodSandboxFilter { id: "a".into(), ..all() }, &[]);
        check(PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..all() }, &["b0", "a1"]);
        check(PodSandboxFilter { label_selector: labels("web"), ..all() }, &["a2", "a1"]);
        let both = PodSandboxFilter {
            label_selector: labels("web"),
            state: state(PodSandboxState::SandboxReady),
            ..all()
        };
        check(both, &["a1"]);
    }
}
