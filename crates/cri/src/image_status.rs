//! ImageStatus: one image; an image that is not here is an empty answer, not an error.

use std::collections::HashMap;

use berth_cri_proto::v1::{Image, ImageStatusRequest, ImageStatusResponse};

use crate::call::record_image;
use crate::convert::container::image_from;
use crate::convert::image::{image_info_of, image_of};
use crate::{Edge, Failure};

pub(crate) async fn handle(edge: &Edge, request: ImageStatusRequest) -> Result<ImageStatusResponse, Failure> {
    let spec = image_from(request.image)?;
    record_image(&spec.image);
    let Some(image) = edge.images.find(&spec.image)? else {
        return Ok(ImageStatusResponse::default());
    };
    let info = match request.verbose {
        true => image_info_of(&image, &edge.images.config_json(&image).await?),
        false => HashMap::new(),
    };
    let told = Image { pinned: edge.images.is_kept(&image), ..image_of(&image) };
    Ok(ImageStatusResponse { image: Some(told), info })
}
