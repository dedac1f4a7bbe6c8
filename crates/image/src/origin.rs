//! Where an image's parts come from, resolved as far as can be without touching a layer.
//!
//! Registries and archives end here: behind this module both are the same, a config and a list of layers, each of
//! which knows how to get itself unpacked.

use std::sync::{Arc, atomic::Ordering};

use tokio::task::JoinHandle;

use crate::{
    Digest, Error, Platform, Result,
    archive::Archive,
    blob::{Expected, PipeReader, pipe},
    failures::Failures,
    layer::{Layout, StagedLayer, Working},
    manifest::{ConfigFile, Descriptor, Document, Manifest, choose},
    progress::Counters,
    registry::{Delivery, Session},
};

/// An index that points to an index that points to a manifest: deeper nesting has no use.
const MAX_INDEX_DEPTH: usize = 3;

/// An image that is known but not fetched.
pub(crate) struct Resolved {
    /// The bytes of the manifest; absent where an archive has none of its own.
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: ConfigFile,
    /// One for each diff id of the config, from the bottom up.
    pub(crate) layers: Vec<LayerSource>,
}

/// Where one layer's blob is.
#[derive(Clone)]
pub(crate) enum LayerSource {
    Registry { session: Arc<Session>, blob: Descriptor },
    Archive { archive: Arc<Archive>, member: String, expected: Expected },
}

/// Resolves an image at a registry. The digest is that of what the tag means: the index, if there is one.
pub(crate) async fn resolve_at_registry(
    session: &Arc<Session>,
    what: &str,
    tag_or_digest: &str,
    machine: &Platform,
) -> Result<(Digest, Resolved)> {
    let mut bytes = session.manifest(tag_or_digest).await?;
    let digest = Digest::of(&bytes);
    for _ in 0..MAX_INDEX_DEPTH {
        match Document::parse(what, &bytes)? {
            Document::Index(entries) => {
                let chosen = choose(what, &entries, machine)?;
                bytes = session.manifest(chosen.digest.as_str()).await?;
            }
            Document::Manifest(manifest) => {
                let config = session.small_blob(&manifest.config).await?;
                let layer = |blob| LayerSource::Registry { session: Arc::clone(session), blob };
                return Ok((digest, resolved(what, bytes, manifest, config, layer)?));
            }
        }
    }
    Err(too_deep(what))
}

/// Resolves what a descriptor in an OCI layout points to. Blocks.
pub(crate) fn resolve_in_layout(
    archive: &Arc<Archive>,
    what: &str,
    top: &Descriptor,
    machine: &Platform,
) -> Result<Resolved> {
    let mut bytes = archive.document_blob(&top.digest)?;
    for _ in 0..MAX_INDEX_DEPTH {
        match Document::parse(what, &bytes)? {
            Document::Index(entries) => {
                bytes = archive.document_blob(&choose(what, &entries, machine)?.digest)?
            }
            Document::Manifest(manifest) => {
                let config = archive.document_blob(&manifest.config.digest)?;
                let layer = |blob: Descriptor| LayerSource::Archive {
                    archive: Arc::clone(archive),
                    member: Archive::blob_member(&blob.digest),
                    expected: Expected { digest: Some(blob.digest), size: blob.size },
                };
                return resolved(what, bytes, manifest, config, layer);
            }
        }
    }
    Err(too_deep(what))
}

impl LayerSource {
    /// Gets the layer's blob and unpacks it in one pass, verified. Dropping the future stops the work soon, and
    /// removes what it made.
    pub(crate) async fn stage(
        self,
        layout: Layout,
        diff_id: Digest,
        limit: u64,
        counters: &Counters,
        working: Working,
    ) -> Result<StagedLayer> {
        let layer = self.digest(&diff_id);
        let staged = match self {
            Self::Registry { session, blob } => {
                stage_from_registry(&session, &blob, counters, |reader, expected| {
                    let (layout, diff_id, working) = (layout.clone(), diff_id.clone(), working.clone());
                    tokio::task::spawn_blocking(move || {
                        layout.stage_layer(reader, &expected, &diff_id, limit, working)
                    })
                })
                .await
            }
            Self::Archive { archive, member, expected } => {
                counters.bytes_done.fetch_add(expected.size, Ordering::Relaxed);
                let unpack = move || {
                    layout.stage_layer(archive.open_member(&member)?.1, &expected, &diff_id, limit, working)
                };
                tokio::task::spawn_blocking(unpack).await.map_err(|_| Error::Gone("unpack layer"))?
            }
        };
        staged.map_err(|source| Error::Layer { layer, source: Box::new(source) })
    }

    /// The compressed size.
    pub(crate) fn blob_bytes(&self) -> u64 {
        match self {
            Self::Registry { blob, .. } => blob.size,
            Self::Archive { expected, .. } => expected.size,
        }
    }

    fn digest(&self, diff_id: &Digest) -> Digest {
        match self {
            Self::Registry { blob, .. } => blob.digest.clone(),
            Self::Archive { expected, .. } => expected.digest.clone().unwrap_or_else(|| diff_id.clone()),
        }
    }
}

/// From the first place that has the whole blob, and the right one.
async fn stage_from_registry(
    session: &Session,
    blob: &Descriptor,
    counters: &Counters,
    unpack: impl Fn(PipeReader, Expected) -> JoinHandle<Result<StagedLayer>>,
) -> Result<StagedLayer> {
    let path = blob.digest.as_str();
    let mut sources = session.sources()?.into_iter().peekable();
    let mut failures = Failures::default();
    while let Some(place) = sources.next() {
        let expected = Expected { digest: Some(blob.digest.clone()), size: blob.size };
        let (writer, reader) = pipe();
        let delivery = Delivery::new(counters);
        let (sent, unpacked) =
            tokio::join!(session.stream_blob(place, blob, writer, &delivery), unpack(reader, expected));
        // A download that failed is also why the unpacking did.
        match sent.and_then(|()| unpacked.map_err(|_| Error::Gone("unpack layer"))?) {
            Err(error) if error.is_of_the_source() => {
                place.has_failed(path, &error);
                failures.add(place.api(), error);
            }
            Err(error) => return Err(error),
            Ok(staged) => {
                place.has_served(path);
                return Ok(staged);
            }
        }
        if sources.peek().is_some() {
            delivery.take_back();
        }
    }
    Err(failures.into_error().unwrap_or(Error::Gone("download from no source")))
}

fn resolved(
    what: &str,
    manifest_bytes: Vec<u8>,
    manifest: Manifest,
    config_bytes: Vec<u8>,
    layer: impl Fn(Descriptor) -> LayerSource,
) -> Result<Resolved> {
    let config = ConfigFile::parse(&format!("config of {what}"), &config_bytes, manifest.layers.len())?;
    let layers = manifest.layers.into_iter().map(layer).collect();
    Ok(Resolved { manifest: Some(manifest_bytes), config_bytes, config, layers })
}

fn too_deep(what: &str) -> Error {
    Error::TooLarge { what: format!("index of {what}"), limit: format!("{MAX_INDEX_DEPTH} nested indexes") }
}
