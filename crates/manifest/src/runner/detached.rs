//! What a pod has on the host that a run has left to the runtime, and its end: whoever removes the pod then knows
//! nothing of these directories, so the agent looks for those whose pod is gone.
//!
//! Only marked directories count: the pod of another one may be about to be made, or its run is going to remove it.
//! Blocks.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Dirs, RunError, prepare};
use crate::parse::PodFacts;

/// In the directory of a pod that nobody watches any more.
const MARK: &str = "detached";

/// Leaves a pod to whoever removes it.
pub(crate) fn mark(facts: &PodFacts) -> Result<(), RunError> {
    let path = facts.dir.join(MARK);
    fs::write(&path, "").map_err(prepare::host("write", &path))
}

/// Removes the directories of detached pods that `is_there` does not know by their uids.
///
/// # Errors
/// What can't be removed; the others may not have been looked at.
pub fn remove_detached(dirs: &Dirs, is_there: impl Fn(&str) -> bool) -> Result<(), RunError> {
    for dir in entries(&dirs.pods)? {
        let Some(uid) = dir.file_name().and_then(OsStr::to_str) else { continue };
        if is_there(uid) || !dir.join(MARK).exists() {
            continue;
        }
        for volume in entries(&dir.join("volumes"))? {
            prepare::unmount_volume(&volume)?;
        }
        let suffix = format!("_{uid}");
        let is_its = |log: &PathBuf| log.to_string_lossy().ends_with(&suffix);
        entries(&dirs.logs)?.iter().filter(|log| is_its(log)).try_for_each(|log| prepare::remove_all(log))?;
        prepare::remove_all(&dir)?;
    }
    Ok(())
}

/// What is in a directory; nothing where there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, RunError> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(prepare::host("list", dir)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_marked_and_has_no_pod_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs { pods: dir.path().join("pods"), logs: dir.path().join("logs") };
        remove_detached(&dirs, |_| false).unwrap();
        for uid in ["gone", "there", "underway"] {
            let facts = PodFacts { dir: dirs.pods.join(uid), ..Default::default() };
            fs::create_dir_all(facts.dir.join("volumes/v")).unwrap();
            fs::create_dir_all(dirs.logs.join(format!("default_p_{uid}/c"))).unwrap();
            if uid != "underway" {
                mark(&facts).unwrap();
            }
        }
        for _ in 0..2 {
            remove_detached(&dirs, |uid| uid == "there").unwrap();
            for (uid, stays) in [("gone", false), ("there", true), ("underway", true)] {
                assert_eq!(dirs.pods.join(uid).exists(), stays, "{uid}");
                assert_eq!(dirs.logs.join(format!("default_p_{uid}")).exists(), stays, "{uid}");
            }
        }
    }
}
