//! GetContainerEvents: what happens from now on, each event with its pod as it was then.
//!
//! A client that falls too far behind is told how everything stands, as events, and follows on from there. The same
//! process that hangs up and comes back soon hears what it missed, in place of "from now on": the socket tells who it
//! is. The streams end when the agent stops, which could otherwise wait for them forever.

use std::collections::VecDeque;

use berth_cri_proto::v1::{ContainerEventResponse, ContainerEventType};
use berth_pod::events::{EventKind, Events, Heard, ListenerId, PodEvent};
use berth_store::ErrorKind;
use futures_util::StreamExt;
use futures_util::stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Extensions, Status};

use crate::answers::Answers;
use crate::convert::container_status::container_statuses_of;
use crate::convert::pod_status::sandbox_status_of;
use crate::{Edge, Failure};

/// The process with the id `pid` asks, as far as the connection tells.
pub(crate) async fn handle(
    edge: &Edge,
    pid: Option<i32>,
) -> Result<Answers<ContainerEventResponse>, Failure> {
    let known = |pid| tokio::task::spawn_blocking(move || ListenerId::of(pid));
    let who = match pid {
        Some(pid) => known(pid).await.ok().flatten(),
        None => None,
    };
    let listening = Listening {
        events: edge.pods.subscribe(who),
        ahead: VecDeque::new(),
        stopping: edge.stopping.clone(),
    };
    Ok(stream::unfold(Some(listening), |listening| async { next(listening?).await }).boxed())
}

/// The process at the other end of the connection that a request came over.
pub(crate) fn process_of(extensions: &Extensions) -> Option<i32> {
    extensions.get::<UdsConnectInfo>()?.peer_cred?.pid()
}

struct Listening {
    events: Events,
    /// What is to be told before anything else is heard.
    ahead: VecDeque<PodEvent>,
    stopping: CancellationToken,
}

type Next = Option<(Result<ContainerEventResponse, Status>, Option<Listening>)>;

async fn next(mut listening: Listening) -> Next {
    loop {
        if let Some(event) = listening.ahead.pop_front() {
            return Some((Ok(event_of(&event)), Some(listening)));
        }
        let stopping = listening.stopping.clone();
        match stopping.run_until_cancelled_owned(listening.events.next()).await? {
            Heard::Event(event) => listening.ahead.push_back(event),
            Heard::Resync(state) => {
                tracing::warn!(events = state.len(), "listener overtaken; it is told how things stand");
                listening.ahead.extend(state);
            }
            Heard::Lost => {
                let text = "too many events missed: read the state anew, then follow again";
                return Some((Err(Failure::new(ErrorKind::Exhausted, text).into()), None));
            }
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
    let pod = event.pod.as_deref();
    ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at_ns,
        pod_sandbox_status: pod.map(sandbox_status_of),
        containers_statuses: pod.map(container_statuses_of).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::convert::testing::pod_view;

    #[test]
    fn what_is_gone_has_no_status() {
        let check = |pod: Option<_>, has_status: bool| {
            let event = PodEvent { id: "c".to_owned(), kind: EventKind::Deleted, at_ns: 7, pod };
            let told = event_of(&event);
            assert_eq!((told.created_at, told.pod_sandbox_status.is_some()), (7, has_status));
        };
        check(Some(Arc::new(pod_view())), true);
        check(None, false);
    }
}
