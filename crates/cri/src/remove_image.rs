//! RemoveImage: the image goes with all its names, whichever is given. An unknown image is gone already.

use berth_cri_proto::v1::{RemoveImageRequest, RemoveImageResponse};

use crate::call::record_image;
use crate::convert::container::image_from;
use crate::{Edge, Failure};

pub(crate) async fn handle(edge: &Edge, request: RemoveImageRequest) -> Result<RemoveImageResponse, Failure> {
    let spec = image_from(request.image)?;
    record_image(&spec.image);
    edge.images.remove(&spec.image).await?;
    Ok(RemoveImageResponse {})
}
