//! Which images there are: the records in the database, and the snapshot of them that everybody reads.
//!
//! One change at a time: compute the new snapshot, commit it (the one line after which an image exists or is gone),
//! swap it in. Beside it, under a lock that is held for moments only, stand the facts that live as long as the
//! process: who uses which image, and which files belong to pulls under way.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use berth_fault::point;
use berth_store::{Change, Durability, Record, Store};
use tracing::warn;

use crate::{
    ChainId, DiskUsage, Error, FsInfo, Image, ImageId, LayerInfo, Reference, Result, digest::is_hex,
    layer::Layout, survey::files_of_unreadable,
};

/// The images at one moment, by id.
pub(crate) type Snapshot = BTreeMap<ImageId, Arc<Image>>;

pub(crate) struct Catalog {
    store: Store,
    layout: Layout,
    snapshot: ArcSwap<Snapshot>,
    usage: ArcSwap<FsInfo>,
    /// Held while a change is computed, committed and swapped in.
    changing: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
}

/// What no restart preserves.
#[derive(Default)]
pub(crate) struct Live {
    /// The image that each holder uses.
    pins: HashMap<String, ImageId>,
    /// Images whose removal has been decided.
    leaving: HashSet<ImageId>,
    /// How many pulls want each file to stay.
    pub(crate) holds: HashMap<PathBuf, usize>,
    /// Files that nobody needs and that could not be removed, for the next collection.
    pub(crate) overdue: HashSet<PathBuf>,
    /// Every layer in its place, whether an image has it already or a pull still works on it.
    pub(crate) layers: HashMap<ChainId, LayerInfo>,
}

/// Keeps files from being collected while a pull needs them.
pub(crate) struct Hold {
    catalog: Arc<Catalog>,
    paths: Vec<PathBuf>,
}

impl Record for Image {
    const TABLE: &'static str = "images";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.id.to_string()
    }
}

