//! GetContainerEvents: what happens from now on, each event with its pod as it was then.
//!
//! A client that falls too far behind is cut off with an error, so that it reads the state anew and follows again: no
//! event is dropped in silence. The streams end when the agent stops, which could otherwise wait for them forever.

use berth_cri_proto::v1::{ContainerEventResponse, ContainerEventType};
use berth_pod::events::{EventKind, Events, Heard, PodEvent};
use berth_store::ErrorKind;
use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::convert::container_status::container_statuses_of;
use crate::convert::pod_status::sandbox_status_of;
use crate::stream::Answers;
use crate::{Edge, Failure};

pub(crate) async fn handle(edge: &Edge) -> Result<Answers<ContainerEventResponse>, Failure> {
    let events = Some((edge.pods.subscribe(), edge.stopping.clone()));
    Ok(stream::unfold(events, |events| async { next(events?).await }).boxed())
}

type Listening = Option<(Events, CancellationToken)>;

async fn next(
    (mut events, stopping): (Events, CancellationToken),
) -> Option<(Result<ContainerEventResponse, Status>, Listening)> {
    let heard = stopping.clone().run_until_cancelled_owned(events.next()).await??;
    match heard {
        Heard::Event(event) => Some((Ok(event_of(&event)), Some((events, stopping)))),
        Heard::Missed(count) => {
            let text = format!("{count} events missed: read the state anew, then follow again");
            Some((Err(Failure::new(ErrorKind::Exhausted, text).into()), None))
        }
    }
}

fn event_of(event: &PodEvent) -> ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => ContainerEventType::ContainerDeletedEvent,
    };
    let is_gone = event.kind == EventKind::Deleted && event.id == event.pod.id.as_str();
    ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at_ns,
        pod_sandbox_status: (!is_gone).then(|| sandbox_status_of(&event.pod)),
        containers_statuses: container_statuses_of(&event.pod),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::convert::testing::pod_view;

    #[test]
    fn a_removed_sandbox_has_no_status() {
        let pod = Arc::new(pod_view());
        let check = |id: &str, kind, has_status: bool| {
            let event = PodEvent { id: id.to_owned(), kind, at_ns: 7, pod: pod.clone() };
            let told = event_of(&event);
            assert_eq!((told.created_at, told.pod_sandbox_status.is_some()), (7, has_status), "{kind:?}");
        };
        check(pod.id.as_str(), EventKind::Stopped, true);
        check(pod.id.as_str(), EventKind::Deleted, false);
        check("c", EventKind::Deleted, true);
    }
}
