//! PodSandboxStats: what one pod uses now. One that is not ready uses nothing, which is an error here and absence in
//! lists.

use berth_cri_proto::v1::{PodSandboxStatsRequest, PodSandboxStatsResponse};
use berth_store::ErrorKind;

use crate::call::record_pod;
use crate::convert::stats::pod_stats_of;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: PodSandboxStatsRequest,
) -> Result<PodSandboxStatsResponse, Failure> {
    record_pod(&request.pod_sandbox_id);
    let id = edge.pods.snapshot().pod(&request.pod_sandbox_id)?.id.clone();
    let wanted = id.clone();
    let usage = edge.pods.pod_usage(move |pod| pod.id == wanted).await?.pop();
    let not_ready = || Failure::new(ErrorKind::WrongState, format!("pod sandbox {id} is not ready"));
    let usage = usage.ok_or_else(not_ready)?;
    Ok(PodSandboxStatsResponse { stats: Some(pod_stats_of(&usage, &edge.filesystems)) })
}
