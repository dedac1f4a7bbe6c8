//! What a container is given of this host's devices: those that were asked for by path, one by one or a directory of
//! them, all of them for a privileged container, and those that were asked for by name ([`crate::cdi`]).
//!
//! The host's nodes are looked at once, when the container is made; one that appears later is not added. Blocks, on a
//! filesystem that may hang: under a stage's deadline, on a thread for such.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_cgroup::DeviceAccess;
use berth_container::plan::{AddedDevice, Additions};
use berth_container::spec::{ContainerSpec, DeviceSpec, SecuritySpec};
use berth_monitor::plan::{Device, DeviceKind, NameOrId};
use rustix::fs::{major, minor};

use crate::cdi;
use crate::error::Result;
use crate::host::{Host, blocking};

/// More nodes than a container has a use for.
const MAX_DEVICES: usize = 4096;

/// Entries of a directory of devices that are looked at: `/dev` has many links to each device of a large machine.
const MAX_ENTRIES: usize = 1 << 16;

/// Directories in `/dev` that hold no devices of the machine: terminals of this mount, shared memory, message queues.
const NO_DEVICES: [&str; 4] = ["pts", "shm", "fd", "mqueue"];

/// Why a device cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It does not exist, or can't be looked at.
    #[error("look at device {}", path.display())]
    Look {
        /// As asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of another kind.
    #[error("device {}: it is neither a device nor a directory of devices", path.display())]
    NoDevice {
        /// As asked for.
        path: PathBuf,
    },
    /// What a specification wants to be mounted does not exist.
    #[error("CDI mount of {}", path.display())]
    Mount {
        /// The path on the host.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A mount option of a specification.
    #[error("CDI mount of {}: option {option:?} is not known", path.display())]
    MountOption {
        /// The path on the host.
        path: PathBuf,
        /// As written.
        option: String,
    },
    /// A named device can't be had.
    #[error(transparent)]
    Cdi(#[from] berth_cdi::Error),
    /// With it there are too many.
    #[error("device {}: more than {MAX_DEVICES} devices for one container", path.display())]
    TooMany {
        /// As asked for.
        path: PathBuf,
    },
    /// A directory of so much that it can't be one of devices.
    #[error("device {}: more than {limit} files below it", path.display())]
    TooLarge {
        /// As asked for.
        path: PathBuf,
        /// How many there may be.
        limit: usize,
    },
}

/// How devices are given out on this node.
#[derive(Debug, Clone, Default)]
pub struct DeviceSettings {
    /// Directories of specifications, of which a later one wins.
    pub cdi_directories: Vec<PathBuf>,
    /// Whether devices belong to the user that the container asks for, instead of to their owner on the host.
    pub owned_by_container: bool,
}

/// The user that a container asks for, as far as it is a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

impl Owner {
    fn of(security: &SecuritySpec) -> Self {
        let uid = match &security.user {
            Some(NameOrId::Id(uid)) => Some(*uid),
            Some(NameOrId::Name(_)) | None => None,
        };
        Self { uid, gid: security.group }
    }
}

/// Finds everything that `spec` wants of this host.
///
/// # Errors
/// The device that is missing, or is none.
pub(crate) async fn find_additions(host: &Arc<Host>, spec: &ContainerSpec) -> Result<Additions> {
    let is_privileged = spec.security.privileged;
    if spec.devices.is_empty() && spec.cdi_devices.is_empty() && !is_privileged {
        return Ok(Additions::default());
    }
    let (requests, names) = (spec.devices.clone(), spec.cdi_devices.clone());
    let (owner, settings) = (Owner::of(&spec.security), host.settings.devices.clone());
    let given_to = if settings.owned_by_container { owner } else { Owner::default() };
    Ok(blocking(move || {
        let mut devices = if is_privileged { all_devices()? } else { Vec::new() };
        for request in &requests {
            let found = requested_devices(request)?;
            devices.extend(found.into_iter().map(|added| owned_by(added, given_to)));
            if devices.len() > MAX_DEVICES {
                return Err(DeviceError::TooMany { path: request.host_path.clone() });
            }
        }
        let mut additions = match names.is_empty() {
            true => Additions::default(),
            false => cdi::find(&settings.cdi_directories, &names, owner)?,
        };
        additions.devices.splice(..0, devices);
        Ok::<_, DeviceError>(additions)
    })
    .await??)
}

fn owned_by(mut added: AddedDevice, Owner { uid, gid }: Owner) -> AddedDevice {
    added.device.uid = uid.unwrap_or(added.device.uid);
    added.device.gid = gid.unwrap_or(added.device.gid);
    added
}

/// All of this host's devices, at their own paths. Left out is what a container has of its own: terminals and console.
fn all_devices() -> std::result::Result<Vec<AddedDevice>, DeviceError> {
    let dev = Path::new("/dev");
    let all = DeviceSpec { host_path: dev.into(), container_path: dev.into(), access: DeviceAccess::ALL };
    let mut devices = devices_below(dev, &all, MAX_ENTRIES)?;
    devices
        .retain(|added| !["/dev/console", "/dev/ptmx"].iter().any(|own| added.device.path == Path::new(own)));
    Ok(devices)
}

fn requested_devices(request: &DeviceSpec) -> std::result::Result<Vec<AddedDevice>, DeviceError> {
    let path = &request.host_path;
    let look = |source| DeviceError::Look { path: path.clone(), source };
    // The node that a link leads to is meant, and it is mounted by this path where it can't be made.
    let real = fs::canonicalize(path).map_err(look)?;
    let metadata = fs::symlink_metadata(&real).map_err(look)?;
    if metadata.is_dir() {
        return devices_below(&real, request, MAX_ENTRIES);
    }
    let device = device_of(&metadata, &real, &request.container_path);
    let device = device.ok_or_else(|| DeviceError::NoDevice { path: path.clone() })?;
    Ok(vec![AddedDevice { device, access: request.access }])
}

/// Every device below a directory, in the order of their paths; links and files of other kinds are left out, as are
/// those that go while we look.
fn devices_below(
    top: &Path,
    request: &DeviceSpec,
    limit: usize,
) -> std::result::Result<Vec<AddedDevice>, DeviceError> {
    let (mut devices, mut directories, mut seen) = (Vec::new(), vec![top.to_owned()], 0);
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > limit {
                return Err(DeviceError::TooLarge { path: request.host_path.clone(), limit });
            }
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            if metadata.is_dir() && !NO_DEVICES.iter().any(|name| entry.file_name() == *name) {
                directories.push(path);
            } else if let Ok(below) = path.strip_prefix(top)
                && let Some(device) = device_of(&metadata, &path, &request.container_path.join(below))
            {
                devices.push(AddedDevice { device, access: request.access });
                if devices.len() > MAX_DEVICES {
                    return Err(DeviceError::TooMany { path: request.host_path.clone() });
                }
            }
        }
    }
    devices.sort_by(|one, other| one.device.path.cmp(&other.device.path));
    Ok(devices)
}

