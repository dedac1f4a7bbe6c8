//! The files of one directory: those named `.json` and `.yaml`, in the order of their names, within bounds.
//!
//! Whoever can write here can give devices to containers, so the bounds are against mistakes, not attacks: a fifo, a
//! loop of links, a disk image by the wrong name must not hold up or fill the agent.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use crate::FileError;

const MAX_FILES: usize = 1024;
const MAX_BYTES: u64 = 4 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

/// The specification files of a directory; none if it does not exist.
pub(crate) fn list(directory: &Path) -> Result<Vec<(PathBuf, Format)>, FileError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(read_error(directory))?,
    };
    let mut files = Vec::new();
    for (count, entry) in entries.enumerate() {
        if count == MAX_FILES {
            let problem = "there are more than 1024 files in it";
            return Err(FileError::Refused { path: directory.to_owned(), problem });
        }
        let path = entry.map_err(read_error(directory))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => files.push((path, Format::Json)),
            Some("yaml") => files.push((path, Format::Yaml)),
            _ => {}
        }
    }
    files.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(files)
}

/// The text of a file, which may be reached by a link.
pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    let refused = |problem| FileError::Refused { path: path.to_owned(), problem };
    // A fifo without a writer must not block.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(|errno| read_error(path)(errno.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(read_error(path))?;
    if !metadata.is_file() {
        return Err(refused("it is no regular file"));
    }
    let mut text = String::new();
    let length = file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(read_error(path))?;
    if length as u64 > MAX_BYTES {
        return Err(refused("it is larger than 4 MiB"));
    }
    Ok(text)
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Read { path: path.clone(), source }
}
