//! RemovePodSandbox: the sandbox goes with all its containers, by force. An unknown sandbox is gone already.

use berth_cri_proto::v1::{RemovePodSandboxRequest, RemovePodSandboxResponse};

use crate::call::record_pod;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: RemovePodSandboxRequest,
) -> Result<RemovePodSandboxResponse, Failure> {
    let id = request.pod_sandbox_id;
    record_pod(&id);
    edge.pods.remove_sandbox(&id).await?;
    Ok(RemovePodSandboxResponse {})
}
