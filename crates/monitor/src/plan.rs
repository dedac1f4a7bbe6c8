//! The plans: plain values that say everything a new process needs, with nothing left to decide.
//!
//! The agent builds them (pure functions in `pod` and `container`), the monitor carries them out step by step.
//! They travel as JSON in a memfd: fields may be added with a default, so that an older monitor understands
//! a newer agent and the other way round; an operator can read them.
//!
//! All paths that begin a source are host paths; all that name a place in a container are absolute paths
//! in the container's root and are resolved there, so that no symlink of the image leads out.

mod features;
mod hook;

use std::path::{Path, PathBuf};

pub use berth_cgroup::DeviceKind;
use berth_cgroup::Entry;
use serde::{Deserialize, Serialize};

pub use self::hook::{Hook, HookPoint, Hooks};
use crate::id::{ContainerId, PodId};
use crate::idmap::IdMaps;

/// A pod's shared namespaces, to be made by pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// Whose pause it is.
    pub pod: PodId,
    /// The pod's directory in the volatile state (`/run/berth/pods/ID`); it exists. The monitor's socket
    /// and the exit records are made in it.
    pub directory: PathBuf,
    /// Where the monitor and pause are accounted.
    pub cgroup: Entry,
    /// The network namespace.
    pub net: Sharing,
    /// The System V and POSIX IPC namespace; own also means an own `/dev/shm`.
    pub ipc: Sharing,
    /// The hostname; `None` keeps the host's uts namespace.
    pub hostname: Option<String>,
    /// Whether pause is process 1 of a pid namespace that all containers join.
    pub shared_pid: bool,
    /// The ids of the pod's own user namespace, which owns the other new namespaces; `None` for the host's.
    #[serde(default)]
    pub user_namespace: Option<IdMaps>,
    /// Written inside the new namespaces by pause, before anything else can run there.
    pub sysctls: Vec<Sysctl>,
    /// Whether the pod gets IPv6 addresses, where its network namespace is its own.
    #[serde(default = "yes")]
    pub ipv6: bool,
    /// Size of the pod's `/dev/shm`.
    pub shm_bytes: u64,
    /// Whether this is made before anybody has asked for a pod: it waits for the order to become one
    /// ([`Order::Occupy`](crate::protocol::Order::Occupy)), and is gone with the agent until then.
    #[serde(default)]
    pub spare: bool,
}

fn yes() -> bool {
    true
}

/// Whether a namespace is the pod's own or the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// The pod has its own.
    Own,
    /// The pod uses the host's.
    Host,
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// Relative to `/proc/sys`, with slashes: `net/ipv4/ip_unprivileged_port_start`.
    pub path: String,
    /// The text to write.
    pub value: String,
}

/// One container, from its first instruction to the gate before `execve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// Which container.
    pub container: ContainerId,
    /// Whose pid namespace it lives in.
    pub pid_namespace: PidNamespace,
    /// Whether it sees its own cgroup as the root of the hierarchy (cgroup v2).
    pub cgroup_namespace: Sharing,
    /// Where it is accounted and limited.
    pub cgroup: Entry,
    /// The file whose `oom_kill` line tells, after the exit, whether the kernel killed for want of memory.
    pub oom_file: Option<PathBuf>,
    /// The root filesystem.
    pub rootfs: Rootfs,
    /// In the order in which they are mounted.
    pub mounts: Vec<Mount>,
    /// Device nodes, mostly in `/dev`.
    pub devices: Vec<Device>,
    /// Named pipes that devices bring with them.
    #[serde(default)]
    pub fifos: Vec<Fifo>,
    /// Symbolic links made in the root, `(path, target)`, like `/dev/fd`.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Hidden: files by `/dev/null`, directories by an empty read-only tmpfs; absent ones are skipped.
    pub masked_paths: Vec<PathBuf>,
    /// Made read-only with everything below; absent ones are skipped.
    pub readonly_paths: Vec<PathBuf>,
    /// The SELinux label of files in the container's own filesystems; `None` for those that they have.
    #[serde(default)]
    pub file_label: Option<String>,
    /// Programs of the host that are run on the way.
    #[serde(default)]
    pub hooks: Hooks,
    /// The workload.
    pub process: ProcessPlan,
    /// Its standard streams.
    pub stdio: StdioPlan,
    /// Another OCI runtime that makes it; `None` for the monitor itself.
    #[serde(default)]
    pub foreign: Option<ForeignPlan>,
}

