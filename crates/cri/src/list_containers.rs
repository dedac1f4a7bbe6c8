//! ListContainers and its twin StreamContainers: one snapshot, filtered, the oldest first.

use berth_cri_proto::v1::{
    Container, ContainerFilter, ContainerState, ListContainersRequest, ListContainersResponse,
    StreamContainersRequest, StreamContainersResponse,
};
use berth_pod::view::{ContainerView, Snapshot};

use crate::answers::{Answers, in_parts};
use crate::convert::check;
use crate::convert::container_status::{container_of, state_of};
use crate::filter;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: ListContainersRequest,
) -> Result<ListContainersResponse, Failure> {
    Ok(ListContainersResponse { containers: containers(&edge.pods.snapshot(), request.filter)? })
}

pub(crate) async fn stream(
    edge: &Edge,
    request: StreamContainersRequest,
) -> Result<Answers<StreamContainersResponse>, Failure> {
    let containers = containers(&edge.pods.snapshot(), request.filter)?;
    Ok(in_parts(containers, |containers| StreamContainersResponse { containers }))
}

fn containers(snapshot: &Snapshot, filter: Option<ContainerFilter>) -> Result<Vec<Container>, Failure> {
    let filter = filter.unwrap_or_default();
    let state = match filter.state {
        Some(value) => Some(check::enumeration::<ContainerState>("filter.state.state", value.state)?),
        None => None,
    };
    let wanted = filter::containers(snapshot, filter.id, filter.pod_sandbox_id, filter.label_selector);
    let matches = |container: &ContainerView| {
        state.is_none_or(|state| state == state_of(&container.state)) && wanted(container)
    };
    let found = snapshot.containers().filter(|container| matches(container));
    let mut found: Vec<_> = found.map(|container| container_of(container)).collect();
    found.sort_by_key(|container| container.created_at);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_cri_proto::v1::ContainerStateValue;
    use berth_monitor::id::{ContainerId, PodId};
    use berth_pod::view::PodView;

    use super::*;
    use crate::convert::testing::{container_view, pod_view};

    fn snapshot() -> Snapshot {
        let pod = |byte: u8, containers: &[u8]| {
            let pod = PodId::from_random([byte; 32]);
            let container = |byte: &u8| {
                let id = ContainerId::from_random([*byte; 32]);
                let created_at_ns = 1000 - i64::from(*byte);
                (
                    id.clone(),
                    Arc::new(ContainerView { id, pod: pod.clone(), created_at_ns, ..container_view() }),
                )
            };
            let containers = containers.iter().map(container).collect();
            (pod.clone(), Arc::new(PodView { id: pod.clone(), containers, ..pod_view() }))
        };
        Snapshot { pods: [pod(1, &[0xc1, 0xc2]), pod(2, &[0xd1])].into() }
    }

    fn check(filter: ContainerFilter, want: &[&str]) {
        let found = containers(&snapshot(), Some(filter)).unwrap();
        let found: Vec<_> = found.iter().map(|container| &container.id[..2]).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn filters_are_anded_and_the_oldest_comes_first() {
        let all = ContainerFilter::default;
        let state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
        check(all(), &["d1", "c2", "c1"]);
        check(ContainerFilter { id: "c1c".into(), ..all() }, &["c1"]);
        check(ContainerFilter { id: "c".into(), ..all() }, &[]);
        check(ContainerFilter { pod_sandbox_id: "01".into(), ..all() }, &["c2", "c1"]);
        check(ContainerFilter { pod_sandbox_id: "ff".into(), ..all() }, &[]);
        check(ContainerFilter { state: state(ContainerState::ContainerRunning), ..all() }, &[]);
        check(
            ContainerFilter { state: state(ContainerState::ContainerCreated), id: "d".into(), ..all() },
            &["d1"],
        );
    }

    #[test]
    fn a_state_that_does_not_exist_is_refused() {
        let filter =
            ContainerFilter { state: Some(ContainerStateValue { state: 9 }), ..ContainerFilter::default() };
        let failure = containers(&snapshot(), Some(filter)).unwrap_err();
        assert!(failure.to_string().starts_with("filter.state.state: 9 "), "{failure}");
    }
}
