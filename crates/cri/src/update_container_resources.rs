//! UpdateContainerResources: other limits for a container that was created or runs; what is zero or empty stays. All
//! are changed or none, and the status tells what has been applied. The score for the out-of-memory killer belongs to
//! processes and is not changed here, as with the peers; annotations say nothing to this runtime.

use berth_cri_proto::v1::{UpdateContainerResourcesRequest, UpdateContainerResourcesResponse};

use crate::call::record_container;
use crate::convert::{check, resources};
use crate::{Edge, Failure};

pub(crate) async fn handle(
    edge: &Edge,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse, Failure> {
    let id = request.container_id;
    record_container(&id);
    check::no_windows(&request.windows)?;
    let (change, _) = resources::limits_from(request.linux).map_err(|refusal| refusal.within("linux"))?;
    edge.pods.update_container(&id, change).await?;
    Ok(UpdateContainerResourcesResponse {})
}
