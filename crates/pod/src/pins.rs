//! The images that a container needs, its own and those of its volumes: found, and kept while it exists.
//!
//! Pins live in memory: what a record names is pinned again after a restart. A pin has one holder, so each volume's has
//! the name of its container and its place in the request.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use berth_container::spec::{ContainerSpec, ImageVolumeSpec, VolumeSource};
use berth_image::{Image, ImageId, ImageStore};
use berth_monitor::id::ContainerId;
use berth_store::with_causes;

use crate::error::{Error, Result};
use crate::record::ContainerRecord;

/// What a container was found to need.
#[derive(Debug)]
pub(crate) struct PinnedImages {
    /// Its own image.
    pub(crate) image: Arc<Image>,
    /// Those of its volumes, by the volume's path in the request.
    pub(crate) volumes: BTreeMap<PathBuf, Arc<Image>>,
}

impl PinnedImages {
    /// For the record.
    pub(crate) fn volume_ids(&self) -> BTreeMap<PathBuf, ImageId> {
        self.volumes.iter().map(|(path, image)| (path.clone(), image.id.clone())).collect()
    }
}

/// Finds and pins everything, or nothing.
pub(crate) fn pin_images(store: &ImageStore, spec: &ContainerSpec, id: &ContainerId) -> Result<PinnedImages> {
    let pinned = try_pin(store, spec, id);
    if pinned.is_err() {
        unpin_images(store, spec, id);
    }
    pinned
}

fn try_pin(store: &ImageStore, spec: &ContainerSpec, id: &ContainerId) -> Result<PinnedImages> {
    let image = pin(store, &spec.image, id.as_str())?;
    let mut volumes = BTreeMap::new();
    for (index, path, volume) in image_volumes(spec) {
        let pinned = pin(store, &volume.image, &volume_holder(id, index));
        let pinned = pinned.map_err(|source| Error::ImageVolume {
            path: path.clone(),
            image: volume.image.clone(),
            source: Box::new(source),
        })?;
        volumes.insert(path.clone(), pinned);
    }
    Ok(PinnedImages { image, volumes })
}

/// Pins what the container on record uses; an image that is gone all the same is told in the log.
pub(crate) fn pin_again(store: &ImageStore, record: &ContainerRecord) {
    let volumes = image_volumes(&record.spec).filter_map(|(index, path, _)| {
        Some((volume_holder(&record.id, index), record.volume_images.get(path)?))
    });
    for (holder, image) in std::iter::once((record.id.to_string(), &record.image)).chain(volumes) {
        if let Err(error) = store.pin(image, &holder) {
            tracing::warn!(container.id = %record.id, error = %with_causes(&error), "image of a container is gone");
        }
    }
}

/// Ends the container's use of all of its images.
pub(crate) fn unpin_images(store: &ImageStore, spec: &ContainerSpec, id: &ContainerId) {
    holders(spec, id).iter().for_each(|holder| store.unpin(holder));
}

/// The names under which a container holds its images.
pub(crate) fn holders(spec: &ContainerSpec, id: &ContainerId) -> Vec<String> {
    let volumes = image_volumes(spec).map(|(index, ..)| volume_holder(id, index));
    std::iter::once(id.to_string()).chain(volumes).collect()
}

fn pin(store: &ImageStore, image: &str, holder: &str) -> Result<Arc<Image>> {
    let found = store.find(image)?.ok_or_else(|| Error::NoImage { image: image.to_owned() })?;
    Ok(store.pin(&found.id, holder)?)
}

fn volume_holder(id: &ContainerId, index: usize) -> String {
    format!("{id}/{index}")
}

fn image_volumes(spec: &ContainerSpec) -> impl Iterator<Item = (usize, &PathBuf, &ImageVolumeSpec)> {
    spec.mounts.iter().enumerate().filter_map(|(index, volume)| match &volume.source {
        VolumeSource::Image(image) => Some((index, &volume.container_path, image)),
        VolumeSource::Host { .. } => None,
    })
}
