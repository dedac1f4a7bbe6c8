//! An image as the rest of the agent sees it. Plain values, also as they are stored.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ChainId, Digest, DiskUsage, ImageId, manifest::RunConfig};

/// An image whose layers are all unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of the config.
    pub id: ImageId,
    /// Normalised names with tags, sorted. A tag belongs to one image only.
    pub repo_tags: Vec<String>,
    /// Normalised names with the digest of the index or manifest they were pulled as, sorted.
    pub repo_digests: Vec<String>,
    /// The manifest for this platform; its bytes are kept.
    pub manifest: Digest,
    /// What the image was built for.
    pub platform: Platform,
    /// How its containers run.
    pub config: ImageConfig,
    /// Its layers, the bottom one first.
    pub layers: Vec<LayerInfo>,
    /// Allocated bytes of its manifest and config.
    pub documents_bytes: u64,
}

/// The defaults that an image gives to containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid` as written; empty means root.
    pub user: String,
    /// Empty means `/`.
    pub working_dir: String,
    /// Paths that should be volumes.
    pub volumes: Vec<String>,
    /// The signal's name or number.
    pub stop_signal: Option<String>,
    /// As in the image.
    pub labels: BTreeMap<String, String>,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
}

/// One layer of an image on this node's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Names its directory.
    pub chain_id: ChainId,
    /// The digest of its tar.
    pub diff_id: Digest,
    /// The length of its tar.
    pub tar_bytes: u64,
    /// Bytes that it allocates on the disk.
    pub used_bytes: u64,
    /// Inodes that it allocates.
    pub used_inodes: u64,
}

/// An operating system and a processor, named as Go names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `v8`, …; absent is the architecture's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// What the image store uses of the filesystem that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsInfo {
    /// The image store's directory.
    pub mountpoint: PathBuf,
    /// By all images, each layer once, as `du` counts.
    pub used: DiskUsage,
}

impl Image {
    /// Bytes that removing this image would free if no other image shared its layers.
    pub fn size_bytes(&self) -> u64 {
        self.documents_bytes + self.layers.iter().map(|layer| layer.used_bytes).sum::<u64>()
    }
}

impl From<RunConfig> for ImageConfig {
    fn from(run: RunConfig) -> Self {
        Self {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            labels: run.labels.unwrap_or_default(),
            exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        }
    }
}

impl Platform {
    /// The platform that this program was built for, with the processor's level where levels matter.
    pub fn of_this_machine() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", Some(x86_64_level())),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    /// How well an image for another platform fits this one; higher is better, none is not at all.
    pub(crate) fn rank(&self, image: &Self) -> Option<u32> {
        let level = |platform: &Self| match (platform.variant.as_deref(), platform.architecture.as_str()) {
            (Some(variant), _) => variant.strip_prefix('v').and_then(|digits| digits.parse::<u32>().ok()),
            (None, "arm64") => Some(8),
            (None, "arm") => Some(7),
            (None, _) => Some(1),
        };
        let (have, need) = (level(self)?, level(image)?);
        let fits = self.os == image.os && self.architecture == image.architecture && need <= have;
        fits.then_some(need)
    }
}

#[cfg(target_arch = "x86_64")]
fn x86_64_level() -> &'static str {
    let v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
    let v3 = v2
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("fma");
    let v4 = v3 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
    match (v4, v3, v2) {
        (true, ..) => "v4",
        (_, true, _) => "v3",
        (_, _, true) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_level() -> &'static str {
    "v1"
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
