//! ListImages and its twin StreamImages: one entry for each image, with all of its names.

use berth_cri_proto::v1::{
    Image, ImageFilter, ListImagesRequest, ListImagesResponse, StreamImagesRequest, StreamImagesResponse,
};

use crate::answers::{Answers, in_parts};
use crate::convert::image::image_of;
use crate::{Edge, Failure};

pub(crate) async fn handle(edge: &Edge, request: ListImagesRequest) -> Result<ListImagesResponse, Failure> {
    Ok(ListImagesResponse { images: images(edge, request.filter)? })
}

pub(crate) async fn stream(
    edge: &Edge,
    request: StreamImagesRequest,
) -> Result<Answers<StreamImagesResponse>, Failure> {
    Ok(in_parts(images(edge, request.filter)?, |images| StreamImagesResponse { images }))
}

fn images(edge: &Edge, filter: Option<ImageFilter>) -> Result<Vec<Image>, Failure> {
    let wanted = filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
    let found = match wanted.as_str() {
        "" => edge.images.list(),
        wanted => edge.images.find(wanted)?.into_iter().collect(),
    };
    Ok(found.iter().map(|image| Image { pinned: edge.images.is_kept(image), ..image_of(image) }).collect())
}
