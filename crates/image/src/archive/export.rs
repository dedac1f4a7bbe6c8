//! Images into one tarball that is an OCI layout and a docker-archive at once. Blocks.
//!
//! The layers are the tars that they were, written again byte for byte from the unpacked trees and their records
//! (see `tap`), and uncompressed. So the config is the same, and with it the image's id; the manifest is a new one,
//! because it names the tars themselves.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use super::Archive;
use crate::{
    Digest, Error, Image, LayerInfo, Result,
    layer::Layout,
    manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST},
    tap,
};

/// One image and the names under which it is exported.
pub(crate) struct Export {
    pub(crate) image: Arc<Image>,
    pub(crate) tags: Vec<String>,
}

/// A tarball that is compressed as its name says.
enum Output {
    Plain(File),
    Gzip(GzEncoder<File>),
    Zstd(zstd::stream::write::Encoder<'static, File>),
}

/// Writes images to a file, which appears when it is complete. `.gz`, `.tgz` and `.zst` compress.
pub(crate) fn export(layout: &Layout, images: &[Export], path: &Path) -> Result<()> {
    let failed = || Error::io("write archive", path);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(parent).map_err(failed())?;
    let output = Output::new(temporary.reopen().map_err(failed())?, path).map_err(failed())?;
    let mut writer = Writer { layout, path, tar: tar::Builder::new(output), written: HashSet::new() };
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    for export in images {
        let (entries, image) = writer.add_image(export)?;
        index.extend(entries);
        docker.push(image);
    }
    writer.add("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index});
    writer.add("index.json", index.to_string().as_bytes())?;
    writer.add("manifest.json", serde_json::Value::from(docker).to_string().as_bytes())?;
    writer.tar.into_inner().and_then(Output::finish).map_err(failed())?;
    temporary.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// A manifest of a config and the layers' tars as they are, uncompressed.
pub(crate) fn plain_manifest(config: &Digest, config_bytes: usize, layers: &[LayerInfo]) -> Vec<u8> {
    let descriptor = |media_type: &str, digest: &Digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        platform: None,
        annotations: Default::default(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config: descriptor(OCI_CONFIG, config, config_bytes as u64),
        layers: layers.iter().map(|layer| descriptor(OCI_LAYER, &layer.diff_id, layer.tar_bytes)).collect(),
    };
    // Strings and numbers always serialize.
    serde_json::to_vec(&manifest).unwrap_or_default()
}

struct Writer<'a> {
    layout: &'a Layout,
    path: &'a Path,
    tar: tar::Builder<Output>,
    written: HashSet<String>,
}

impl Writer<'_> {
    /// Writes an image's blobs; its entries for the one index and for the other.
    fn add_image(&mut self, export: &Export) -> Result<(Vec<serde_json::Value>, serde_json::Value)> {
        let image = &export.image;
        let config = self.layout.read_blob(&image.id.0)?;
        let manifest = plain_manifest(&image.id.0, config.len(), &image.layers);
        let digest = Digest::of(&manifest);
        self.add(&Archive::blob_member(&image.id.0), &config)?;
        self.add(&Archive::blob_member(&digest), &manifest)?;
        for layer in &image.layers {
            self.add_layer(layer)?;
        }
        let entry = |annotations: serde_json::Value| {
            json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.len(), "platform": image.platform,
                   "annotations": annotations})
        };
        let named = |tag: &String| {
            entry(json!({"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": tag}))
        };
        let entries = if export.tags.is_empty() {
            vec![entry(json!({}))]
        } else {
            export.tags.iter().map(named).collect()
        };
        let layers: Vec<_> = image.layers.iter().map(|layer| Archive::blob_member(&layer.diff_id)).collect();
        let docker =
            json!({"Config": Archive::blob_member(&image.id.0), "RepoTags": export.tags, "Layers": layers});
        Ok((entries, docker))
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.written.insert(name.to_owned()) {
            self.begin(name, bytes.len() as u64)?;
            self.end(|output| output.write_all(bytes), bytes.len() as u64)?;
        }
        Ok(())
    }

    fn add_layer(&mut self, layer: &LayerInfo) -> Result<()> {
        let name = Archive::blob_member(&layer.diff_id);
        if !self.written.insert(name.clone()) {
            return Ok(());
        }
        self.begin(&name, layer.tar_bytes)?;
        let directory: PathBuf = self.layout.layer(&layer.chain_id);
        let actual = tap::replay(&directory, self.tar.get_mut())?;
        if actual != layer.diff_id {
            let what = format!("layer in {}", directory.display());
            return Err(Error::Mismatch { what, expected: layer.diff_id.clone(), actual });
        }
        self.end(|_| Ok(()), layer.tar_bytes)
    }

    fn begin(&mut self, name: &str, size: u64) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        header
            .set_path(name)
            .and_then(|()| {
                header.set_cksum();
                self.tar.append(&header, io::empty())
            })
            .map_err(Error::io("write archive", self.path))
    }

    /// Writes content and fills it up to whole blocks.
    fn end(&mut self, content: impl FnOnce(&mut Output) -> io::Result<()>, size: u64) -> Result<()> {
        let output = self.tar.get_mut();
        let padding = (512 - size % 512) % 512;
        content(output)
            .and_then(|()| output.write_all(&[0; 512][..padding as usize]))
            .map_err(Error::io("write archive", self.path))
    }
}

impl Output {
    fn new(file: File, path: &Path) -> io::Result<Self> {
        Ok(match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz" | "tgz") => Self::Gzip(GzEncoder::new(file, Compression::default())),
            Some("zst") => Self::Zstd(zstd::stream::write::Encoder::new(file, 0)?),
            _ => Self::Plain(file),
        })
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.sync_all(),
            Self::Gzip(encoder) => encoder.finish()?.sync_all(),
            Self::Zstd(encoder) => encoder.finish()?.sync_all(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
