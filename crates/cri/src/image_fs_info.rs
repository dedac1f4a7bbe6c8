//! ImageFsInfo: what images and writable layers take of their disks, each by its own accounts: the image store's, and
//! what the last walks over the layers have found. Nothing is measured here.

use berth_cri_proto::v1::ImageFsInfoResponse;
use berth_pod::clock;

use crate::Edge;

pub(crate) fn handle(edge: &Edge) -> ImageFsInfoResponse {
    let images = edge.images.fs_info().used;
    let layers = edge.pods.layers_usage();
    ImageFsInfoResponse {
        image_filesystems: vec![edge.filesystems.usage_of_images(clock::now_ns(), images)],
        container_filesystems: vec![edge.filesystems.usage_of_layers(layers.at_ns, layers.layer)],
    }
}
