//! CreateContainer: a container at its gate, in a ready sandbox.

use berth_cri_proto::v1::{CreateContainerRequest, CreateContainerResponse};
use berth_image::Reference;

use crate::call::{record_container, record_image, record_pod};
use crate::convert::container::container_spec_from;
use crate::{Edge, Failure};

/// The word by which a kubelet knows that it was an image volume. Source: k8s.io/cri-api, pkg/errors.
const IMAGE_VOLUME_FAILED: &str = "ImageVolumeMountFailed";

pub(crate) async fn handle(
    edge: &Edge,
    request: CreateContainerRequest,
) -> Result<CreateContainerResponse, Failure> {
    let id = request.pod_sandbox_id;
    record_pod(&id);
    let snapshot = edge.pods.snapshot();
    let pod = snapshot.pod(&id)?;
    // The sandbox as it was made, and not the copy in the request, which is the same or a mistake.
    let spec = container_spec_from(request.config, &pod.spec)?;
    record_image(&spec.image);
    if edge.images.find(&spec.image)?.is_none() {
        // Nonsense is told apart from what is not here; the latter is the pod's to refuse.
        Reference::parse(&spec.image)?;
    }
    let created = edge.pods.create_container(pod.id.as_str(), spec).await;
    let container = created.map_err(|error| match error.is_about_image_volume() {
        true => Failure::from(error).headed(IMAGE_VOLUME_FAILED),
        false => error.into(),
    })?;
    record_container(container.as_str());
    Ok(CreateContainerResponse { container_id: container.into() })
}
