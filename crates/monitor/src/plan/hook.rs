//! Hooks of a container, as the plan has them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is run while a container is made, and what it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// In the order in which those of one point run.
    pub list: Vec<Hook>,
    /// A directory of the container's own, to be made, with a `config.json` that says where the root is.
    pub bundle: PathBuf,
    /// Of the container.
    pub annotations: BTreeMap<String, String>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When it runs.
    pub point: HookPoint,
    /// Its path: in the container for `startContainer`, else on the host.
    pub path: PathBuf,
    /// Its arguments, beginning with its own name.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// The longest it may take; `None` for as long as all may.
    pub timeout_ms: Option<u64>,
}

impl Hook {
    /// The longest it may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(Duration::from_millis)
    }
}

/// When a hook runs. Source: OCI runtime-spec, config.md, "POSIX-platform Hooks".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookPoint {
    /// As the next, by its old name.
    Prestart,
    /// Outside, when the container's namespaces and mounts exist.
    CreateRuntime,
    /// In the container's namespaces, before its root is.
    CreateContainer,
    /// In the container, before its program.
    StartContainer,
    /// Outside, after the start.
    Poststart,
    /// Outside, after the end.
    Poststop,
}

impl HookPoint {
    /// Whether it is one of the runtime's namespaces, and not of the container's.
    pub fn is_outside(self) -> bool {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::Poststart | Self::Poststop => true,
            Self::CreateContainer | Self::StartContainer => false,
        }
    }

    /// As the specification calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}
