//! UpdatePodSandboxResources: told by a kubelet that has resized a pod's cgroup. There is nothing left to do to it; the
//! new figures are kept, and shown by the verbose status.

use berth_cri_proto::v1::{UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse};

use crate::call::record_pod;
use crate::convert::resources;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: UpdatePodSandboxResourcesRequest,
) -> Result<UpdatePodSandboxResourcesResponse, Failure> {
    let id = request.pod_sandbox_id;
    record_pod(&id);
    let resources = resources::pod_resources_from(request.overhead, request.resources)?;
    edge.pods.update_sandbox(&id, resources).await?;
    Ok(UpdatePodSandboxResourcesResponse {})
}
