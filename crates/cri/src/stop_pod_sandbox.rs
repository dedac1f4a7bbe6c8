//! StopPodSandbox: everything in the sandbox ends, its network is given back. An unknown sandbox is stopped already.

use berth_cri_proto::v1::{StopPodSandboxRequest, StopPodSandboxResponse};

use crate::call::record_pod;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: StopPodSandboxRequest,
) -> Result<StopPodSandboxResponse, Failure> {
    let id = request.pod_sandbox_id;
    record_pod(&id);
    edge.pods.stop_sandbox(&id).await?;
    Ok(StopPodSandboxResponse {})
}
