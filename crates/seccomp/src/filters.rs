//! Compiled filters, kept.
//!
//! A filter takes some hundred microseconds to make, and a node's containers share a few. The key is the profile's
//! whole text, so a file that has been changed is compiled anew, and what runs keeps what it had. Bounded; the oldest
//! goes first.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::compile::compile;
use crate::default::default_profile;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::profile::{Facts, Profile};

/// Far more than a profile that names every call with every kind of rule.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// So many filters are kept.
const MAX_KEPT: usize = 32;

/// A program, and how to install it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// As [`crate::compile()`] gives it.
    pub program: Vec<u64>,
    /// For the kernel. Source: seccomp(2), `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// What it was made of.
    pub profile: Profile,
}

/// All filters that a node has needed of late.
#[derive(Debug, Default)]
pub struct Filters {
    kept: Mutex<VecDeque<(Key, Arc<Filter>)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    /// The text of a file; `None` for the default profile.
    text: Option<Vec<u8>>,
    facts: Facts,
}

impl Filters {
    /// The filter of the default profile.
    ///
    /// # Errors
    /// None that can happen: the default profile fits.
    pub fn default_for(&self, facts: &Facts) -> Result<Arc<Filter>> {
        self.kept_or(Key { text: None, facts: facts.clone() }, |_| Ok(default_profile(facts)))
    }

    /// The filter of the profile in a file. Blocks on reading it.
    ///
    /// # Errors
    /// The file can't be read or is no profile; each names the file.
    pub fn of_file(&self, path: &Path, facts: &Facts) -> Result<Arc<Filter>> {
        let in_file = |source| Error::File { path: path.to_owned(), source: Box::new(source) };
        let text = read(path)?;
        let parse = |key: &Key| Ok(Document::parse(key.text.as_deref().unwrap_or_default())?.resolve(facts));
        self.kept_or(Key { text: Some(text), facts: facts.clone() }, parse).map_err(in_file)
    }

    fn kept_or(&self, key: Key, profile: impl FnOnce(&Key) -> Result<Profile>) -> Result<Arc<Filter>> {
        if let Some(filter) = self.find(&key) {
            return Ok(filter);
        }
        let profile = profile(&key)?;
        let filter = Arc::new(Filter { program: compile(&profile)?, flags: profile.flags, profile });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(MAX_KEPT - 1);
        kept.push_front((key, filter.clone()));
        Ok(filter)
    }

    fn find(&self, key: &Key) -> Option<Arc<Filter>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(other, _)| other == key).map(|(_, filter)| filter.clone())
    }
}

/// A file's text; a pipe in its place is refused, and not waited for.
fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(fail)?;
    match text.len() as u64 {
        length if length > MAX_FILE_BYTES => {
            let source = Box::new(Error::TooLarge { limit: MAX_FILE_BYTES });
            Err(Error::File { path: path.to_owned(), source })
        }
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;

    fn facts(kernel: u32) -> Facts {
        Facts { arch: Arch::X86_64, kernel: (6, kernel), capabilities: vec![] }
    }

    #[test]
    fn a_filter_is_made_once_for_the_same_text_and_facts() {
        let filters = Filters::default();
        let first = filters.default_for(&facts(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &filters.default_for(&facts(1)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &filters.default_for(&facts(2)).unwrap()));
        for kernel in 0..100 {
            filters.default_for(&facts(kernel)).unwrap();
        }
        assert_eq!(filters.kept.lock().unwrap().len(), MAX_KEPT);
    }

    #[test]
    fn a_changed_file_is_read_anew_and_a_bad_one_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("profile.json");
        let filters = Filters::default();
        let mut found = Vec::new();
        for action in ["ALLOW", "LOG", "ALLOW"] {
            std::fs::write(&path, format!(r#"{{"defaultAction": "SCMP_ACT_{action}"}}"#)).unwrap();
            found.push(filters.of_file(&path, &facts(1)).unwrap());
        }
        assert!(Arc::ptr_eq(&found[0], &found[2]) && found[0] != found[1]);

        std::fs::write(&path, vec![b' '; 1 << 21]).unwrap();
        for (path, want) in [
            (path.as_path(), "profile.json"),
            (&directory.path().join("absent"), "absent"),
            (directory.path(), "not a regular file"),
        ] {
            let text = filters.of_file(path, &facts(1)).unwrap_err().to_string();
            assert!(text.contains(want), "{text}");
        }
    }
}
