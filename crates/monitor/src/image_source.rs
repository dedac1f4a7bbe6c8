//! Images as volumes: layers put together, or one directory of them, as a mount that is attached nowhere yet.
//!
//! Runs with the host's rights in a private copy of the host's mounts; the staging directory is free for the time
//! being. The mount's access is that of the plan, which is never more than read-only.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags};
use rustix::mount::{OpenTreeFlags, UnmountFlags, unmount};

use crate::plan::{Mount, MountSource};
use crate::root_dir::RootDir;
use crate::rootfs::{self, Result, on};

/// Fills the places of images in `sources`, which are in the order of `mounts`.
pub(crate) fn open_images(mounts: &[Mount], sources: &mut [Option<OwnedFd>], staging: &Path) -> Result<()> {
    for (mount, source) in mounts.iter().zip(sources) {
        if let MountSource::Image { layers, sub_path } = &mount.source {
            *source = Some(open_image(layers, sub_path.as_deref(), staging)?);
        }
    }
    Ok(())
}

fn open_image(layers: &[PathBuf], sub_path: Option<&Path>, staging: &Path) -> Result<OwnedFd> {
    // Overlayfs does nothing for one layer, and takes no less than two.
    let root = match layers {
        [layer] => {
            let tree = on(layer, rootfs::clone_tree(CWD, layer, OpenTreeFlags::empty()))?;
            on(staging, rootfs::attach(tree.as_fd(), CWD, staging))?;
            RootDir::new(tree)
        }
        layers => rootfs::mount_layers(layers, None, staging, None)?,
    };
    let shown = sub_path.unwrap_or(Path::new("."));
    let shown_name = format!("directory {} of the image", shown.display());
    let tree = root
        .open(shown, OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|place| rootfs::clone_tree(place, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH));
    on(staging, unmount(staging, UnmountFlags::DETACH))?;
    on(shown_name, tree)
}
