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

/// Leaves a pod, which the runtime knows by now, to whoever removes it.
pub(crate) fn mark(facts: &PodFacts) -> Result<(), RunError> {
    let path = facts.dir.join(MARK);
    fs::write(&path, "").map_err(prepare::host("write", &path))
}

/// Takes a pod back that is still there: its run removes it.
pub(crate) fn unmark(facts: &PodFacts) -> Result<(), RunError> {
    let path = facts.dir.join(MARK);
    fs::remove_file(&path).map_err(prepare::host("remove", &path))
}

/// Removes the directories of detached pods that `is_there` does not know by their uids. It is asked about each that is
/// marked, at the time.
///
/// # Errors
/// The first that can't be removed; all the others have been.
pub fn remove_detached(dirs: &Dirs, is_there: impl Fn(&str) -> bool) -> Result<(), RunError> {
    let mut outcome = Ok(());
    for dir in entries(&dirs.pods)? {
        let Some(uid) = dir.file_name().and_then(OsStr::to_str) else { continue };
        // In this order: a pod is there before it is marked, so one that is marked and not there has gone.
        if dir.join(MARK).exists() && !is_there(uid) {
            outcome = outcome.and(remove(&dir, uid, &dirs.logs));
        }
    }
    outcome
}

fn remove(dir: &Path, uid: &str, logs: &Path) -> Result<(), RunError> {
    for volume in entries(&dir.join("volumes"))? {
        prepare::unmount_volume(&volume)?;
    }
    let suffix = format!("_{uid}");
    let is_its = |log: &PathBuf| log.to_string_lossy().ends_with(&suffix);
    entries(logs)?.iter().filter(|log| is_its(log)).try_for_each(|log| prepare::remove_all(log))?;
    prepare::remove_all(dir)
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

    /// Directories of pods with these uids, none of them marked.
    fn unmarked(dir: &Path, uids: &[&str]) -> (Dirs, Vec<PodFacts>) {
        let dirs = Dirs { pods: dir.join("pods"), logs: dir.join("logs") };
        let facts = uids.iter().map(|uid| PodFacts { dir: dirs.pods.join(uid), ..Default::default() });
        let facts: Vec<_> = facts.collect();
        facts.iter().for_each(|facts| fs::create_dir_all(&facts.dir).unwrap());
        (dirs, facts)
    }

    #[test]
    fn a_pod_that_starts_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (dirs, facts) = unmarked(dir.path(), &["late"]);
        // Unknown when asked about, and detached before the answer arrives.
        let starts = |_: &str| {
            mark(&facts[0]).unwrap();
            false
        };
        remove_detached(&dirs, starts).unwrap();
        assert!(facts[0].dir.exists());
    }

    #[test]
    fn one_that_cannot_be_removed_keeps_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (dirs, facts) = unmarked(dir.path(), &["1", "2", "3"]);
        for facts in &facts {
            mark(facts).unwrap();
        }
        // The first that is come upon, whose volumes can't be listed, whatever the user.
        let broken = &entries(&dirs.pods).unwrap()[0];
        fs::write(broken.join("volumes"), "").unwrap();
        let error = remove_detached(&dirs, |_| false).unwrap_err();
        assert!(error.to_string().contains("volumes"), "{error}");
        assert_eq!(entries(&dirs.pods).unwrap(), std::slice::from_ref(broken));
    }
}
