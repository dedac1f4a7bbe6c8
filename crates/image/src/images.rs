//! The image store as the rest of the agent uses it.
//!
//! Reads ([`ImageStore::list`], [`find`](ImageStore::find), [`fs_info`](ImageStore::fs_info)) answer from a snapshot.
//! Work runs on tasks of its own: a caller who stops waiting cancels nothing, and one who comes back, or comes
//! second, joins. Credentials are part of what makes two pulls the same.

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;
use berth_fault::point;
use berth_store::Store;
use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWriteExt},
    sync::Semaphore,
};
use tracing::{Instrument, info};

use crate::{
    Auth, Digest, Error, FailedPull, FsInfo, Image, ImageId, KeptImages, Platform, PullProgress, Reference,
    RegistryConfig, Result,
    archive::{self, Archive, Export, Named, images_in},
    catalog::{Catalog, Hold},
    failed::FailedPulls,
    flight::Flights,
    gc,
    layer::Layout,
    origin::resolve_at_registry,
    progress::{Board, Counters, telling},
    pull::Intake,
    registry::Transport,
    rootfs,
};

/// The images of a node; cloning it is cheap.
#[derive(Clone)]
pub struct ImageStore(Arc<Inner>);

struct Inner {
    layout: Layout,
    catalog: Arc<Catalog>,
    intake: Arc<Intake>,
    transport: Transport,
    machine: Platform,
    pulls: Flights<(String, Option<Auth>), ImageId>,
    board: Board,
    failed: FailedPulls,
    kept: ArcSwap<KeptImages>,
}

/// An image that an archive had.
#[derive(Debug, Clone)]
pub struct Imported {
    /// As it is known now, which may be by other names, too.
    pub image: Arc<Image>,
    /// Its names with tags in the archive.
    pub names: Vec<String>,
}

/// What to pull, and with which credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// As the user wrote it.
    pub reference: String,
    /// For the registry that the reference names; never sent to a mirror.
    pub auth: Option<Auth>,
}

/// What came of a pull.
struct Fetched {
    id: ImageId,
    digest: Digest,
    /// The endpoints that it came from, with how many answers each.
    served: String,
}

impl ImageStore {
    /// Opens the image store in a directory, made when missing, and removes what no image owns.
    ///
    /// No other process may use the directory; the database's lock is the guard.
    pub async fn open(root: &Path, store: Store, registries: RegistryConfig) -> Result<Self> {
        let max_layer_bytes = registries.max_layer_bytes();
        let slots = Semaphore::new(registries.parallel_layers);
        let transport = Transport::new(registries)?;
        let root = root.to_owned();
        let layout = blocking("open image store", move || Layout::create(&root)).await?;
        let catalog = Arc::new(Catalog::load(store, layout.clone()).await?);
        {
            let (layout, catalog) = (layout.clone(), Arc::clone(&catalog));
            blocking("reconcile image store", move || gc::reconcile(&layout, &catalog)).await?;
        }
        let intake = Arc::new(Intake {
            layout: layout.clone(),
            catalog: Arc::clone(&catalog),
            layers: Flights::new(),
            slots,
            max_layer_bytes,
        });
        let machine = Platform::of_this_machine();
        let (pulls, board) = (Flights::new(), Board::default());
        Ok(Self(Arc::new(Inner {
            layout,
            catalog,
            intake,
            transport,
            machine,
            pulls,
            board,
            failed: FailedPulls::default(),
            kept: ArcSwap::default(),
        })))
    }

    /// Pulls an image from its registry, or from a mirror of it; what is here already is not fetched again.
    ///
    /// Dropping the future does not stop the pull; equal requests join it.
    pub async fn pull(&self, request: &PullRequest) -> Result<ImageId> {
        let reference = Reference::parse(&request.reference)?;
        let (store, auth) = (self.clone(), request.auth.clone());
        let span = tracing::info_span!("pull", image.ref = %reference);
        let key = (reference.to_string(), auth.clone());
        // The task itself is one of those who wait for the flight, so the flight outlives its callers.
        let pull = async move {
            let work = store.clone();
            store
                .0
                .pulls
                .join(key, || async move { work.pull_from_registry(&reference, auth).await }.boxed())
                .await
        };
        tokio::spawn(pull.instrument(span)).await.map_err(|_| Error::Gone("pull image"))?
    }

    /// Pulls that failed lately, and have not succeeded since, nor was an image of that name imported.
    pub fn failed_pulls(&self) -> Vec<FailedPull> {
        self.0.failed.all()
    }

