//! What lies on the disk: an image of one layer for all pods, and the directories of one pod after the other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::image;

/// What a pod's containers share besides `/dev/shm`.
pub(super) const POD_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Where in a container's root the program is; it can be called `sleep` and `true`.
pub(super) const PROGRAM: &str = "bin/busybox";

/// For filesystems that hold neither programs nor devices.
pub(super) const HARDENED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The size that runtimes give it.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

/// The floor's directory.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// Makes the directory, with a layer of what is in the image and places to mount on.
    pub(super) fn make(directory: PathBuf, image: &Path) -> Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let place = Self(directory);
        place.fill(image).inspect_err(|_| drop(place.remove()))?;
        Ok(place)
    }

    fn fill(&self, image: &Path) -> Result<()> {
        let layer = self.layer();
        fs::create_dir(&layer)?;
        image::unpack(image, &layer)?;
        // An image has them mostly; what it lacks, a runtime makes.
        for directory in ["dev", "etc", "proc", "sys"] {
            fs::create_dir_all(layer.join(directory))?;
        }
        for file in POD_FILES {
            fs::write(layer.join("etc").join(file), "")?;
        }
        // Over it each container's root is assembled, in the container's own mounts.
        fs::create_dir(self.root())?;
        Ok(fs::create_dir(self.volatile())?)
    }

    /// Removes the directory; mounts in it have gone with the mount namespace that they were made in.
    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.0).with_context(|| format!("remove {}", self.0.display()))
    }

    pub(super) fn layer(&self) -> PathBuf {
        self.0.join("layer")
    }

    pub(super) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    pub(super) fn upper(&self) -> PathBuf {
        self.0.join("container/upper")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.0.join("container/work")
    }

    pub(super) fn pod_file(&self, name: &str) -> PathBuf {
        self.pod().join(name)
    }

    pub(super) fn shm(&self) -> PathBuf {
        self.pod().join("shm")
    }

    /// Mounts what stands for `/run`, in the mount namespace of this process: files of pods are in memory.
    pub(super) fn mount_volatile(&self) -> Result<()> {
        mount("run", self.volatile(), "tmpfs", HARDENED, c"mode=0755").context("mount a directory for pods")
    }

    /// The files of a pod, and its `/dev/shm` as a mount of its own.
    pub(super) fn make_pod(&self) -> Result<()> {
        fs::create_dir(self.pod())?;
        for name in POD_FILES {
            fs::write(self.pod_file(name), "127.0.0.1 localhost\n")?;
        }
        fs::create_dir(self.shm())?;
        mount("shm", self.shm(), "tmpfs", HARDENED, SHM_OPTIONS).context("mount the pod's /dev/shm")
    }

    /// The directories of a container: what takes its changes, and overlayfs's scratch.
    pub(super) fn make_container(&self) -> Result<()> {
        fs::create_dir(self.container())?;
        fs::create_dir(self.upper())?;
        Ok(fs::create_dir(self.work())?)
    }

    /// Unmounts the pod's `/dev/shm`.
    pub(super) fn unmount_shm(&self) -> Result<()> {
        unmount(self.shm(), UnmountFlags::empty()).context("unmount the pod's /dev/shm")
    }

    /// Removes what was made for a pod and its container.
    pub(super) fn remove_pod(&self) -> Result<()> {
        fs::remove_dir_all(self.pod())?;
        Ok(fs::remove_dir_all(self.container())?)
    }

    fn volatile(&self) -> PathBuf {
        self.0.join("run")
    }

    fn pod(&self) -> PathBuf {
        self.0.join("run/pod")
    }

    fn container(&self) -> PathBuf {
        self.0.join("container")
    }
}
