//! What can go wrong in the database, and the kinds of failure that the whole agent tells apart.

use std::path::PathBuf;

/// What a failure means to the one who asked; the edge turns each into a gRPC status, and nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is nonsense, whatever the state: a bad image reference, a relative path.
    Invalid,
    /// What the request names does not exist.
    NotFound,
    /// What the request would make exists already, and differs.
    Exists,
    /// It exists, but not in a state that allows this; another request has to come first.
    WrongState,
    /// Something else holds it right now; the same request may succeed later.
    Busy,
    /// Someone outside did not answer: a registry, a plugin, a monitor.
    Unavailable,
    /// A resource ran out: disk, addresses, descriptors, a configured limit.
    Exhausted,
    /// A request that the contract has and the agent does not serve.
    Unimplemented,
    /// A stage took longer than its own deadline.
    DeadlineExceeded,
    /// A fault of the agent or the machine that the client can do nothing about.
    Internal,
}

/// An error with all its causes, on one line. Libraries often repeat their cause's text; it stands there once.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let own = cause.to_string();
        if !text.ends_with(&own) {
            text = format!("{text}: {own}");
        }
        source = cause.source();
    }
    text
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in the database. After an error from a commit the database is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root directory or the lock file in it cannot be made.
    #[error("prepare database directory {}", path.display())]
    Directory {
        /// The directory or the lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another agent uses the same root directory.
    #[error("lock database {}: in use by another agent (process {holder})", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process id that the holder wrote into it.
        holder: String,
    },
    /// The database file cannot be opened, or is not a database.
    #[error("open database {}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database file can't be read, nor will it ever be.
    #[error("open database {}: {reason}", path.display())]
    Ruined {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by a later version of berth.
    #[error("open database {}: schema version {found} is newer than {known}, the newest known", path.display())]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// The version that the file has.
        found: u32,
        /// The newest version that this program understands.
        known: u32,
    },
    /// A record does not serialize.
    #[error("encode record {key} of table {table}")]
    Encode {
        /// The record's table.
        table: &'static str,
        /// The record's key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A transaction failed and was rolled back.
    #[error("commit change of {rows} rows to the database")]
    Commit {
        /// How many records it would have written or deleted.
        rows: usize,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A table could not be read.
    #[error("load table {table} from the database")]
    Load {
        /// The table.
        table: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database's thread could not be started.
    #[error("start the database thread")]
    Thread(#[source] std::io::Error),
    /// The store was closed before the request reached it.
    #[error("use the database: it is closed")]
    Closed,
}

impl Error {
    /// The kind that a request which met this error fails with.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Busy,
            Self::Closed => ErrorKind::Unavailable,
            Self::Open { source, .. } | Self::Commit { source, .. } | Self::Load { source, .. } => {
                match source.sqlite_error_code() {
                    Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::Exhausted,
                    _ => ErrorKind::Internal,
                }
            }
            Self::Directory { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                ErrorKind::Exhausted
            }
            Self::Directory { .. }
            | Self::Ruined { .. }
            | Self::NewerSchema { .. }
            | Self::Encode { .. }
            | Self::Thread(_) => ErrorKind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn link(texts: &[&'static str]) -> Option<Box<Link>> {
        let (text, rest) = texts.split_first()?;
        Some(Box::new(Link { text, source: link(rest) }))
    }

    #[test]
    fn every_cause_is_told_once() {
        let check =
            |texts: &[&'static str], want: &str| assert_eq!(with_causes(&*link(texts).unwrap()), want);
        check(&["attach network"], "attach network");
        check(&["attach network", "make veth", "no space"], "attach network: make veth: no space");
        check(&["request x: refused", "refused"], "request x: refused");
    }
}
