//! A look at a database that leaves its files as they are: its rows are copied to memory, where changes go nowhere. Of
//! one that can't be read, those that can be are.
//!
//! The lock is held meanwhile, so nobody writes. A log, which an agent leaves that is killed, is read with the database;
//! its index, which is no more than a cache, SQLite may bring up to date.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::database::{SCHEMA, SCHEMA_VERSION};
use crate::ruin::{self, Fault, Ruin};
use crate::{Error, Result};

/// Copies the rows; tells of a database that can't be read, which stays where it is.
pub(crate) fn copy(path: &Path) -> Result<(Connection, Option<Ruin>)> {
    let failed = |source| Error::Open { path: path.to_owned(), source };
    let copy = Connection::open_in_memory().map_err(failed)?;
    copy.execute_batch(SCHEMA).map_err(failed)?;
    let from = open(path).map_err(failed)?;
    let checked = match ruin::cut_short(path) {
        Some(reason) => Err(Fault::Ruined(reason)),
        None => check(&from),
    };
    let reason = match checked {
        Ok(SCHEMA_VERSION) => None,
        // New, as an agent leaves it that is killed at once.
        Ok(0) => return Ok((copy, None)),
        Ok(found) => {
            return Err(Error::NewerSchema { path: path.to_owned(), found, known: SCHEMA_VERSION });
        }
        Err(Fault::Ruined(reason)) => Some(reason),
        Err(Fault::Failed(source)) => return Err(failed(source)),
    };
    let salvaged = ruin::salvage(&from, &copy);
    Ok((copy, reason.map(|reason| Ruin { path: path.to_owned(), reason, salvaged })))
}

/// Reads all that there is; returns the version of the schema.
fn check(from: &Connection) -> std::result::Result<u32, Fault> {
    ruin::check(from)?;
    let version = from.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == SCHEMA_VERSION {
        ruin::read_all(from)?;
    }
    Ok(version)
}

/// Opens it for reading. Without a log SQLite would make an empty one, but for a file that it is told nobody changes.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let log = path.with_extension("db-wal");
    let has_log = log.metadata().is_ok_and(|log| log.len() > 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match path.to_str().filter(|_| !has_log) {
        Some(text) => {
            let text = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            Connection::open_with_flags(
                format!("file:{text}?immutable=1"),
                flags | OpenFlags::SQLITE_OPEN_URI,
            )?
        }
        None => Connection::open_with_flags(path, flags)?,
    };
    ruin::leave_as_it_is(&connection, true)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}
