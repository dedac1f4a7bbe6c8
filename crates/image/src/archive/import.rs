//! Which images an archive has, under which names. Blocks.
//!
//! Source: OCI image specification, image-layout.md; Docker's `image save` format; the annotations that
//! containerd and Docker write into an index.

use std::sync::Arc;

use serde::Deserialize;

use super::{Archive, reader::malformed};
use crate::{
    Error, Platform, Reference, Result,
    blob::Expected,
    manifest::{ConfigFile, Descriptor, Document},
    origin::{LayerSource, Resolved, resolve_in_layout},
};

/// An image of an archive with the names that it shall get.
pub(crate) struct Named {
    pub(crate) image: Resolved,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Resolves every image of an archive that fits the machine.
///
/// Errors: not found when there are images, but all for other machines.
pub(crate) fn images_in(archive: &Arc<Archive>, machine: &Platform) -> Result<Vec<Named>> {
    // Docker's archives have both indexes; the OCI one knows digests.
    if let Some(index) = archive.document("index.json")? {
        return layout_images(archive, &index, machine);
    }
    match archive.document("manifest.json")? {
        Some(manifest) => docker_images(archive, &manifest),
        None => Err(malformed(archive.path(), "it has neither an index.json nor a manifest.json")),
    }
}

fn layout_images(archive: &Arc<Archive>, index: &[u8], machine: &Platform) -> Result<Vec<Named>> {
    let what = format!("index.json of {}", archive.path().display());
    let Document::Index(entries) = Document::parse(&what, index)? else {
        return Err(malformed(archive.path(), "its index.json is no index"));
    };
    let mut images = Vec::new();
    let mut unfit = None;
    for entry in &entries {
        match resolve_in_layout(archive, &what, entry, machine) {
            Ok(image) if machine.rank(&image.config.platform).is_some() => {
                let (tags, digests) = names_of(entry);
                images.push(Named { image, tags, digests });
            }
            Ok(image) => unfit = Some(no_platform(&what, machine, &image.config.platform)),
            Err(error @ Error::NoPlatform { .. }) => unfit = Some(error),
            Err(error) => return Err(error),
        }
    }
    match unfit {
        Some(error) if images.is_empty() => Err(error),
        _ => Ok(images),
    }
}

fn docker_images(archive: &Arc<Archive>, manifest: &[u8]) -> Result<Vec<Named>> {
    let what = format!("manifest.json of {}", archive.path().display());
    let images: Vec<DockerImage> =
        serde_json::from_slice(manifest).map_err(|source| Error::Document { what: what.clone(), source })?;
    let mut named = Vec::new();
    for image in images {
        let config_bytes = archive
            .document(&image.config)?
            .ok_or_else(|| malformed(archive.path(), &format!("{:?} is not in it", image.config)))?;
        let config = ConfigFile::parse(&what, &config_bytes, image.layers.len())?;
        let mut layers = Vec::new();
        for member in image.layers {
            let size = archive.open_member(&member)?.0;
            let expected = Expected { digest: None, size };
            layers.push(LayerSource::Archive { archive: Arc::clone(archive), member, expected });
        }
        let mut tags = Vec::new();
        for tag in image.repo_tags.unwrap_or_default() {
            tags.extend(Reference::parse(&tag)?.repo_tag());
        }
        let image = Resolved { manifest: None, config_bytes, config, layers };
        named.push(Named { image, tags, digests: Vec::new() });
    }
    Ok(named)
}

/// The tag and digest that an index gives to one of its entries. A bare tag without a repository names nothing.
fn names_of(entry: &Descriptor) -> (Vec<String>, Vec<String>) {
    let annotation = |name: &str| entry.annotations.get(name).map(String::as_str);
    let name = annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/'])));
    match name.and_then(|name| Reference::parse(name).ok()) {
        Some(reference) => {
            (reference.repo_tag().into_iter().collect(), vec![reference.repo_digest(&entry.digest)])
        }
        None => (Vec::new(), Vec::new()),
    }
}

fn no_platform(what: &str, machine: &Platform, offered: &Platform) -> Error {
    Error::NoPlatform { what: what.to_owned(), wanted: machine.to_string(), offered: offered.to_string() }
}
