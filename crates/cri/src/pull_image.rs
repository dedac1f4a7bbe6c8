//! PullImage: the image, from its registry or a mirror. Equal pulls under way are joined; a client that hangs up does
//! not stop one.

use berth_cri_proto::v1::{PullImageRequest, PullImageResponse};
use berth_image::PullRequest;
use berth_store::ErrorKind;

use crate::call::record_image;
use crate::convert::container::image_from;
use crate::convert::image::auth_from;
use crate::{Edge, Failure};

/// The word by which a kubelet tells a registry that is away from an image that is wrong.
/// Source: k8s.io/cri-api `pkg/errors`, `ErrRegistryUnavailable`.
const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";

pub(crate) async fn handle(edge: &Edge, request: PullImageRequest) -> Result<PullImageResponse, Failure> {
    let spec = image_from(request.image)?;
    record_image(&spec.image);
    let auth = auth_from(request.auth, &spec.image)?;
    let request = PullRequest { reference: spec.image, auth };
    match edge.images.pull(&request).await.map_err(Failure::from) {
        Ok(id) => Ok(PullImageResponse { image_ref: id.to_string() }),
        Err(failure) if failure.kind() == ErrorKind::Unavailable => Err(failure.headed(REGISTRY_UNAVAILABLE)),
        Err(failure) => Err(failure),
    }
}
