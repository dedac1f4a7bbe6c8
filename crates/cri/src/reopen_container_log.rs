//! ReopenContainerLog: the client has moved the log away; what comes from now on goes to a new file.

use berth_cri_proto::v1::{ReopenContainerLogRequest, ReopenContainerLogResponse};

use crate::call::record_container;
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: ReopenContainerLogRequest,
) -> Result<ReopenContainerLogResponse, Failure> {
    let id = request.container_id;
    record_container(&id);
    edge.pods.reopen_log(&id).await?;
    Ok(ReopenContainerLogResponse {})
}
