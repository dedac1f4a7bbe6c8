//! ContainerStatus: one container, from the snapshot.

use std::collections::HashMap;

use berth_cri_proto::v1::{ContainerStatusRequest, ContainerStatusResponse};

use crate::call::record_container;
use crate::convert::container_status::{container_info_of, container_status_of};
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: ContainerStatusRequest,
) -> Result<ContainerStatusResponse, Failure> {
    let id = request.container_id;
    record_container(&id);
    let snapshot = edge.pods.snapshot();
    let container = snapshot.container(&id)?;
    let info = if request.verbose { container_info_of(container) } else { HashMap::new() };
    Ok(ContainerStatusResponse { status: Some(container_status_of(container)), info })
}
