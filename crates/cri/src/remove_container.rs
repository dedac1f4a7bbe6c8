//! RemoveContainer: the container goes, by force if it runs; its log stays. An unknown container is gone already.

use berth_cri_proto::v1::{RemoveContainerRequest, RemoveContainerResponse};

use crate::call::record_container;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: RemoveContainerRequest,
) -> Result<RemoveContainerResponse, Failure> {
    let id = request.container_id;
    record_container(&id);
    edge.pods.remove_container(&id).await?;
    Ok(RemoveContainerResponse {})
}
