//! What a client asked a container to be, in types that cannot hold nonsense.
//!
//! The `cri` crate makes these from the API's messages and refuses what does not fit; they are stored with the
//! container's record, so that status answers what was asked, byte for byte. Fields follow CRI `ContainerConfig` and
//! `LinuxContainerConfig`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_cgroup::{DeviceAccess, Limits};
use berth_monitor::idmap::IdMaps;
use berth_monitor::plan::{Access, MountPropagation, NameOrId};
use serde::{Deserialize, Serialize};

use crate::capability::CapabilityNames;

/// A container as asked for. Source: CRI `ContainerConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique in its pod together with `attempt`.
    pub name: String,
    /// How often it has been tried before.
    pub attempt: u32,
    /// The image to run, in any form that names it.
    pub image: String,
    /// What the user wrote for the image (CRI `ImageSpec.user_specified_image`), for status only.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint, and its command too; empty keeps the image's.
    pub command: Vec<String>,
    /// Replaces the image's command; empty keeps it unless `command` is given.
    pub args: Vec<String>,
    /// `None` for the image's, else `/`.
    pub working_dir: Option<PathBuf>,
    /// Added to the image's, later ones win.
    pub env: Vec<(String, String)>,
    /// Volumes.
    pub mounts: Vec<VolumeSpec>,
    /// Devices of the host.
    #[serde(default)]
    pub devices: Vec<DeviceSpec>,
    /// Devices that specifications on the host describe, by qualified name (`vendor.com/class=name`).
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    /// Returned as given.
    pub labels: BTreeMap<String, String>,
    /// Returned as given.
    pub annotations: BTreeMap<String, String>,
    /// Below the pod's log directory; `None` for no log.
    pub log_path: Option<PathBuf>,
    /// Whether stdin stays open for clients.
    pub stdin: bool,
    /// Whether stdin closes after its first client.
    pub stdin_once: bool,
    /// A pseudo-terminal.
    pub tty: bool,
    /// Limits of its cgroup.
    pub limits: Limits,
    /// The score for the out-of-memory killer, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Rights and namespaces.
    pub security: SecuritySpec,
    /// The signal that asks it to stop, by number; `None` for the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
}

/// One volume. Source: CRI `Mount`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// What is mounted.
    #[serde(flatten)]
    pub source: VolumeSource,
    /// Absolute path in the container.
    pub container_path: PathBuf,
    /// Write access.
    pub access: Access,
    /// How mounts made later travel.
    pub propagation: MountPropagation,
    /// Rights that the mount takes away.
    #[serde(default)]
    pub options: VolumeOptions,
    /// Whether it gets the container's SELinux label.
    #[serde(default)]
    pub selinux_relabel: bool,
    /// The ids through which it is shown, which are those of the pod's user namespace; `None` for the host's.
    #[serde(default)]
    pub id_maps: Option<IdMaps>,
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VolumeSource {
    /// The host.
    Host {
        /// Absolute path on it.
        host_path: PathBuf,
    },
    /// An image, which is mounted read-only.
    Image(ImageVolumeSpec),
}

/// An image as a volume. Source: CRI `Mount.image`, `Mount.image_sub_path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolumeSpec {
    /// In any form that names it.
    pub image: String,
    /// What the user wrote for it, for status only.
    pub user_specified_image: String,
    /// The directory in the image that is mounted, relative to its root; `None` for all of it.
    pub sub_path: Option<PathBuf>,
}

/// Rights that a mount takes away. Source: CRI `Mount.mount_options`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeOptions {
    /// No program in it runs.
    pub noexec: bool,
    /// No device in it opens.
    pub nodev: bool,
    /// No program in it runs as its owner.
    pub nosuid: bool,
}

/// A device of the host, or a directory of them. Source: CRI `Device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Absolute path on the host.
    pub host_path: PathBuf,
    /// Absolute path in the container.
    pub container_path: PathBuf,
    /// What the container may do with it.
    pub access: DeviceAccess,
}

/// Rights and namespaces. Source: CRI `LinuxContainerSecurityContext`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecuritySpec {
    /// All of the host's devices and capabilities, no masks, no filter.
    pub privileged: bool,
    /// Whose pid namespace it lives in.
    pub pid: PidSpec,
    /// The user; `None` for the image's.
    pub user: Option<NameOrId>,
    /// The group, only with a user; `None` for that user's.
    pub group: Option<u32>,
    /// Groups to add.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's `/etc/group` adds more (CRI `SupplementalGroupsPolicy.Merge`).
    pub merge_image_groups: bool,
    /// Changes to the default capabilities.
    pub capabilities: CapabilityNames,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// The root is read-only.
    pub read_only_rootfs: bool,
    /// Hidden paths, exactly these.
    pub masked_paths: Vec<PathBuf>,
    /// Write-protected paths, exactly these.
    pub readonly_paths: Vec<PathBuf>,
    /// The system call filter; `None` where the request says nothing of it.
    pub seccomp: Option<ProfileSpec>,
    /// The AppArmor profile; `None` where the request says nothing of it.
    #[serde(default)]
    pub apparmor: Option<ProfileSpec>,
    /// The SELinux label's parts.
    #[serde(default)]
    pub selinux: Option<SelinuxSpec>,
}

/// CRI `NamespaceMode` of the pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidSpec {
    /// Its own.
    Container,
    /// The pod's.
    Pod,
    /// The host's.
    Node,
    /// That of another container of the pod, by id.
    Target(String),
}

/// A profile of seccomp or AppArmor. Source: CRI `SecurityProfile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProfileSpec {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One of the node's: for seccomp the absolute path of a file, for AppArmor the name of a loaded profile.
    Localhost(String),
}

/// Parts of an SELinux label; an empty one is the default's. Source: CRI `SELinuxOption`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxSpec {
    /// SELinux user.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type, or domain.
    pub type_: String,
    /// Sensitivity and categories.
    pub level: String,
}
