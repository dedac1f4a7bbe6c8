//! PodSandboxStatus: one sandbox, from the snapshot.
//!
//! The containers' statuses are left out together with the timestamp: half of the two would mislead clients that live
//! from events, which get both with each event.

use std::collections::HashMap;

use berth_cri_proto::v1::{PodSandboxStatusRequest, PodSandboxStatusResponse};

use crate::call::record_pod;
use crate::convert::pod_status::{sandbox_info_of, sandbox_status_of};
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: PodSandboxStatusRequest,
) -> Result<PodSandboxStatusResponse, Failure> {
    let id = request.pod_sandbox_id;
    record_pod(&id);
    let snapshot = edge.pods.snapshot();
    let pod = snapshot.pod(&id)?;
    let info = if request.verbose { sandbox_info_of(pod) } else { HashMap::new() };
    Ok(PodSandboxStatusResponse { status: Some(sandbox_status_of(pod)), info, ..Default::default() })
}
