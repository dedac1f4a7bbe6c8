//! ListPodSandboxStats and its twin StreamPodSandboxStats: what ready pods use now, the oldest first.

use berth_cri_proto::v1::{
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStats, PodSandboxStatsFilter,
    StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse,
};

use crate::answers::{Answers, in_parts};
use crate::convert::stats::pod_stats_of;
use crate::{Edge, Failure, filter};

pub(crate) async fn handle(
    edge: &Edge,
    request: ListPodSandboxStatsRequest,
) -> Result<ListPodSandboxStatsResponse, Failure> {
    Ok(ListPodSandboxStatsResponse { stats: stats(edge, request.filter).await? })
}

pub(crate) async fn stream(
    edge: &Edge,
    request: StreamPodSandboxStatsRequest,
) -> Result<Answers<StreamPodSandboxStatsResponse>, Failure> {
    let stats = stats(edge, request.filter).await?;
    Ok(in_parts(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
}

async fn stats(edge: &Edge, filter: Option<PodSandboxStatsFilter>) -> Result<Vec<PodSandboxStats>, Failure> {
    let PodSandboxStatsFilter { id, label_selector } = filter.unwrap_or_default();
    let wanted = filter::pods(&edge.pods.snapshot(), id, label_selector);
    let mut usages = edge.pods.pod_usage(wanted).await?;
    usages.sort_by_key(|usage| usage.pod.created_at_ns);
    Ok(usages.iter().map(|usage| pod_stats_of(usage, &edge.filesystems)).collect())
}