/// How another OCI runtime is to make a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignPlan {
    /// The runtime.
    pub program: PathBuf,
    /// What it is told before each command.
    pub args: Vec<String>,
    /// Where it keeps what it knows of the pod's containers.
    pub state: PathBuf,
    /// The container's bundle, to be made. Volumes are attached in it, and bound from there by the configuration.
    pub bundle: PathBuf,
    /// Its `config.json`, complete but for `process.user` and `process.env`, which the image's files decide.
    pub config: serde_json::Value,
}

impl ForeignPlan {
    /// The directory of the bundle in which volumes are attached.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.bundle.join(VOLUMES_NAME)
    }

    /// Where in the bundle the source of the plan's mount of this index is attached.
    pub fn volume(index: usize) -> PathBuf {
        Path::new(VOLUMES_NAME).join(index.to_string())
    }
}

const VOLUMES_NAME: &str = "volumes";

/// Whose pid namespace a container lives in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// Its own, with the container's first process as process 1.
    Own,
    /// The pod's, whose process 1 is pause.
    Pod,
    /// The host's.
    Host,
    /// That of another container of the same pod.
    Container(ContainerId),
}

/// An overlay of image layers and a writable directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// An empty host directory over which the root is assembled, in the container's mount namespace only.
    pub staging: PathBuf,
    /// The image's layers, topmost first; at least one.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// Overlayfs's scratch directory, on the same filesystem as `upper`.
    pub work: PathBuf,
    /// Whether the root is read-only for the workload.
    pub read_only: bool,
}

/// One mount below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Where; made if it is missing (as a directory, or as a file where the source is one).
    pub target: PathBuf,
    /// Whether the workload may write.
    pub access: Access,
    /// `nosuid`.
    pub nosuid: bool,
    /// `nodev`.
    pub nodev: bool,
    /// `noexec`.
    pub noexec: bool,
    /// How later mounts below it travel (CRI `MountPropagation`).
    pub propagation: MountPropagation,
    /// Whether a private one lets go of what is unmounted on the host (rslave): a part of the host in which the
    /// runtime's own directories lie would keep their mounts busy.
    #[serde(default)]
    pub follows_host: bool,
    /// Whether a volume of the host shows its ids through the pod's user namespace.
    #[serde(default)]
    pub idmapped: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A host file or directory with all that is mounted below it.
    Bind(PathBuf),
    /// The container's pid namespace.
    Proc,
    /// The pod's network devices, and the host's hardware.
    Sysfs,
    /// A new empty filesystem in memory.
    Tmpfs {
        /// Permission bits of its root.
        mode: u32,
        /// Its size; `None` for the kernel's default, half the memory.
        size_bytes: Option<u64>,
    },
    /// A new set of pseudo-terminals.
    Devpts,
    /// The pod's POSIX message queues.
    Mqueue,
    /// The pod's `/dev/shm`, the same for all of its containers.
    PodShm,
    /// The cgroup hierarchy (v2).
    Cgroup2,
    /// An image, read-only.
    Image {
        /// Its layers, topmost first; at least one.
        layers: Vec<PathBuf>,
        /// The directory in it that is shown, as a path relative to its root; `None` for all of it.
        sub_path: Option<PathBuf>,
    },
    /// A directory of the container's own, below its directory on the host, which begins as a copy of what the image
    /// has at the target.
    ImageVolume(PathBuf),
}