/// The same device at a path in the container; `None` for a file of another kind.
pub(crate) fn device_of(metadata: &Metadata, host_path: &Path, container_path: &Path) -> Option<Device> {
    let kind = metadata.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => DeviceKind::Character,
        (_, true) => DeviceKind::Block,
        (false, false) => return None,
    };
    Some(Device {
        path: container_path.to_owned(),
        kind,
        major: major(metadata.rdev()),
        minor: minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        host_path: Some(host_path.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host_path: &Path) -> DeviceSpec {
        DeviceSpec { host_path: host_path.into(), container_path: "/dev/x".into(), access: DeviceAccess::ALL }
    }

    #[test]
    fn a_link_to_a_device_is_that_device() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let found = requested_devices(&request(&link)).unwrap();
        let device = &found[0].device;
        assert_eq!((device.kind, device.major, device.minor), (DeviceKind::Character, 1, 3));
        assert_eq!(
            (device.path.as_path(), device.host_path.as_deref()),
            (Path::new("/dev/x"), Some(Path::new("/dev/null")))
        );
    }

    #[test]
    fn what_is_no_device_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (file, looping) = (directory.path().join("file"), directory.path().join("loop"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&looping, &looping).unwrap();
        let check = |path: &Path, want: &str| {
            let error = requested_devices(&request(path)).unwrap_err().to_string();
            assert!(error.starts_with(want) && error.contains(path.to_str().unwrap()), "{error}");
        };
        check(&file, "device ");
        check(&looping, "look at device ");
        check(Path::new("/dev/no-such"), "look at device ");
        assert_eq!(requested_devices(&request(directory.path())).unwrap(), [], "a directory may be empty");
    }

    #[test]
    fn links_are_no_devices_and_a_directory_of_too_many_files_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for number in 0..=MAX_DEVICES {
            std::os::unix::fs::symlink("/dev/null", path.join(number.to_string())).unwrap();
        }
        assert_eq!(requested_devices(&request(path)).unwrap(), []);
        assert!(devices_below(path, &request(path), MAX_DEVICES + 1).is_ok());
        let refused = devices_below(path, &request(path), MAX_DEVICES).unwrap_err().to_string();
        assert!(refused.ends_with(": more than 4096 files below it"), "{refused}");
    }
}
