//! ListContainerStats and its twin StreamContainerStats: what running containers use now, the oldest first.

use berth_cri_proto::v1::{
    ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, ListContainerStatsResponse,
    StreamContainerStatsRequest, StreamContainerStatsResponse,
};

use crate::answers::{Answers, in_parts};
use crate::convert::stats::container_stats_of;
use crate::{Edge, Failure, filter};

pub(crate) async fn handle(
    edge: &Edge,
    request: ListContainerStatsRequest,
) -> Result<ListContainerStatsResponse, Failure> {
    Ok(ListContainerStatsResponse { stats: stats(edge, request.filter).await? })
}

pub(crate) async fn stream(
    edge: &Edge,
    request: StreamContainerStatsRequest,
) -> Result<Answers<StreamContainerStatsResponse>, Failure> {
    let stats = stats(edge, request.filter).await?;
    Ok(in_parts(stats, |container_stats| StreamContainerStatsResponse { container_stats }))
}

async fn stats(edge: &Edge, filter: Option<ContainerStatsFilter>) -> Result<Vec<ContainerStats>, Failure> {
    let ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter.unwrap_or_default();
    let wanted = filter::containers(&edge.pods.snapshot(), id, pod_sandbox_id, label_selector);
    let mut usages = edge.pods.container_usage(wanted).await?;
    usages.sort_by_key(|usage| usage.container.created_at_ns);
    Ok(usages.iter().map(|usage| container_stats_of(usage, &edge.filesystems)).collect())
}
