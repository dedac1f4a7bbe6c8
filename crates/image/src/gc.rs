//! Removal of files that no image and no pull needs.
//!
//! A file leaves its place under the same lock under which pulls take hold of files, so a pull either holds it in
//! time or finds that it has gone; the deletion itself takes its time outside the lock.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_fault::point;
use berth_store::with_causes;
use tracing::{debug, warn};

use crate::{
    Error, Result,
    catalog::Catalog,
    layer::{IngestDirectory, Layout},
    removal::remove_tree,
};

/// Removes those of the candidates that nobody needs, with those that an earlier collection could not remove, and counts
/// anew. What fails does not keep the rest, and is tried again by the next collection. Blocks.
pub(crate) fn collect(layout: &Layout, catalog: &Catalog, candidates: Vec<PathBuf>) -> Result<()> {
    let mut discarded = Vec::new();
    let mut outcome = Ok(());
    {
        let mut live = catalog.live();
        // Read under the lock: an image is published before its pull lets go.
        let owned: HashSet<PathBuf> =
            catalog.snapshot().values().flat_map(|image| catalog.files_of(image)).collect();
        for path in std::mem::take(&mut live.overdue).into_iter().chain(candidates) {
            if owned.contains(&path) || live.holds.contains_key(&path) {
                continue;
            }
            match take_out(layout, &path) {
                Ok(directory) => {
                    live.layers.retain(|chain_id, _| layout.layer(chain_id) != path);
                    discarded.extend(directory);
                }
                // Where it is, it is whole, and can be used again.
                Err(error) => {
                    live.overdue.insert(path);
                    outcome = outcome.and(Err(error));
                }
            }
        }
    }
    for directory in discarded {
        point!("delete a file of an image").pass()?;
        let path = directory.path().to_owned();
        directory.close().map_err(Error::io("delete", path))?;
    }
    catalog.measure().and(outcome)
}

fn take_out(layout: &Layout, path: &Path) -> Result<Option<IngestDirectory>> {
    point!("take a file of an image out of its place").pass()?;
    layout.discard(path)
}

/// Removes everything in the store's directory that belongs to no image; only for the start, when no pull runs.
/// Blocks.
pub(crate) fn reconcile(layout: &Layout, catalog: &Catalog) -> Result<()> {
    // Leftovers first: they may be what keeps the disk full.
    for path in entries(&layout.ingest)? {
        remove_tree(&path).map_err(Error::io("delete", &path))?;
        debug!(path = %path.display(), "leftover removed");
    }
    let candidates = [entries(&layout.layers)?, entries(&layout.blobs)?].concat();
    collect(layout, catalog, candidates)
}

/// Collects after a failed or finished piece of work, where an error is nobody's answer.
pub(crate) async fn collect_later(layout: Layout, catalog: Arc<Catalog>, candidates: Vec<PathBuf>) {
    let collected = tokio::task::spawn_blocking(move || collect(&layout, &catalog, candidates)).await;
    if let Ok(Err(error)) = collected {
        warn!(error = %with_causes(&error), "image files left over until the next start");
    }
}

fn entries(directory: &std::path::Path) -> Result<Vec<PathBuf>> {
    let failed = || Error::io("list directory", directory);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        paths.push(entry.map_err(failed())?.path());
    }
    Ok(paths)
}
