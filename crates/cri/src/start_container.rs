//! StartContainer: the gate opens, once.

use berth_cri_proto::v1::{StartContainerRequest, StartContainerResponse};

use crate::call::record_container;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: StartContainerRequest,
) -> Result<StartContainerResponse, Failure> {
    let id = request.container_id;
    record_container(&id);
    edge.pods.start_container(&id).await?;
    Ok(StartContainerResponse {})
}
