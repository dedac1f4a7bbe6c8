//! What is wrong with a profile.

use std::path::PathBuf;

/// The result of reading or compiling a profile.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no filter. All of these are about the operator's file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("read seccomp profile {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is a directory, a device or the like.
    #[error("read seccomp profile {}: not a regular file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// It is no profile.
    #[error("seccomp profile {}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// It is longer than a profile can be.
    #[error("profile has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// It is not JSON, or a value has another type than it should.
    #[error("{path}: {problem}")]
    Json {
        /// Where in the document: `syscalls[3].action`.
        path: String,
        /// What the parser says.
        problem: String,
    },
    /// A value makes no sense.
    #[error("{path}: {value} {problem}")]
    Value {
        /// Where in the document.
        path: String,
        /// As given.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The kernel takes no program of this length.
    #[error("filter needs {instructions} instructions, and the kernel takes 4096")]
    TooLong {
        /// How long it became.
        instructions: usize,
    },
}
