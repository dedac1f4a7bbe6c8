//! PodSandboxStatus: one sandbox with all of its containers, from one snapshot.
//!
//! The timestamp can be compared with the times of events: it is taken before the snapshot, so that whatever an event
//! with an earlier time has told is in it.

use std::collections::HashMap;

use berth_cri_proto::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};
use berth_pod::clock;

use crate::call::record_pod;
use crate::convert::container_status::container_statuses_of;
use crate::convert::pod_status::{sandbox_info_of, sandbox_status_of};
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: PodSandboxStatusRequest,
) -> Result<PodSandboxStatusResponse, Failure> {
    let id = request.pod_sandbox_id;
    record_pod(&id);
    let timestamp = clock::monotone_ns();
    let snapshot = edge.pods.snapshot();
    let pod = snapshot.pod(&id)?;
    let info = if request.verbose { sandbox_info_of(pod) } else { HashMap::new() };
    Ok(PodSandboxStatusResponse {
        status: Some(sandbox_status_of(pod)),
        info,
        containers_statuses: container_statuses_of(pod),
        timestamp,
    })
}
