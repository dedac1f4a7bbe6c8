//! Where images and writable layers are, as clients are told.
//!
//! A kubelet takes images and layers to be on one filesystem if they have the same mount point, as text: where they
//! are, both get that of the images.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use berth_cri_proto::v1::{FilesystemIdentifier, FilesystemUsage, UInt64Value};
use berth_image::{DiskUsage, ImageStore};
use berth_pod::Pods;

/// Mount points; which they are does not change while the agent runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Filesystems {
    images: String,
    layers: String,
}

impl Filesystems {
    /// Looks at both directories, which exist.
    pub(crate) fn of(images: &ImageStore, pods: &Pods) -> Self {
        Self::of_directories(&images.fs_info().mountpoint, &pods.layers_directory())
    }

    fn of_directories(images: &Path, layers: &Path) -> Self {
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let are_one = device(images) == device(layers);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Self { images: text(images), layers: text(if are_one { images } else { layers }) }
    }

    /// What is used by images.
    pub(crate) fn usage_of_images(&self, at_ns: i64, used: DiskUsage) -> FilesystemUsage {
        usage(&self.images, at_ns, used)
    }

    /// What is used by writable layers.
    pub(crate) fn usage_of_layers(&self, at_ns: i64, used: DiskUsage) -> FilesystemUsage {
        usage(&self.layers, at_ns, used)
    }
}

fn usage(mountpoint: &str, timestamp: i64, used: DiskUsage) -> FilesystemUsage {
    FilesystemUsage {
        timestamp,
        fs_id: Some(FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
        used_bytes: Some(UInt64Value { value: used.bytes }),
        inodes_used: Some(UInt64Value { value: used.inodes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_filesystem_has_one_name() {
        let check = |images: &str, layers: &str, want: &str| {
            let found = Filesystems::of_directories(Path::new(images), Path::new(layers));
            assert_eq!(found, Filesystems { images: images.into(), layers: want.into() });
        };
        check("/proc/self", "/proc/1", "/proc/self");
        check("/proc/self", "/sys/kernel", "/sys/kernel");
    }
}
