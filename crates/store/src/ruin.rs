//! A database that can't be read any more: a disk that lied about a flush, a file cut short or overwritten. It is set
//! aside for a person to look at, a new one takes its place with the records that can still be read, and what ran
//! without a record is for the reconciliation to find.
//!
//! A power cut alone does none of this: it can only cut the log short, which SQLite notices by its checksums, and then
//! the database is what the last whole commit made of it.

use std::collections::BTreeSet;
use std::fs::{read_dir, remove_file, rename};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, ErrorCode, Row, ffi, params_from_iter};

/// What the name of a database that was set aside begins with, and ends with.
const NAME: (&str, &str) = ("ruined-", ".db");

/// So many are kept; the last place is used again and again.
const MAX_KEPT: usize = 3;

/// A header and the smallest page. Source: the SQLite database file format.
const LEAST_BYTES: u64 = 512;

/// A database that was set aside when this one was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruin {
    /// Where it is now, with its log beside it.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
    /// How many records could be taken over from it, those that had been set aside before included.
    pub salvaged: usize,
}

/// Why a database can't be used.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It will not be better the next time.
    Ruined(String),
    /// The disk is full, or somebody else is at it.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        if error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_SHORT_READ) {
            return Self::Ruined("it is cut short".to_owned());
        }
        match error.sqlite_error_code() {
            // Unknown is SQLite's general error: here, a table that is missing or is there too early.
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) => {
                Self::Ruined(error.to_string())
            }
            _ => Self::Failed(error),
        }
    }
}

/// Reads every page once.
pub(crate) fn check(connection: &Connection) -> Result<(), Fault> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(Fault::Ruined(found)) }
}

/// Reads every row once: the check takes pages that are missing at the end of a long row for pages of zeros.
pub(crate) fn read_all(connection: &Connection) -> Result<(), Fault> {
    let mut statement =
        connection.prepare("SELECT body FROM records UNION ALL SELECT body FROM quarantine")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        row.get_ref(0)?;
    }
    Ok(())
}

/// Keeps SQLite from writing to a database when it closes it.
pub(crate) fn leave_as_it_is(connection: &Connection, leave: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, leave).map(drop)
}

/// How a database that has been used is too short for one: SQLite takes such for new, and throws their logs away.
pub(crate) fn cut_short(path: &Path) -> Option<String> {
    let bytes = path.metadata().ok()?.len();
    let is_cut = bytes < LEAST_BYTES && path.parent().is_some_and(has_company);
    is_cut.then(|| format!("it is cut short at {bytes} bytes"))
}

/// Whether something lies beside a database that an agent puts there only when it has one.
fn has_company(root: &Path) -> bool {
    let is_company =
        |name: &str| !name.starts_with("berth.db") && !["lock", "reserve", "lost+found"].contains(&name);
    let entries = read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_str().is_none_or(is_company))
}

/// Renames a database, which nobody has open, and its log.
pub(crate) fn set_aside(root: &Path) -> io::Result<PathBuf> {
    let place = |number: usize| root.join(format!("{}{number}{}", NAME.0, NAME.1));
    let free = (1..MAX_KEPT).map(place).find(|path| !path.exists());
    let path = free.unwrap_or_else(|| place(MAX_KEPT));
    // The log first: cut off in between, the next start finds a database without one, which is ruined still, or older.
    let _ = remove_file(with_suffix(&path, "-shm"));
    move_if_present(&root.join("berth.db-wal"), &with_suffix(&path, "-wal"))?;
    move_if_present(&root.join("berth.db-shm"), &with_suffix(&path, "-shm"))?;
    move_if_present(&root.join("berth.db"), &path)?;
    Ok(path)
}

/// The files of databases that have been set aside in a root directory.
pub fn ruins(root: &Path) -> Vec<PathBuf> {
    let is_ruin = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(NAME.0))
    };
    let mut found: Vec<_> =
        read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_ruin).collect();
    found.sort();
    found
}

/// Copies what can be read of a ruined database into a new one: from the first key on up to what is broken, and from the
/// last one back. Returns how many records that were.
pub(crate) fn salvage(from: &Connection, into: &Connection) -> usize {
    let _ = leave_as_it_is(from, true);
    // An error ends one direction; what was copied before stays.
    let _ = into.execute_batch("BEGIN");
    let copied = TABLES.iter().map(|table| table.copy(from, into)).sum();
    match into.execute_batch("COMMIT") {
        Ok(()) => copied,
        Err(_) => {
            let _ = into.execute_batch("ROLLBACK");
            0
        }
    }
}

/// What is copied, and by what its rows are told apart and put in order.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    place: [&'static str; 2],
}

const TABLES: [Table; 2] = [
    Table { name: "records", columns: &["tab", "key", "version", "body"], place: ["tab", "key"] },
    // Several rows may have one key here.
    Table {
        name: "quarantine",
        columns: &["tab", "key", "version", "body", "reason", "at"],
        place: ["rowid", "rowid"],
    },
];

impl Table {
    /// From both ends on; returns how many rows that were.
    fn copy(&self, from: &Connection, into: &Connection) -> usize {
        let mut copied = BTreeSet::new();
        for direction in ["ASC", "DESC"] {
            let _ = self.copy_from_one_end(from, into, direction, &mut copied);
        }
        copied.len()
    }

    fn copy_from_one_end(
        &self,
        from: &Connection,
        into: &Connection,
        direction: &str,
        copied: &mut BTreeSet<[Vec<u8>; 2]>,
    ) -> rusqlite::Result<()> {
        let Self { name, columns, place: [first, second] } = self;
        let names = columns.join(", ");
        let mut statement = from.prepare(&format!(
            "SELECT CAST({first} AS BLOB), CAST({second} AS BLOB), {names} FROM {name}
             ORDER BY {first} {direction}, {second} {direction}"
        ))?;
        let places = vec!["?"; columns.len()].join(", ");
        let mut insert =
            into.prepare(&format!("INSERT OR IGNORE INTO {name} ({names}) VALUES ({places})"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let place = [bytes(row, 0)?, bytes(row, 1)?];
            // Where the other direction has been, there is nothing new.
            if copied.contains(&place) {
                break;
            }
            let values: Vec<_> = (2..columns.len() + 2)
                .map(|index| Ok(ToSqlOutput::Borrowed(row.get_ref(index)?)))
                .collect::<rusqlite::Result<_>>()?;
            if insert.execute(params_from_iter(values))? > 0 {
                copied.insert(place);
            }
        }
        Ok(())
    }
}

fn bytes(row: &Row<'_>, index: usize) -> rusqlite::Result<Vec<u8>> {
    Ok(row.get_ref(index)?.as_bytes_or_null().ok().flatten().unwrap_or_default().to_vec())
}

fn move_if_present(from: &Path, to: &Path) -> io::Result<()> {
    match rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