/// Write access through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// As the source allows.
    ReadWrite,
    /// This mount refuses writes; mounts below it keep their own flags.
    ReadOnly,
    /// This mount and all below it refuse writes (CRI `recursive_read_only`).
    RecursiveReadOnly,
}

/// CRI `MountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// No mount made later travels in either direction (rprivate).
    Private,
    /// Mounts made later on the host appear in the container (rslave).
    HostToContainer,
    /// And those made in the container appear on the host (rshared).
    Bidirectional,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where; parents that are missing are made.
    pub path: PathBuf,
    /// Character or block.
    pub kind: DeviceKind,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The host's node of the same device: mounted where a node may not be made, as in a user namespace.
    #[serde(default)]
    pub host_path: Option<PathBuf>,
}

/// A named pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fifo {
    /// Where; parents that are missing are made.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What runs, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// At least one; the first is looked up in the environment's `PATH` when it holds no slash.
    pub args: Vec<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Made if it is missing.
    pub cwd: PathBuf,
    /// Resolved inside the container's root.
    pub user: UserPlan,
    /// The five capability sets.
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// A compiled filter, one number per instruction (`berth_sys::seccomp::Instruction`); `None` for no filter.
    #[serde(default)]
    pub seccomp: Option<Vec<u64>>,
    /// For the filter's installation (`SECCOMP_FILTER_FLAG_*`).
    #[serde(default)]
    pub seccomp_flags: u32,
    /// The AppArmor profile that the workload runs under; it is loaded. `None` leaves the agent's.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// The SELinux label that the workload runs under; `None` leaves it to the kernel's policy.
    #[serde(default)]
    pub selinux: Option<String>,
    /// `/proc/self/oom_score_adj`; `None` leaves the agent's.
    pub oom_score_adj: Option<i32>,
}

/// The user as asked for; names are looked up in the image's own files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPlan {
    /// A number, or a name in `/etc/passwd`.
    pub user: NameOrId,
    /// A number, or a name in `/etc/group`; `None` for the user's group in `/etc/passwd`, else 0.
    pub group: Option<NameOrId>,
    /// Groups to add.
    pub supplemental: Vec<u32>,
    /// Whether the groups that list the user in the image's `/etc/group` are added too (CRI
    /// `SupplementalGroupsPolicy.Merge`).
    pub merge_image_groups: bool,
}

/// A user or group as images and pods name them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameOrId {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

/// Capability sets as bit masks, bit N for capability N of capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The most that any exec can give.
    pub bounding: u64,
    /// In force, and permitted, for a workload that runs as root.
    pub effective: u64,
    /// Kept through exec with file capabilities.
    pub inheritable: u64,
    /// Kept through exec by a workload that is not root.
    pub ambient: u64,
}

/// The standard streams of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioPlan {
    /// Whether stdin is a pipe that an attached client can write to; otherwise `/dev/null`.
    pub stdin: bool,
    /// Whether that pipe is given away to the first client with input, and closes when it leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// A pseudo-terminal for all three.
    pub tty: bool,
    /// The CRI log file; `None` discards the output.
    pub log: Option<PathBuf>,
    /// A directory above the log that its client vouches for: below it no symbolic link is followed.
    #[serde(default)]
    pub log_directory: Option<PathBuf>,
    /// Longest text of one log record in bytes; a longer line becomes several.
    #[serde(default = "default_log_line_bytes")]
    pub log_line_bytes: usize,
}

/// One more process in a running container, with that container's user, environment and confinement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    /// In which container.
    pub container: ContainerId,
    /// At least one.
    pub args: Vec<String>,
    /// A pseudo-terminal.
    pub tty: bool,
}

/// For plans of agents that did not say.
fn default_log_line_bytes() -> usize {
    berth_logs::DEFAULT_MAX_LINE_BYTES
}
