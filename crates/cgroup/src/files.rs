//! Reading and writing the kernel's cgroup files and walking its directories. Absent means empty: a cgroup may go at
//! any moment, and every caller treats that as done.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Writes `value` in one call to a file that exists; never creates one.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// The directories directly in `directory`.
pub(crate) fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The processes in `directory` and all below it; those outside our pid namespace, which read as 0, are left out.
pub(crate) fn pids_in_tree(directory: &Path) -> io::Result<Vec<u32>> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        text => text?,
    };
    let mut pids: Vec<u32> =
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect();
    for child in subdirectories(directory)? {
        pids.extend(pids_in_tree(&child)?);
    }
    Ok(pids)
}

/// Removes `directory` and all below it, children first. A cgroup's files go with it.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    let error = match fs::remove_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => error,
        Ok(()) => return Ok(()),
    };
    let children = subdirectories(directory)?;
    if children.is_empty() {
        return Err(error);
    }
    for child in children {
        remove_tree(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether the error says that a cgroup can't be removed for what is in it: a process, or a child, maybe one that was made
/// while its parent was being removed.
pub(crate) fn is_in_use(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty)
}

/// Whether the error says that the cgroup went away (a file that was open before answers ENODEV).
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// The number on the line `KEY N` of a flat-keyed file.
pub(crate) fn keyed_number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