impl Catalog {
    /// Reads the records back. An image with a missing file is of no use, and is forgotten.
    pub(crate) async fn load(store: Store, layout: Layout) -> Result<Self> {
        let loaded = store.load::<Image>().await?;
        for row in &loaded.quarantined {
            warn!(image.id = row.key, error = row.reason, "image record set aside");
        }
        let usage = FsInfo { mountpoint: layout.root.to_path_buf(), used: DiskUsage::default() };
        let catalog = Self {
            store,
            layout,
            snapshot: ArcSwap::default(),
            usage: ArcSwap::from_pointee(usage),
            changing: tokio::sync::Mutex::default(),
            live: Mutex::default(),
        };
        let (whole, broken): (Vec<_>, Vec<_>) = loaded
            .records
            .into_iter()
            .partition(|image| catalog.files_of(image).iter().all(|path| path.exists()));
        let mut change = Change::new();
        for image in &broken {
            warn!(image.id = %image.id, "image forgotten: its files are gone");
            change = change.delete::<Image>(image.key());
        }
        if !broken.is_empty() {
            catalog.store.commit(change, Durability::Power).await?;
        }
        let snapshot: Snapshot = whole.into_iter().map(|image| (image.id.clone(), Arc::new(image))).collect();
        let layers = snapshot.values().flat_map(|image| image.layers.iter());
        catalog.live().layers = layers.map(|layer| (layer.chain_id.clone(), layer.clone())).collect();
        // Containers may be running from an image whose record can't be read; its files stay until an agent starts that
        // finds no such record.
        let set_aside = catalog.store.set_aside().await?;
        for row in set_aside.iter().filter(|row| row.table == Image::TABLE) {
            let files = files_of_unreadable(&catalog.layout.root, &row.key);
            catalog.live().holds.extend(files.into_iter().map(|path| (path, 1)));
        }
        catalog.snapshot.store(Arc::new(snapshot));
        Ok(catalog)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn usage(&self) -> FsInfo {
        FsInfo::clone(&self.usage.load())
    }

    /// For moments; never across an await or a wait for the disk that could hang.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an image visible, under a tag and a digest where it has them; a tag moves here from the image that
    /// had it.
    pub(crate) async fn publish(
        &self,
        mut image: Image,
        tags: &[String],
        digests: &[String],
    ) -> Result<ImageId> {
        let _changing = self.changing.lock().await;
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        let mut change = Change::new();
        for other in snapshot.values_mut() {
            if other.id != image.id && other.repo_tags.iter().any(|tag| tags.contains(tag)) {
                let mut without = Image::clone(other);
                without.repo_tags.retain(|tag| !tags.contains(tag));
                change = change.put(&without)?;
                *other = Arc::new(without);
            }
        }
        if let Some(known) = snapshot.get(&image.id) {
            image.repo_tags.clone_from(&known.repo_tags);
            image.repo_digests.clone_from(&known.repo_digests);
        }
        merge(&mut image.repo_tags, tags);
        merge(&mut image.repo_digests, digests);
        let id = image.id.clone();
        point!("record image").pass_in_task().await?;
        // The commit: before this line the image is invisible, after it it is there, power cut or not.
        self.store.commit(change.put(&image)?, Durability::Power).await?;
        snapshot.insert(id.clone(), Arc::new(image));
        self.snapshot.store(Arc::new(snapshot));
        Ok(id)
    }

    /// Forgets an image; its files are for the garbage collection.
    ///
    /// Errors: wrong state while it is pinned.
    pub(crate) async fn forget(&self, id: &ImageId) -> Result<()> {
        let _changing = self.changing.lock().await;
        point!("forget image").pass_in_task().await?;
        {
            let mut live = self.live();
            if let Some((holder, _)) = live.pins.iter().find(|(_, pinned)| *pinned == id) {
                return Err(Error::InUse { image: id.clone(), holder: holder.clone() });
            }
            // From here on nobody can pin it, so the check above stays true.
            live.leaving.insert(id.clone());
        }
        let committed =
            self.store.commit(Change::new().delete::<Image>(id.to_string()), Durability::Power).await;
        if committed.is_ok() {
            let mut snapshot = Snapshot::clone(&self.snapshot.load());
            snapshot.remove(id);
            self.snapshot.store(Arc::new(snapshot));
        }
        self.live().leaving.remove(id);
        Ok(committed?)
    }

    /// Finds an image by name, name with digest, id, or the beginning of an id that only one image has.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Arc<Image>>> {
        find_in(&self.snapshot.load(), text)
    }

    pub(crate) fn pin(&self, id: &ImageId, holder: &str) -> Result<Arc<Image>> {
        let mut live = self.live();
        let image = self.snapshot.load().get(id).cloned().filter(|_| !live.leaving.contains(id));
        let image = image.ok_or_else(|| Error::NotFound { text: id.to_string() })?;
        live.pins.insert(holder.to_owned(), id.clone());
        Ok(image)
    }

    pub(crate) fn unpin(&self, holder: &str) {
        self.live().pins.remove(holder);
    }

    /// Everything that lies on the disk for an image.
    pub(crate) fn files_of(&self, image: &Image) -> Vec<PathBuf> {
        self.layout.files_of(image)
    }

    /// Counts anew what the images use; each layer once.
    pub(crate) fn measure(&self) -> Result<()> {
        let mut used = self.layout.own_usage()?;
        let snapshot = self.snapshot.load();
        let mut counted = HashSet::new();
        for layer in snapshot.values().flat_map(|image| &image.layers) {
            if counted.insert(&layer.chain_id) {
                used = used.and(DiskUsage { bytes: layer.used_bytes, inodes: layer.used_inodes });
            }
        }
        for image in snapshot.values() {
            used = used.and(DiskUsage { bytes: image.documents_bytes, inodes: 2 });
        }
        let mountpoint = self.layout.root.to_path_buf();
        self.usage.store(Arc::new(FsInfo { mountpoint, used }));
        Ok(())
    }
}

