//! ImageFsInfo: what the images use, from the store's own accounts. Writable layers are on the same filesystem, so
//! there is no second entry for them.

use berth_cri_proto::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse, UInt64Value};
use berth_pod::clock;

use crate::Edge;

pub(crate) fn handle(edge: &Edge) -> ImageFsInfoResponse {
    let usage = edge.images.fs_info();
    let mountpoint = usage.mountpoint.to_string_lossy().into_owned();
    let filesystem = FilesystemUsage {
        timestamp: clock::now_ns(),
        fs_id: Some(FilesystemIdentifier { mountpoint }),
        used_bytes: Some(UInt64Value { value: usage.used_bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes_used }),
    };
    ImageFsInfoResponse { image_filesystems: vec![filesystem], container_filesystems: Vec::new() }
}
