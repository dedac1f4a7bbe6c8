//! The image store's directory: where things lie, how they come into being whole, and how they go.
//!
//! Whatever is made grows in `ingest` and is renamed to its place when it is complete and verified; whatever is
//! deleted is renamed into `ingest` first. So nothing outside of `ingest` is ever incomplete, and a crash leaves
//! its leftovers where the next start clears them. Everything here blocks.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use berth_fault::point;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use tempfile::TempDir;

use crate::{
    ChainId, Digest, Error, Image, LayerInfo, Result,
    blob::{self, Expected},
    removal::remove_tree,
    rootfs,
    tap::RECORD,
    tree::{self, Found},
    unpack::{Unpacked, unpack},
    usage::{DiskUsage, disk_usage},
};

/// The paths of an image store; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: Arc<Path>,
    pub(crate) layers: Arc<Path>,
    pub(crate) blobs: Arc<Path>,
    pub(crate) ingest: Arc<Path>,
    /// What of `ingest` somebody works on.
    in_work: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A directory in `ingest` that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct IngestDirectory {
    path: PathBuf,
    /// Not once it has been renamed away or removed.
    is_there: bool,
    in_work: Arc<Mutex<HashSet<PathBuf>>>,
}

/// A layer that is unpacked and verified but has no place yet; dropping it removes it, on another thread.
#[derive(Debug)]
pub(crate) struct StagedLayer {
    /// Absent once the layer has its place.
    directory: Option<IngestDirectory>,
    unpacked: Unpacked,
    working: Working,
}

/// Held by work on the disk until it has ended and cleared up, also when nobody waits for it any more.
pub(crate) type Working = tokio::sync::mpsc::Sender<std::convert::Infallible>;

impl Layout {
    /// The paths alone.
    pub(crate) fn at(root: &Path) -> Self {
        let sub = |name: &str| Arc::from(root.join(name));
        Self {
            root: root.into(),
            layers: sub("layers"),
            blobs: sub("blobs"),
            ingest: sub("ingest"),
            in_work: Arc::default(),
        }
    }

