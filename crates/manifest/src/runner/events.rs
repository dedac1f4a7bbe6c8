//! Wakes whoever waits for a container to end.
//!
//! One task reads the runtime's event stream and counts: an end of a container, and also every time that the stream was
//! opened, since events may have been missed before. A waiter looks at the state of its container first and then waits
//! for the count to change, so nothing depends on seeing a particular event, and a runtime that restarts is followed
//! again by itself.
//!
//! The task ends with the last [`Events`]. A runtime without an event stream is told to the waiters as an error.

use std::{sync::Arc, time::Duration};

use berth_cri_proto::v1::{ContainerEventType, ContainerState};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status};

use super::{RunError, calls::Cri};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A runtime's events; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    seen: watch::Receiver<Seen>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    count: u64,
    /// The runtime has no events.
    refused: Option<Arc<Status>>,
}

impl Events {
    /// Starts to follow the events of `cri`.
    pub(crate) fn follow(cri: Cri) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        tokio::spawn(read_events(cri, sender));
        Self { seen }
    }

    /// Waits until container `id` has ended; its exit code. Safe to drop at any time.
    pub(crate) async fn wait_exit(&self, cri: &Cri, id: &str, name: &str) -> Result<i32, RunError> {
        let mut seen = self.seen.clone();
        loop {
            if let Some(status) = &seen.borrow_and_update().refused {
                return Err(RunError::Events { source: Box::new(Status::clone(status)) });
            }
            let status = cri.container_status(id, name).await?;
            if let Some(status) = status.filter(|status| status.state() == ContainerState::ContainerExited) {
                return Ok(status.exit_code);
            }
            if seen.changed().await.is_err() {
                return Err(RunError::Lost { container: name.to_owned() });
            }
        }
    }
}

async fn read_events(cri: Cri, seen: watch::Sender<Seen>) {
    let count = || seen.send_modify(|seen| seen.count += 1);
    let mut retry = FIRST_RETRY;
    loop {
        let opened = tokio::select! {
            opened = cri.events() => opened,
            () = seen.closed() => return,
        };
        match opened {
            Ok(mut stream) => {
                count();
                let mut ended = false;
                while !ended {
                    let message = tokio::select! {
                        message = stream.message() => message,
                        () = seen.closed() => return,
                    };
                    match message {
                        Ok(Some(event)) => {
                            retry = FIRST_RETRY;
                            if matters(event.container_event_type()) {
                                count();
                            }
                        }
                        Ok(None) | Err(_) => ended = true,
                    }
                }
            }
            Err(status) if status.code() == Code::Unimplemented => {
                seen.send_modify(|seen| seen.refused = Some(Arc::new(status)));
                return;
            }
            Err(_) => {}
        }
        if timeout_at(Instant::now() + retry, seen.closed()).await.is_ok() {
            return;
        }
        retry = (retry * 2).min(LONGEST_RETRY);
    }
}

fn matters(event: ContainerEventType) -> bool {
    match event {
        ContainerEventType::ContainerStoppedEvent | ContainerEventType::ContainerDeletedEvent => true,
        ContainerEventType::ContainerCreatedEvent | ContainerEventType::ContainerStartedEvent => false,
    }
}
