//! What listeners hear, and that it agrees with what a status says.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::requests::shell;
use berth_e2e::{EventStream, Node};

/// Longer than any event takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn kind(event: &ContainerEventResponse) -> ContainerEventType {
    event.container_event_type()
}

/// The events up to the deletion of `last`.
fn heard_until_gone(events: &mut EventStream, last: &str) -> Vec<ContainerEventResponse> {
    let mut heard = Vec::new();
    loop {
        heard.push(events.next(PATIENCE).expect("an event"));
        let event = &heard[heard.len() - 1];
        if event.container_id == last && kind(event) == ContainerEventType::ContainerDeletedEvent {
            return heard;
        }
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn all_listeners_hear_all_in_one_order_with_statuses_of_that_moment() {
    let node = Node::start();
    let mut listeners = [node.cri().into_events(), node.cri().into_events()];
    let pods: Vec<_> = (0..3).map(|number| node.pod(&format!("flood-{number}"))).collect();
    thread::scope(|scope| {
        for pod in &pods {
            let node = &node;
            scope.spawn(move || {
                for number in 0..8 {
                    let id = pod.start(shell(&format!("short-{number}"), "exit 3"));
                    pod.end_of(&id);
                    node.cri().remove_container(RemoveContainerRequest { container_id: id }).unwrap();
                }
            });
        }
    });
    let marker = node.pod("marker");
    marker.take_down();
    let heard = listeners.each_mut().map(|listener| heard_until_gone(listener, &marker.id));
    assert!(heard[0] == heard[1], "both heard the same");
    assert_eq!(heard[0].len(), 4 * 8 * 3 + 2 * 3 + 4);

    let mut by_id: BTreeMap<&str, Vec<ContainerEventType>> = BTreeMap::new();
    let mut last_ns = 0;
    for event in &heard[0] {
        assert!(event.created_at > last_ns, "{event:?}");
        last_ns = event.created_at;
        by_id.entry(&event.container_id).or_default().push(kind(event));
        let status = event.containers_statuses.iter().find(|status| status.id == event.container_id);
        let state = status.map(ContainerStatus::state);
        let is_pod = pods.iter().chain([&marker]).any(|pod| pod.id == event.container_id);
        let want = match kind(event) {
            ContainerEventType::ContainerCreatedEvent => Some(ContainerState::ContainerCreated),
            ContainerEventType::ContainerStartedEvent => Some(ContainerState::ContainerRunning),
            ContainerEventType::ContainerStoppedEvent => Some(ContainerState::ContainerExited),
            ContainerEventType::ContainerDeletedEvent => None,
        };
        assert_eq!(state, want.filter(|_| !is_pod), "{event:?}");
        let pod_is_gone = is_pod && kind(event) == ContainerEventType::ContainerDeletedEvent;
        assert_eq!(event.pod_sandbox_status.is_none(), pod_is_gone, "{event:?}");
    }
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
        ContainerStoppedEvent as Stopped,
    };
    for (id, kinds) in by_id {
        let is_live_pod = pods.iter().any(|pod| pod.id == id);
        let whole: &[_] = &[Created, Started, Stopped, Deleted];
        assert_eq!(kinds, if is_live_pod { &whole[..2] } else { whole }, "{id}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_process_that_comes_back_hears_what_it_missed() {
    let node = Node::start();
    let mut listener = node.cri().into_events();
    let pod = node.pod("missed");
    for _ in 0..2 {
        assert_eq!(listener.next(PATIENCE).expect("an event").container_id, pod.id);
    }
    drop(listener);
    let id = pod.create(shell("main", "true"));
    let mut listener = node.cri().into_events();
    let event = listener.next(PATIENCE).expect("an event");
    assert_eq!(
        (event.container_id.as_str(), kind(&event)),
        (&*id, ContainerEventType::ContainerCreatedEvent)
    );
    assert_eq!(listener.next(Duration::from_millis(300)), None);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_status_has_the_containers_and_a_time_that_fits_the_events() {
    let node = Node::start();
    let status = |id: &str| {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        node.cri().pod_sandbox_status(request).unwrap()
    };
    let mut listener = node.cri().into_events();
    let pod = node.pod("status");
    let empty = status(&pod.id);
    assert!(empty.timestamp > 0 && empty.containers_statuses.is_empty(), "{empty:?}");
    let [first, second] = ["first", "second"].map(|name| pod.shell(name, "exec sleep 1000"));
    pod.stop(&first, 0);

    let now = status(&pod.id);
    let told: Vec<_> = now.containers_statuses.iter().map(|one| (one.id.as_str(), one.state())).collect();
    let want = [(&*first, ContainerState::ContainerExited), (&*second, ContainerState::ContainerRunning)];
    assert_eq!(told, want);
    assert!(now.timestamp > empty.timestamp);
    while let Some(event) = listener.next(Duration::from_millis(300)) {
        assert!(event.created_at < now.timestamp, "{event:?}");
    }
    pod.stop(&second, 0);
    let event = listener.next(PATIENCE).expect("an event");
    assert!(event.created_at > now.timestamp && event.created_at < status(&pod.id).timestamp);
}
