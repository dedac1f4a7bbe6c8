//! StopContainer: the stop signal, the grace period, then the kill. A stopped or unknown container is stopped already.

use std::time::Duration;

use berth_cri_proto::v1::{StopContainerRequest, StopContainerResponse};

use crate::call::record_container;
use crate::convert::check;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: StopContainerRequest,
) -> Result<StopContainerResponse, Failure> {
    let id = request.container_id;
    let grace = Duration::from_secs(check::seconds("timeout", request.timeout)?);
    record_container(&id);
    edge.pods.stop_container(&id, grace).await?;
    Ok(StopContainerResponse {})
}
