//! ContainerStats: what one container uses now. One that does not run uses nothing, which is an error here and
//! absence in lists.

use berth_cri_proto::v1::{ContainerStatsRequest, ContainerStatsResponse};
use berth_store::ErrorKind;

use crate::call::record_container;
use crate::convert::stats::container_stats_of;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: ContainerStatsRequest,
) -> Result<ContainerStatsResponse, Failure> {
    record_container(&request.container_id);
    let id = edge.pods.snapshot().container(&request.container_id)?.id.clone();
    let wanted = id.clone();
    let usage = edge.pods.container_usage(move |container| container.id == wanted).await?.pop();
    let not_running = || Failure::new(ErrorKind::WrongState, format!("container {id} is not running"));
    let usage = usage.ok_or_else(not_running)?;
    Ok(ContainerStatsResponse { stats: Some(container_stats_of(&usage, &edge.filesystems)) })
}
