//! RunPodSandbox: a ready sandbox, or nothing. The work is the pod's driver's; here it is only waited for.

use berth_cri_proto::v1::{RunPodSandboxRequest, RunPodSandboxResponse};

use crate::call::record_pod;
use crate::convert::sandbox::sandbox_spec_from;
use crate::convert::{Refusal, check};
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: RunPodSandboxRequest,
) -> Result<RunPodSandboxResponse, Failure> {
    let foreign: Vec<&str> = edge.pods.foreign_handlers().collect();
    check::runtime_handler("runtime_handler", &request.runtime_handler, &foreign)?;
    let spec = sandbox_spec_from(request.config, request.runtime_handler)?;
    if spec.user_namespace.is_some() && foreign.contains(&spec.runtime_handler.as_str()) {
        let field = "config.linux.security_context.namespace_options.userns_options with runtime_handler";
        return Err(Refusal::unimplemented(field, &spec.runtime_handler).into());
    }
    let id = edge.pods.run_sandbox(spec).await?;
    record_pod(id.as_str());
    Ok(RunPodSandboxResponse { pod_sandbox_id: id.into() })
}
