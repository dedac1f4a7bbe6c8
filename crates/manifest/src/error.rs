//! What can be wrong with a manifest. Every error names the place: file, document in it, path in the YAML.

use std::{io, path::PathBuf};

/// A field of a Pod that can't be used, by its path in the YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FieldError {
    /// Such as `spec.containers[1].image`.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FieldError {
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}

/// A manifest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("read manifest {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A document is not YAML.
    #[error("parse manifest {file}, document {document}")]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        document: usize,
        /// Where and why.
        source: serde_norway::Error,
    },
    /// A field is missing, malformed, unknown or unsupported.
    #[error("use manifest {file}, document {document}")]
    Field {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        document: usize,
        /// Which and why.
        source: FieldError,
    },
    /// The file holds no document.
    #[error("use manifest {file}: it holds no pod")]
    Empty {
        /// The file.
        file: PathBuf,
    },
}