    /// Makes the directories. Other users see nothing of them: an image may have set-user-id files.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        let layout = Self::at(root);
        for directory in [&layout.root, &layout.layers, &layout.blobs, &layout.ingest] {
            fs::create_dir_all(directory).map_err(Error::io("make directory", &**directory))?;
        }
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))
            .map_err(Error::io("protect directory", root))?;
        Ok(layout)
    }

    /// Everything that lies on the disk for an image.
    pub(crate) fn files_of(&self, image: &Image) -> Vec<PathBuf> {
        let blobs = [&image.id.0, &image.manifest].map(|digest| self.blob(digest));
        blobs.into_iter().chain(image.layers.iter().map(|layer| self.layer(&layer.chain_id))).collect()
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(crate) fn layer(&self, chain_id: &ChainId) -> PathBuf {
        self.layers.join(chain_id.0.hex())
    }

    /// Unpacks a layer's blob into `ingest`, verifying the blob and the tar in it.
    pub(crate) fn stage_layer(
        &self,
        blob: impl Read,
        expected: &Expected,
        diff_id: &Digest,
        limit: u64,
        working: Working,
    ) -> Result<StagedLayer> {
        let directory = self.ingest_directory()?;
        let tree = directory.path().join("fs");
        fs::create_dir(&tree).map_err(Error::io("make directory", &tree))?;
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).map_err(Error::io("open up", &tree))?;
        let record = directory.path().join(RECORD);
        let record = File::create(&record).map_err(Error::io("make file", record))?;
        point!("unpack layer").pass()?;
        let unpacked = blob::consume(blob, expected, |content| unpack(content, &tree, record, limit))?;
        if unpacked.tar.diff_id != *diff_id {
            let (expected, actual) = (diff_id.clone(), unpacked.tar.diff_id);
            return Err(Error::Mismatch { what: "unpacked layer".to_owned(), expected, actual });
        }
        Ok(StagedLayer { directory: Some(directory), unpacked, working })
    }

    /// Gives a staged layer its place on top of the layers below it, which are given topmost first.
    ///
    /// Directories that its tar did not describe get the looks that they have below, or `/tmp` would lose its
    /// sticky bit to a layer that only adds a file in it.
    pub(crate) fn install_layer(
        &self,
        mut staged: StagedLayer,
        chain_id: ChainId,
        below: &[ChainId],
    ) -> Result<LayerInfo> {
        let directory = staged.directory.as_ref().map(IngestDirectory::path).unwrap_or(&self.ingest);
        let tree = directory.join("fs");
        for path in &staged.unpacked.implied {
            self.inherit(&tree, path, below).map_err(Error::io("give its attributes to", tree.join(path)))?;
        }
        let used = disk_usage(directory, || {}).map_err(Error::io("measure", directory))?;
        point!("put layer in its place").pass()?;
        let place = self.layer(&chain_id);
        fs::rename(directory, &place).map_err(Error::io("put layer at", &place))?;
        // Renamed away: there is nothing to remove any more.
        if let Some(directory) = staged.directory.take() {
            directory.renamed();
        }
        let tar = &staged.unpacked.tar;
        Ok(LayerInfo {
            chain_id,
            diff_id: tar.diff_id.clone(),
            tar_bytes: tar.tar_bytes,
            used_bytes: used.bytes,
            used_inodes: used.inodes,
        })
    }

    /// Writes a manifest or config to its place.
    pub(crate) fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let place = self.blob(digest);
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.ingest)?;
            file.write_all(bytes)?;
            file.persist(&place)?;
            Ok::<_, io::Error>(())
        };
        write().map_err(Error::io("write blob", &place))
    }

    /// Bytes that a manifest or config allocates; some filesystems know it only after a sync.
    pub(crate) fn blob_usage(&self, digest: &Digest) -> Result<u64> {
        let place = self.blob(digest);
        let metadata = fs::metadata(&place).map_err(Error::io("measure", place))?;
        Ok(metadata.blocks() * 512)
    }

    /// Reads a manifest or config that is in its place.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let place = self.blob(digest);
        fs::read(&place).map_err(Error::io("read blob", place))
    }

    /// Takes something out of its place at once; it is deleted when the answer is dropped. Nothing is made for that: a disk
    /// on which a directory has no room is one that images are removed from.
    pub(crate) fn discard(&self, path: &Path) -> Result<Option<IngestDirectory>> {
        static DISCARDED: AtomicU64 = AtomicU64::new(0);
        let name = format!(".discarded-{}", DISCARDED.fetch_add(1, Ordering::Relaxed));
        let place = self.ingest.join(name);
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone());
        let discarded = IngestDirectory { path: place, is_there: true, in_work: self.in_work.clone() };
        match fs::rename(path, &discarded.path) {
            Ok(()) => Ok(Some(discarded)),
            Err(error) => {
                discarded.renamed();
                let is_gone = error.kind() == io::ErrorKind::NotFound;
                if is_gone { Ok(None) } else { Err(Error::io("discard", path)(error)) }
            }
        }
    }

    /// Writes out everything on the store's filesystem, once for all files of an image.
    pub(crate) fn sync(&self) -> Result<()> {
        let open =
            openat(CWD, &*self.root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        open.and_then(rustix::fs::syncfs).map_err(Error::io::<Errno>("sync", &*self.root))
    }

    /// What the store's own directories take, which grow with their entries.
    pub(crate) fn own_usage(&self) -> Result<DiskUsage> {
        let mut sum = DiskUsage::default();
        for directory in [&self.root, &self.layers, &self.blobs, &self.ingest] {
            let stat = rustix::fs::stat(&**directory).map_err(Error::io::<Errno>("measure", &**directory))?;
            sum = sum.and(DiskUsage::of(&stat));
        }
        Ok(sum)
    }

    pub(crate) fn ingest_directory(&self) -> Result<IngestDirectory> {
        // Under the lock, so that nobody finds one that is not known to be in work.
        let mut in_work = self.in_work.lock().unwrap_or_else(PoisonError::into_inner);
        let directory =
            TempDir::new_in(&self.ingest).map_err(Error::io("make directory in", &*self.ingest))?;
        let path = directory.keep();
        in_work.insert(path.clone());
        Ok(IngestDirectory { path, is_there: true, in_work: self.in_work.clone() })
    }

    /// Removes what lies in `ingest`, unless somebody works on it; absent means done.
    pub(crate) fn remove_ingested(&self, path: &Path) -> Result<()> {
        let in_work = self.in_work.lock().unwrap_or_else(PoisonError::into_inner);
        if in_work.contains(path) {
            return Ok(());
        }
        // A directory that is made from now on has another name.
        drop(in_work);
        remove_tree(path).map_err(Error::io("delete", path))
    }

    /// What of `ingest` somebody works on.
    pub(crate) fn in_work(&self) -> HashSet<PathBuf> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn inherit(&self, tree: &Path, path: &Path, below: &[ChainId]) -> io::Result<()> {
        let Found::Directory(implied) = tree::look_up(tree, path)? else {
            return Ok(());
        };
        for chain_id in below {
            match tree::look_up(&rootfs::tree_of(&self.layers, chain_id), path)? {
                Found::Directory(lower) => return tree::copy_attributes(&lower, &implied),
                Found::Hidden => return Ok(()),
                Found::Absent => {}
            }
        }
        Ok(())
    }
}

impl IngestDirectory {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, and says how that went.
    pub(crate) fn close(mut self) -> io::Result<()> {
        self.is_there = false;
        remove_tree(&self.path)
    }

    /// It has got another place, or never came here, and there is nothing to remove.
    fn renamed(mut self) {
        self.is_there = false;
    }
}

impl Drop for IngestDirectory {
    fn drop(&mut self) {
        if self.is_there {
            let _ = remove_tree(&self.path);
        }
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

impl Drop for StagedLayer {
    fn drop(&mut self) {
        let (Some(directory), working) = (self.directory.take(), self.working.clone()) else {
            return;
        };
        let remove = move || {
            drop(directory);
            drop(working);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
