//! What devices add to a container.

use std::path::PathBuf;
use std::time::Duration;

/// Everything that the devices of a request add, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Device nodes.
    pub nodes: Vec<Node>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Supplemental groups.
    pub groups: Vec<u32>,
    /// Programs of the host to run while the container is made.
    pub hooks: Vec<Hook>,
}

impl Edits {
    pub(crate) fn append(&mut self, other: &Self) {
        self.env.extend(other.env.iter().cloned());
        self.nodes.extend(other.nodes.iter().cloned());
        self.mounts.extend(other.mounts.iter().cloned());
        self.groups.extend(&other.groups);
        self.hooks.extend(other.hooks.iter().cloned());
    }
}

/// A device node. What is absent is as with the host's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where in the container.
    pub path: PathBuf,
    /// The host's node of the device.
    pub host_path: PathBuf,
    /// What it is.
    pub kind: Option<NodeKind>,
    /// Device number, major and minor.
    pub number: Option<(u32, u32)>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Letters of `rwm`; empty for all.
    pub permissions: String,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// The kinds of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe, which has no number.
    Fifo,
}

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What of the host is mounted.
    pub host_path: PathBuf,
    /// Where in the container.
    pub container_path: PathBuf,
    /// As of mount(8).
    pub options: Vec<String>,
}

/// A program of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When it runs.
    pub point: HookPoint,
    /// The program.
    pub path: PathBuf,
    /// Its arguments, beginning with its own name.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<String>,
    /// How long it may take; `None` for as long as the making of a container may.
    pub timeout: Option<Duration>,
}

/// When a hook runs. Source: OCI runtime-spec, config.md, "POSIX-platform Hooks".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// `prestart`, the old name of the next.
    Prestart,
    /// `createRuntime`.
    CreateRuntime,
    /// `createContainer`.
    CreateContainer,
    /// `startContainer`.
    StartContainer,
    /// `poststart`.
    Poststart,
    /// `poststop`.
    Poststop,
}
