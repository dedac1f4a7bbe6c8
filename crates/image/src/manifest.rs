//! Manifests, indexes and configs, as far as a node needs them, and the choice among platforms.
//!
//! Pure: bytes in, checked values out. OCI and Docker v2 schema 2 differ only in their media types. Whatever these
//! documents claim beyond the fields here is kept (the bytes are) but not looked at.
//!
//! Source: OCI image specification v1.1 (manifest.md, image-index.md, config.md); Docker image manifest v2 schema 2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Platform, Result};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Manifests and configs beyond this are refused before they are read.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Overlayfs takes 500 lower directories, image builders stop at 127.
const MAX_LAYERS: usize = 127;
/// Compressed; larger claims are nonsense.
const MAX_BLOB_BYTES: u64 = 1 << 40;

/// A pointer to content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What a manifest endpoint answers with.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// One image for one platform.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// The parts of an image's config that a node uses.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    pub(crate) config: Option<RunConfig>,
    pub(crate) rootfs: RootFs,
    #[serde(flatten)]
    pub(crate) platform: Platform,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<Digest>,
}

/// How containers of the image run, as it is spelt in the config; absent lists are null in many images.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    pub(crate) user: Option<String>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) volumes: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
}

impl Document {
    /// Reads an index or a manifest; which of the two it is, its own fields tell, not the transport.
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Either {
            #[serde(default)]
            schema_version: u32,
            manifests: Option<Vec<Descriptor>>,
            config: Option<serde::de::IgnoredAny>,
        }
        let either: Either = parse(what, bytes)?;
        match either {
            Either { schema_version: 1, .. } => Err(malformed(what, "Docker schema 1 is not supported")),
            Either { manifests: Some(_), config: Some(_), .. } => {
                Err(malformed(what, "it is an index and a manifest at once"))
            }
            Either { manifests: Some(manifests), .. } => Ok(Self::Index(manifests)),
            Either { .. } => {
                parse(what, bytes).and_then(|manifest| checked(what, manifest)).map(Self::Manifest)
            }
        }
    }
}

impl ConfigFile {
    /// Reads a config that has as many layers as its manifest.
    pub(crate) fn parse(what: &str, bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = parse(what, bytes)?;
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != layers {
            return Err(malformed(what, &format!("it has {diff_ids} diff ids for {layers} layers")));
        }
        if layers > MAX_LAYERS {
            return Err(too_many_layers(what));
        }
        Ok(config)
    }
}

/// The entry of an index that fits a machine best: the highest variant that it can run, then the first listed.
pub(crate) fn choose<'a>(
    what: &str,
    entries: &'a [Descriptor],
    machine: &Platform,
) -> Result<&'a Descriptor> {
    let is_image = |entry: &&Descriptor| {
        matches!(entry.media_type.as_str(), "" | OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST)
    };
    let rank = |entry: &Descriptor| match &entry.platform {
        Some(platform) => machine.rank(platform),
        None => Some(0),
    };
    let ranked = entries.iter().filter(is_image).filter_map(|entry| Some((rank(entry)?, entry)));
    // `max_by_key` keeps the last of equals, so the first listed is found from the end.
    let best = ranked.rev().max_by_key(|(rank, _)| *rank);
    best.map(|(_, entry)| entry).ok_or_else(|| {
        let offered: Vec<_> =
            entries.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string).collect();
        let offered =
            if offered.is_empty() { "entries without a platform".to_owned() } else { offered.join(", ") };
        Error::NoPlatform { what: what.to_owned(), wanted: machine.to_string(), offered }
    })
}

fn checked(what: &str, manifest: Manifest) -> Result<Manifest> {
    if manifest.layers.len() > MAX_LAYERS {
        return Err(too_many_layers(what));
    }
    if manifest.config.size > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge {
            what: format!("config of {what}"),
            limit: format!("{MAX_DOCUMENT_BYTES} bytes"),
        });
    }
    let total = manifest.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    if total > MAX_BLOB_BYTES {
        return Err(Error::TooLarge {
            what: format!("layers of {what}"),
            limit: format!("{MAX_BLOB_BYTES} bytes"),
        });
    }
    Ok(manifest)
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Document { what: what.to_owned(), source })
}

