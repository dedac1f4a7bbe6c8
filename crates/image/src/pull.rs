//! From a resolved image to an entry in the catalog: the layers side by side, the commit at the end.
//!
//! Each layer is a flight of its own (see `flight`), so two images that share layers fetch them once. A layer is
//! installed after the one below it, because it may take attributes from there; fetching and unpacking do not wait.
//! When one layer fails, the flights that nobody else waits for are dropped, which stops them.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use berth_fault::point;
use futures_util::{
    FutureExt,
    future::{BoxFuture, try_join_all},
};
use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use crate::{
    ChainId, Digest, Error, Image, ImageConfig, ImageId, LayerInfo, Result,
    archive::plain_manifest,
    catalog::{Catalog, Hold},
    flight::Flights,
    gc::collect_later,
    layer::{Layout, Working},
    origin::{LayerSource, Resolved},
    progress::Counters,
};

/// Everything that bringing an image in needs; one for the whole store.
pub(crate) struct Intake {
    pub(crate) layout: Layout,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) layers: Flights<ChainId, LayerInfo>,
    /// Layers that may be downloaded and unpacked at once.
    pub(crate) slots: Semaphore,
    pub(crate) max_layer_bytes: u64,
}

/// A layer and all below it.
#[derive(Clone)]
struct Stack {
    /// Chain id, diff id and source, from the bottom up.
    layers: Arc<[(ChainId, Digest, LayerSource)]>,
    top: usize,
}

/// What the parts of one intake share.
#[derive(Clone)]
struct Run {
    counters: Arc<Counters>,
    working: Working,
}

impl Intake {
    /// Fetches what is missing of an image and makes it visible under the given names. On failure nothing stays
    /// that was not there before.
    pub(crate) async fn take_in(
        self: &Arc<Self>,
        resolved: Resolved,
        tags: &[String],
        digests: &[String],
        counters: Arc<Counters>,
    ) -> Result<ImageId> {
        let chain = ChainId::stack(&resolved.config.rootfs.diff_ids);
        let config = Digest::of(&resolved.config_bytes);
        let mut paths: Vec<PathBuf> = chain.iter().map(|chain_id| self.layout.layer(chain_id)).collect();
        paths.push(self.layout.blob(&config));
        paths.extend(resolved.manifest.as_ref().map(|bytes| self.layout.blob(&Digest::of(bytes))));
        let mut hold = Hold::new(&self.catalog, paths);
        let (working, mut idle) = mpsc::channel(1);
        let run = Run { counters, working };
        let outcome = self.fetch_and_publish(resolved, chain, config, (tags, digests), run, &mut hold).await;
        // Work on the disk cannot be dropped as flights can; it ends soon, and then it is time to clear up.
        let _ = idle.recv().await;
        // After success nothing of this is collected, but what is used is counted anew.
        let candidates = hold.release();
        collect_later(self.layout.clone(), Arc::clone(&self.catalog), candidates).await;
        outcome
    }

    async fn fetch_and_publish(
        self: &Arc<Self>,
        resolved: Resolved,
        chain: Vec<ChainId>,
        config: Digest,
        (tags, digests): (&[String], &[String]),
        run: Run,
        hold: &mut Hold,
    ) -> Result<ImageId> {
        let Resolved { manifest, config_bytes, config: file, layers } = resolved;
        run.counters.layers.store(layers.len() as u64, Ordering::Relaxed);
        let diff_ids = file.rootfs.diff_ids;
        let stack: Arc<[_]> = chain
            .into_iter()
            .zip(diff_ids)
            .zip(layers)
            .map(|((chain, diff), source)| (chain, diff, source))
            .collect();
        let all = (0..stack.len()).map(async |top| {
            let layer = self.layer(Stack { layers: Arc::clone(&stack), top }, &run).await?;
            run.counters.layers_done.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Error>(layer)
        });
        let layers = try_join_all(all).await?;
        let manifest = manifest.unwrap_or_else(|| plain_manifest(&config, config_bytes.len(), &layers));
        let (layout, id) = (self.layout.clone(), ImageId(config.clone()));
        let manifest_digest = Digest::of(&manifest);
        let digest = manifest_digest.clone();
        hold.extend(self.layout.blob(&digest));
        // An import may have left a manifest of its own making for the same image.
        let known = self.catalog.snapshot().get(&id).map(|image| self.layout.blob(&image.manifest));
        known.into_iter().for_each(|path| hold.extend(path));
        let write = move || {
            point!("write manifest and config").pass()?;
            layout.write_blob(&config, &config_bytes)?;
            layout.write_blob(&digest, &manifest)?;
            layout.sync()?;
            Ok::<_, Error>(layout.blob_usage(&config)? + layout.blob_usage(&digest)?)
        };
        let documents_bytes =
            tokio::task::spawn_blocking(write).await.map_err(|_| Error::Gone("write manifest"))??;
        let image = Image {
            id,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            manifest: manifest_digest,
            platform: file.platform,
            config: ImageConfig::from(file.config.unwrap_or_default()),
            layers,
            documents_bytes,
        };
        self.catalog.publish(image, tags, digests).await
    }

    /// The top layer of a stack in its place; joined if somebody else is at it.
    fn layer(self: &Arc<Self>, stack: Stack, run: &Run) -> BoxFuture<'static, Result<LayerInfo>> {
        let (intake, run) = (Arc::clone(self), run.clone());
        async move {
            let chain_id = stack.layers[stack.top].0.clone();
            let again = Arc::clone(&intake);
            intake.layers.join(chain_id, || again.fetch_layer(stack, run).boxed()).await
        }
        .boxed()
    }

    async fn fetch_layer(self: Arc<Self>, stack: Stack, run: Run) -> Result<LayerInfo> {
        let (chain_id, diff_id, source) = stack.layers[stack.top].clone();
        // The caller holds the path, so a layer that is there stays.
        if let Some(layer) = self.catalog.live().layers.get(&chain_id) {
            return Ok(layer.clone());
        }
        run.counters.bytes.fetch_add(source.blob_bytes(), Ordering::Relaxed);
        let staged = {
            point!("fetch layer").pass_in_task().await?;
            let _slot = self.slots.acquire().await.map_err(|_| Error::Gone("unpack layer"))?;
            source
                .stage(
                    self.layout.clone(),
                    diff_id.clone(),
                    self.max_layer_bytes,
                    &run.counters,
                    run.working.clone(),
                )
                .await?
        };
        if stack.top > 0 {
            let below = Stack { layers: Arc::clone(&stack.layers), top: stack.top - 1 };
            self.layer(below, &run).await?;
        }
        let below: Vec<_> =
            stack.layers[..stack.top].iter().rev().map(|(chain_id, ..)| chain_id.clone()).collect();
        let (layout, id) = (self.layout.clone(), chain_id.clone());
        let install = tokio::task::spawn_blocking(move || layout.install_layer(staged, id, &below));
        let layer = install.await.map_err(|_| Error::Gone("install layer"))??;
        self.catalog.live().layers.insert(chain_id.clone(), layer.clone());
        debug!(layer = %chain_id, digest = %diff_id, bytes = layer.used_bytes, "layer installed");
        Ok(layer)
    }
}
