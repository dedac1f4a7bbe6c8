//! Why a device cannot be had.

use std::io;
use std::path::PathBuf;

/// The result of looking for devices.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with a request, or with the files that should answer it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not of the form.
    #[error("CDI device {name:?}: it is not of the form vendor.com/class=device")]
    Name {
        /// As given.
        name: String,
    },
    /// No file has it.
    #[error("CDI device {name}: no specification in {searched} describes it{broken}")]
    Unknown {
        /// Which device.
        name: String,
        /// The directories.
        searched: String,
        /// Empty, or what is wrong with the first of the files that were left out.
        broken: String,
    },
    /// Two files of the same directory have it.
    #[error("CDI device {name}: both {} and {} describe it", one.display(), other.display())]
    Conflict {
        /// Which device.
        name: String,
        /// A file.
        one: PathBuf,
        /// Another one.
        other: PathBuf,
    },
    /// What it needs is not done here.
    #[error("CDI device {name}: {} asks for {feature}, which is not supported", file.display())]
    Unsupported {
        /// Which device.
        name: String,
        /// The file that describes it.
        file: PathBuf,
        /// What it asks for.
        feature: String,
    },
}

/// Why a specification, or a directory of them, was left out.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be opened or read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no file of a sensible size, or there are too many.
    #[error("read {}: {problem}", path.display())]
    Refused {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It holds something else than a specification.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with its text.
        problem: String,
    },
}
