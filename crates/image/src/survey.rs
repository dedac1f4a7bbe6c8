//! What lies in an image store's directory, looked at without changing anything, and which of it images need.
//!
//! In: the directory alone, so that it works while no agent runs. Out: paths by kind; a store that is open tells, beside
//! its images, what its work under way holds ([`ImageStore::needs`](crate::ImageStore::needs)).

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::{ChainId, Digest, Error, Image, Result, layer::Layout, manifest::ConfigFile};

/// What a path in the store's directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredKind {
    /// An unpacked layer.
    Layer,
    /// A manifest or config.
    Blob,
    /// Something on its way in or out.
    Ingest,
}

/// Everything in the store's directory that makes up images or is about to; nothing where there is no store. Blocks.
///
/// Errors: a directory can't be read.
pub fn list_stored(root: &Path) -> Result<Vec<(StoredKind, PathBuf)>> {
    let layout = Layout::at(root);
    let places = [
        (StoredKind::Layer, &layout.layers),
        (StoredKind::Blob, &layout.blobs),
        (StoredKind::Ingest, &layout.ingest),
    ];
    let mut stored = Vec::new();
    for (kind, directory) in places {
        let failed = || Error::io("list directory", &**directory);
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(failed())?,
        };
        for entry in entries {
            stored.push((kind, entry.map_err(failed())?.path()));
        }
    }
    Ok(stored)
}

/// What an image whose record can't be read needs of the store, by the record's key: its config, which tells the layers.
/// Nothing where there is no such config. Blocks.
pub fn files_of_unreadable(root: &Path, key: &str) -> Vec<PathBuf> {
    let layout = Layout::at(root);
    let Some(id) = Digest::parse(key) else { return Vec::new() };
    let config = layout.read_blob(&id).ok().filter(|bytes| Digest::of(bytes) == id);
    let Some(config) = config.and_then(|bytes| serde_json::from_slice::<ConfigFile>(&bytes).ok()) else {
        return Vec::new();
    };
    let layers = ChainId::stack(&config.rootfs.diff_ids);
    layers.iter().map(|chain_id| layout.layer(chain_id)).chain([layout.blob(&id)]).collect()
}

/// What images need of the store in a directory.
pub fn files_of_images<'a>(root: &Path, images: impl IntoIterator<Item = &'a Image>) -> HashSet<PathBuf> {
    let layout = Layout::at(root);
    images.into_iter().flat_map(|image| layout.files_of(image)).collect()
}
