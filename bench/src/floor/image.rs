//! The image that the pods' containers are of: an OCI layout, as the end-to-end tests have it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Of an index or a manifest, what leads to the layers. Source: OCI image-spec, image-layout.md and manifest.md.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    manifests: Vec<Descriptor>,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
}

/// Unpacks the layers of a layout's first image, one over the other, into a directory.
pub(super) fn unpack(layout: &Path, to: &Path) -> Result<()> {
    let index = read(&layout.join("index.json"))?;
    let first = index.manifests.first().with_context(|| format!("no image in {}", layout.display()))?;
    for layer in read(&blob(layout, first))?.layers {
        let tar = Command::new("tar").arg("-xf").arg(blob(layout, &layer)).arg("-C").arg(to).status();
        let status = tar.context("run tar")?;
        if !status.success() {
            bail!("unpacking {} failed: {status}", layer.digest);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Document> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))
}

fn blob(layout: &Path, descriptor: &Descriptor) -> PathBuf {
    layout.join("blobs").join(descriptor.digest.replace(':', "/"))
}