fn malformed(what: &str, reason: &str) -> Error {
    Error::Malformed { what: what.to_owned(), reason: reason.to_owned() }
}

fn too_many_layers(what: &str) -> Error {
    Error::TooLarge { what: what.to_owned(), limit: format!("{MAX_LAYERS} layers") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: Some(next()).filter(|v| !v.is_empty()) }
    }

    fn index(platforms: &[&str]) -> Vec<Descriptor> {
        let entry = |text: &&str| Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(text.as_bytes()),
            size: 1,
            platform: (!text.is_empty()).then(|| platform(text)),
            annotations: BTreeMap::new(),
        };
        platforms.iter().map(entry).collect()
    }

    #[test]
    fn the_best_variant_that_the_machine_can_run_is_chosen() {
        let check = |machine: &str, offered: &[&str], expected: Option<&str>| {
            let entries = index(offered);
            let chosen = choose("x", &entries, &platform(machine)).ok().map(|entry| entry.digest.clone());
            assert_eq!(chosen, expected.map(|text| Digest::of(text.as_bytes())), "{machine} {offered:?}");
        };
        let amd64 = "linux/amd64/v3";
        check(amd64, &["linux/arm64/v8", "linux/amd64"], Some("linux/amd64"));
        check(amd64, &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], Some("linux/amd64/v2"));
        check(amd64, &["linux/amd64/v3", "linux/amd64"], Some("linux/amd64/v3"));
        check(amd64, &["windows/amd64", "linux/386"], None);
        check(amd64, &["unknown/unknown", "linux/amd64"], Some("linux/amd64"));
        check(amd64, &[""], Some(""));
        check(amd64, &["", "linux/amd64"], Some("linux/amd64"));
        check("linux/arm64/v8", &["linux/arm/v7", "linux/arm64"], Some("linux/arm64"));
        check("linux/arm/v7", &["linux/arm/v6", "linux/arm/v5", "linux/arm64"], Some("linux/arm/v6"));
    }

    #[test]
    fn documents_tell_what_they_are() {
        let descriptor = json!({"digest": Digest::of(b""), "size": 1});
        let check = |document: serde_json::Value, expected: &str| {
            let parsed = Document::parse("x", document.to_string().as_bytes());
            let found = match parsed {
                Ok(Document::Index(_)) => "index".to_owned(),
                Ok(Document::Manifest(_)) => "manifest".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(found.contains(expected), "{found}");
        };
        check(json!({"schemaVersion": 2, "manifests": [descriptor]}), "index");
        check(json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]}), "manifest");
        check(json!({"schemaVersion": 2, "config": descriptor, "manifests": []}), "at once");
        check(json!({"schemaVersion": 1, "fsLayers": []}), "schema 1");
        check(
            json!({"schemaVersion": 2, "config": descriptor, "layers": vec![&descriptor; 128]}),
            "127 layers",
        );
        let absurd = json!({"digest": Digest::of(b""), "size": 1u64 << 50});
        check(json!({"schemaVersion": 2, "config": descriptor, "layers": [absurd]}), "limit");
        check(json!({"schemaVersion": 2, "config": absurd, "layers": []}), "limit");
        check(
            json!({"schemaVersion": 2, "config": {"digest": "sha256:../x", "size": 1}, "layers": []}),
            "parse x",
        );
    }

    #[test]
    fn a_config_needs_a_diff_id_for_each_layer() {
        let bytes = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [Digest::of(b"")]},
                           "config": {"Env": null, "Cmd": ["sh"], "Volumes": {"/data": {}}}})
        .to_string();
        let config = ConfigFile::parse("x", bytes.as_bytes(), 1).unwrap();
        assert_eq!(config.config.unwrap().cmd.unwrap(), ["sh"]);
        assert!(ConfigFile::parse("x", bytes.as_bytes(), 2).is_err());
    }
}