    /// All images, in the order of their ids.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.catalog.snapshot().values().cloned().collect()
    }

    /// Finds an image by name, name with digest, id, or the beginning of an id.
    ///
    /// Errors: invalid when the beginning of an id fits several.
    pub fn find(&self, text: &str) -> Result<Option<Arc<Image>>> {
        self.0.catalog.find(text)
    }

    /// Removes an image with all its names, whichever of them is given; one that is absent is removed already, but for
    /// files that could not be.
    ///
    /// Errors: wrong state while a holder has it pinned; a file, after which the image is gone all the same.
    pub async fn remove(&self, text: &str) -> Result<()> {
        let image = self.find(text)?;
        let store = self.clone();
        let removal = async move {
            let Some(image) = image else { return store.collect(Vec::new()).await };
            store.0.catalog.forget(&image.id).await?;
            let candidates = store.0.catalog.files_of(&image);
            store.collect(candidates).await?;
            info!(image.id = %image.id, "image removed");
            Ok(())
        };
        tokio::spawn(removal.in_current_span()).await.map_err(|_| Error::Gone("remove image"))?
    }

    /// Says which images are to be kept: a kubelet is told that they are pinned, and [`prune`](Self::prune) spares
    /// them.
    pub fn keep(&self, images: KeptImages) {
        self.0.kept.store(Arc::new(images));
    }

    /// Whether an image is to be kept.
    pub fn is_kept(&self, image: &Image) -> bool {
        self.0.kept.load().contains(image)
    }

    /// Removes every image that no holder has pinned and nobody wants to keep, and tells which.
    pub async fn prune(&self) -> Result<Vec<ImageId>> {
        let mut removed = Vec::new();
        for image in self.list() {
            if self.is_kept(&image) {
                continue;
            }
            // Not looked at before: a holder may pin it at any moment.
            match self.remove(&image.id.to_string()).await {
                Ok(()) => removed.push(image.id.clone()),
                Err(Error::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Keeps an image while a holder uses it. A holder has one image; pins are not stored, so their holders take
    /// them anew after a restart.
    ///
    /// Errors: not found, also while it is being removed.
    pub fn pin(&self, image: &ImageId, holder: &str) -> Result<Arc<Image>> {
        self.0.catalog.pin(image, holder)
    }

    /// Ends a holder's use; one that has no pin has ended it already.
    pub fn unpin(&self, holder: &str) {
        self.0.catalog.unpin(holder);
    }

    /// The image's layers as overlay lower directories, topmost first.
    pub fn rootfs_layers(&self, image: &Image) -> Vec<PathBuf> {
        rootfs::lower_dirs(&self.0.layout.layers, image)
    }

    /// What the images use on the disk, as of the last change. Pulls under way are not in it.
    pub fn fs_info(&self) -> FsInfo {
        self.0.catalog.usage()
    }

    /// The pulls under way.
    pub fn progress(&self) -> Vec<PullProgress> {
        self.0.board.read()
    }

    /// Everything in the store's directory that an image has or that work under way needs.
    pub fn needs(&self) -> HashSet<PathBuf> {
        let catalog = &self.0.catalog;
        let mut needed: HashSet<PathBuf> = catalog.live().holds.keys().cloned().collect();
        needed.extend(catalog.snapshot().values().flat_map(|image| catalog.files_of(image)));
        needed.extend(self.0.layout.in_work());
        needed
    }

    /// Removes those of the paths in the store's directory that are not among what it [`needs`](Self::needs); absent means
    /// done.
    pub async fn remove_strays(&self, paths: Vec<PathBuf>) -> Result<()> {
        let layout = self.0.layout.clone();
        let (ingested, placed): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(|path| path.starts_with(&*layout.ingest));
        self.collect(placed).await?;
        let remove = move || ingested.iter().try_for_each(|path| layout.remove_ingested(path));
        blocking("remove strays", remove).await
    }

    /// The bytes of an image's config, as its id promises them.
    pub async fn config_json(&self, image: &Image) -> Result<Vec<u8>> {
        let (layout, digest) = (self.0.layout.clone(), image.id.0.clone());
        blocking("read config", move || layout.read_blob(&digest)).await
    }

    /// Imports the images of an OCI layout or docker-archive: a directory, or a tarball, plain or compressed with
    /// gzip or zstd.
    pub async fn import(&self, path: &Path) -> Result<Vec<Imported>> {
        let (store, path) = (self.clone(), path.to_owned());
        let import = async move {
            let imported = store.import_file(path).await?;
            for name in imported.iter().flat_map(|one| &one.names) {
                // It is here now, from wherever.
                store.0.failed.note(name, &Ok(()));
            }
            Ok(imported)
        };
        tokio::spawn(import.in_current_span()).await.map_err(|_| Error::Gone("import images"))?
    }

    /// Imports from a tarball that arrives as a stream.
    pub async fn import_stream(&self, mut stream: impl AsyncRead + Unpin) -> Result<Vec<Imported>> {
        let layout = self.0.layout.clone();
        let directory = blocking("spool archive", move || layout.ingest_directory()).await?;
        let path = directory.path().join("stream.tar");
        let failed = || Error::io("spool archive to", &path);
        let mut file = tokio::fs::File::create(&path).await.map_err(failed())?;
        tokio::io::copy(&mut stream, &mut file).await.map_err(failed())?;
        file.flush().await.map_err(failed())?;
        let imported = self.import(&path).await;
        let _ = blocking("delete archive", move || directory.close().map_err(Error::io("delete", "archive")))
            .await;
        imported
    }

    /// Exports images into one tarball that is an OCI layout and a docker-archive at once, compressed if the
    /// path's extension is `gz`, `tgz` or `zst`. An image named by a tag gets that tag only, else all of its tags.
    pub async fn export(&self, images: &[String], path: &Path) -> Result<()> {
        let mut exports = Vec::new();
        for text in images {
            let image = self.find(text)?.ok_or_else(|| Error::NotFound { text: text.clone() })?;
            let tag = Reference::parse(text).ok().and_then(|reference| reference.repo_tag());
            let tags = match tag.filter(|tag| image.repo_tags.contains(tag)) {
                Some(tag) => vec![tag],
                None => image.repo_tags.clone(),
            };
            exports.push(Export { image, tags });
        }
        let files = exports.iter().flat_map(|export| self.0.catalog.files_of(&export.image)).collect();
        let hold = Hold::new(&self.0.catalog, files);
        let (layout, path) = (self.0.layout.clone(), path.to_owned());
        let exported = blocking("export images", move || archive::export(&layout, &exports, &path)).await;
        // Removed meanwhile, they were kept for us.
        self.collect(hold.release()).await?;
        exported
    }

    async fn pull_from_registry(&self, reference: &Reference, auth: Option<Auth>) -> Result<ImageId> {
        let begun = Instant::now();
        let counters = self.0.board.register(reference.to_string());
        let fetch = self.fetch_from_registry(reference, auth, Arc::clone(&counters));
        let fetched = telling(fetch, &counters, log_progress).await;
        self.0.failed.note(&reference.to_string(), &fetched);
        let Fetched { id, digest, served } = fetched?;
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        let bytes = counters.read().bytes_done;
        info!(image.id = %id, digest = %digest, served, bytes, elapsed_ms, "image pulled");
        Ok(id)
    }

    async fn fetch_from_registry(
        &self,
        reference: &Reference,
        auth: Option<Auth>,
        counters: Arc<Counters>,
    ) -> Result<Fetched> {
        let (store, named) = (self.clone(), reference.clone());
        // Building an HTTP client reads the machine's certificates.
        let session = blocking("prepare pull", move || store.0.transport.session(&named, auth.as_ref()));
        let session = Arc::new(session.await?);
        let what = reference.to_string();
        point!("ask the registry for the image").pass_in_task().await?;
        let (digest, resolved) =
            resolve_at_registry(&session, &what, reference.manifest(), &self.0.machine).await?;
        let tags: Vec<_> = reference.repo_tag().into_iter().collect();
        let digests = [reference.repo_digest(&digest)];
        let id = self.0.intake.take_in(resolved, &tags, &digests, counters).await?;
        Ok(Fetched { id, digest, served: session.served() })
    }

    async fn import_file(&self, path: PathBuf) -> Result<Vec<Imported>> {
        let (layout, machine) = (self.0.layout.clone(), self.0.machine.clone());
        let shown = path.display().to_string();
        let named = move || images_in(&Arc::new(Archive::open(&path, &layout.ingest)?), &machine);
        let mut imported: Vec<(ImageId, Vec<String>)> = Vec::new();
        for Named { image, tags, digests } in blocking("read archive", named).await? {
            let counters = self.0.board.register(tags.first().unwrap_or(&shown).clone());
            let id = self.0.intake.take_in(image, &tags, &digests, counters).await?;
            info!(image.id = %id, image.ref = tags.first(), "image imported");
            match imported.iter_mut().find(|(known, _)| *known == id) {
                Some((_, names)) => names.extend(tags),
                None => imported.push((id, tags)),
            }
        }
        let snapshot = self.0.catalog.snapshot();
        let found = |(id, names)| Some(Imported { image: snapshot.get(&id)?.clone(), names });
        Ok(imported.into_iter().filter_map(found).collect())
    }

    async fn collect(&self, candidates: Vec<PathBuf>) -> Result<()> {
        let (layout, catalog) = (self.0.layout.clone(), Arc::clone(&self.0.catalog));
        blocking("collect garbage", move || gc::collect(&layout, &catalog, candidates)).await
    }
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageStore").field(&self.0.layout.root).finish()
    }
}

fn log_progress(now: PullProgress) {
    let PullProgress { layers_done, layers, bytes_done: bytes, bytes: expected_bytes, .. } = now;
    info!(layers_done, layers, bytes, expected_bytes, "image pull under way");
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Gone(what))?
}
