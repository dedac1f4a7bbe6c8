//! ListPodSandboxMetrics and its twin StreamPodSandboxMetrics: all metrics of all ready pods and running containers.

use berth_cri_proto::v1::{
    ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, StreamPodSandboxMetricsRequest,
    StreamPodSandboxMetricsResponse,
};

use crate::answers::{Answers, in_parts};
use crate::metrics::metrics_of;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    _request: ListPodSandboxMetricsRequest,
) -> Result<ListPodSandboxMetricsResponse, Failure> {
    Ok(ListPodSandboxMetricsResponse { pod_metrics: metrics_of(&edge.pods.details().await?) })
}

pub(crate) async fn stream(
    edge: &Edge,
    _request: StreamPodSandboxMetricsRequest,
) -> Result<Answers<StreamPodSandboxMetricsResponse>, Failure> {
    let metrics = metrics_of(&edge.pods.details().await?);
    Ok(in_parts(metrics, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics }))
}
