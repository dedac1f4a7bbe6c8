//! The directories that make up an image's root filesystem. Pure: nothing is mounted here.

use std::path::{Path, PathBuf};

use crate::{ChainId, Image};

/// An image's layers as overlay lower directories, topmost first as overlayfs wants them.
pub(crate) fn lower_dirs(layers: &Path, image: &Image) -> Vec<PathBuf> {
    image.layers.iter().rev().map(|layer| tree_of(layers, &layer.chain_id)).collect()
}

/// The directory with a layer's files.
pub(crate) fn tree_of(layers: &Path, chain_id: &ChainId) -> PathBuf {
    layers.join(chain_id.0.hex()).join("fs")
}
