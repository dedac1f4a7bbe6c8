//! Whether the node can still write down what it does: a node that cannot takes no pods.
//!
//! Asked every few seconds, so it costs two calls of the kernel and one small transaction without a flush. The file
//! systems come first: what they say is clearer than what a database makes of it.

use std::path::Path;
use std::sync::Arc;

use berth_store::{Change, Record};
use rustix::fs::{StatVfsMountFlags, statvfs};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::{Host, blocking};

/// With less than this free, no pod's files can be made.
const LEAST_FREE_BYTES: u64 = 1 << 20;

/// The same of files and directories.
const LEAST_FREE_INODES: u64 = 64;

/// Written to see whether anything can be.
#[derive(Debug, Serialize, Deserialize)]
struct Probe {
    at_ns: i64,
}

impl Record for Probe {
    const TABLE: &'static str = "probe";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        "last".to_owned()
    }
}

/// Looks at the file systems of both directories, and writes to the database.
pub(crate) async fn check(host: &Arc<Host>) -> Result<()> {
    let directories = [host.settings.root.clone(), host.settings.state.clone()];
    blocking(move || directories.iter().try_for_each(|directory| check_file_system(directory))).await??;
    host.commit(Change::new().put(&Probe { at_ns: crate::clock::now_ns() })?).await
}

fn check_file_system(directory: &Path) -> Result<()> {
    let found = statvfs(directory).map_err(|errno| Error::file("look at", directory)(errno.into()))?;
    let state = match found {
        found if found.f_flag.contains(StatVfsMountFlags::RDONLY) => "read-only",
        found if found.f_bavail.saturating_mul(found.f_frsize) < LEAST_FREE_BYTES => "full",
        // Some file systems count none: they make them as they need them.
        found if found.f_files > 0 && found.f_favail < LEAST_FREE_INODES => {
            "full of files, though not of bytes"
        }
        _ => return Ok(()),
    };
    Err(Error::Storage { directory: directory.to_owned(), state })
}