impl Hold {
    /// Holds files, whether they exist already or not.
    pub(crate) fn new(catalog: &Arc<Catalog>, paths: Vec<PathBuf>) -> Self {
        let mut live = catalog.live();
        for path in &paths {
            *live.holds.entry(path.clone()).or_default() += 1;
        }
        drop(live);
        Self { catalog: Arc::clone(catalog), paths }
    }

    /// Holds one more file.
    pub(crate) fn extend(&mut self, path: PathBuf) {
        *self.catalog.live().holds.entry(path.clone()).or_default() += 1;
        self.paths.push(path);
    }

    /// Lets go, and tells what was held.
    pub(crate) fn release(mut self) -> Vec<PathBuf> {
        let paths = std::mem::take(&mut self.paths);
        release(&self.catalog, &paths);
        paths
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        release(&self.catalog, &self.paths);
    }
}

fn release(catalog: &Catalog, paths: &[PathBuf]) {
    let mut live = catalog.live();
    for path in paths {
        if let Some(count) = live.holds.get_mut(path) {
            *count -= 1;
            if *count == 0 {
                live.holds.remove(path);
            }
        }
    }
}

fn find_in(images: &Snapshot, text: &str) -> Result<Option<Arc<Image>>> {
    if let Ok(reference) = Reference::parse(text) {
        let tag = reference.repo_tag();
        let digest = reference.digest().map(|digest| reference.repo_digest(digest));
        let is_named = |image: &&Arc<Image>| {
            tag.as_ref().is_some_and(|tag| image.repo_tags.contains(tag))
                || digest.as_ref().is_some_and(|digest| image.repo_digests.contains(digest))
        };
        if let Some(image) = images.values().find(is_named) {
            return Ok(Some(Arc::clone(image)));
        }
    }
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    if !is_hex(prefix) {
        return Ok(None);
    }
    let mut fitting = images.values().filter(|image| image.id.0.hex().starts_with(prefix));
    match (fitting.next(), fitting.next()) {
        (Some(_), Some(_)) => Err(Error::Ambiguous { text: text.to_owned() }),
        (only, _) => Ok(only.cloned()),
    }
}

fn merge(names: &mut Vec<String>, more: &[String]) {
    names.extend_from_slice(more);
    names.sort();
    names.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, ImageConfig, Platform};

    fn image(hex: &str, tag: &str) -> Image {
        let id = Digest::parse(&format!("sha256:{hex:0<64}")).unwrap();
        let manifest = Digest::of(hex.as_bytes());
        Image {
            id: ImageId(id),
            repo_tags: vec![format!("docker.io/library/{tag}")],
            repo_digests: vec![format!("docker.io/library/{}@{manifest}", tag.split(':').next().unwrap())],
            manifest,
            platform: Platform::default(),
            config: ImageConfig::default(),
            layers: Vec::new(),
            documents_bytes: 0,
        }
    }

    fn images() -> Snapshot {
        [image("abc1", "busybox:latest"), image("abc2", "cafe:1"), image("d", "busybox:1")]
            .into_iter()
            .map(|image| (image.id.clone(), Arc::new(image)))
            .collect()
    }

    #[test]
    fn images_are_found_by_every_name_that_is_theirs() {
        let images = images();
        let digest = Digest::of(b"abc2");
        let check = |text: &str, expected: Option<&str>| {
            let found = find_in(&images, text).unwrap().map(|image| image.id.0.hex()[..4].to_owned());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("busybox", Some("abc1"));
        check("docker.io/library/busybox:1", Some("d000"));
        check("busybox:2", None);
        check("cafe", None);
        check(&format!("cafe@{digest}"), Some("abc2"));
        check(&format!("cafe:other@{digest}"), Some("abc2"));
        check(&format!("busybox@{digest}"), None);
        check("abc1", Some("abc1"));
        check("sha256:abc2", Some("abc2"));
        check(&format!("{:0<64}", "d"), Some("d000"));
        check("e", None);
        check("", None);
        check("sha256:", None);
    }

    #[test]
    fn a_short_id_that_fits_two_images_is_an_error() {
        assert!(matches!(find_in(&images(), "abc"), Err(Error::Ambiguous { .. })));
    }
}
