//! RunPodSandbox: a ready sandbox, or nothing. The work is the pod's driver's; here it is only waited for.

use berth_cri_proto::v1::{RunPodSandboxRequest, RunPodSandboxResponse};

use crate::call::record_pod;
use crate::convert::sandbox::sandbox_spec_from;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: RunPodSandboxRequest,
) -> Result<RunPodSandboxResponse, Failure> {
    let spec = sandbox_spec_from(request.config, request.runtime_handler)?;
    let id = edge.pods.run_sandbox(spec).await?;
    record_pod(id.as_str());
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.into() })
}
