//! Ways in for the fuzz targets to what is private. Not part of the interface.

use std::fs::File;
use std::path::Path;

use crate::manifest::{ConfigFile, Document};
use crate::unpack::unpack;

/// Layers of fuzz targets are not large.
const LIMIT_BYTES: u64 = 1 << 20;

/// Reads bytes as every kind of document that a registry serves.
pub fn read_documents(bytes: &[u8]) {
    let _ = Document::parse("document", bytes);
    for layers in [0, 1, 2] {
        let _ = ConfigFile::parse("config", bytes, layers);
    }
}

/// Unpacks a layer into an empty directory; `record` is a file to be made.
pub fn unpack_layer(mut tar: &[u8], tree: &Path, record: &Path) {
    if let Ok(record) = File::create(record) {
        let _ = unpack(&mut tar, tree, record, LIMIT_BYTES);
    }
}
