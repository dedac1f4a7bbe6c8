//! The SQLite file: its settings, its schema and the few things that are done with it. All of it blocks.
//!
//! Write-ahead log, because a commit is then one append that survives the death of the process without a flush,
//! and a power cut can lose the last commits but never tear the file. The log is copied into the database at quiet
//! moments ([`Database::settle`]), so that a commit does not pay for it.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, params};
use rustix::fs::{FlockOperation, flock};

use crate::{
    Error, Quarantined, Result,
    change::{Row, StoredRow},
};

/// What a committed change survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of every process, but not of the kernel; no disk flush. For what dies with the power anyway.
    Process,
    /// A power cut, too, at the price of a disk flush. It carries all earlier changes with it.
    Power,
}

/// Where a row is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// The table that it was written to.
    pub table: String,
    /// Its key there.
    pub key: String,
    /// Whether it was moved to the `quarantine` table, as nobody understood it.
    pub set_aside: bool,
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.set_aside { "quarantine/" } else { "" };
        write!(f, "{place}{}/{}", self.table, self.key)
    }
}

const SCHEMA_VERSION: u32 = 1;
const SCHEMA: &str = "
    CREATE TABLE records (tab TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
                          PRIMARY KEY (tab, key)) WITHOUT ROWID;
    CREATE TABLE quarantine (tab TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
                             reason TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
    PRAGMA user_version = 1;";

/// Small enough for a node agent: a quarter of a MiB of pages, and no mapping of the file. The automatic
/// checkpoint is only the backstop behind `settle`.
const SETTINGS: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -256; PRAGMA mmap_size = 0;
    PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 4194304;";

/// A few MiB of log. Settling takes milliseconds, and the commit that comes next may have to wait for it.
const COMMITS_BEFORE_SETTLING: u32 = 512;

/// An open database and the lock that keeps other agents out of it.
pub(crate) struct Database {
    connection: Connection,
    durability: Durability,
    unsettled_commits: u32,
    /// Declared last, so that it is released after the connection is closed.
    _lock: File,
}

/// Makes the root directory for root alone, and the database file too where it does not exist: records hold containers'
/// environments, and the layers beside them files with set-user-id bits (CVE-2021-41103).
fn make_private(root: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    // SQLite gives its other files the mode of this one.
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(root.join("berth.db"))?;
    Ok(())
}

impl Database {
    /// Opens or makes the database in a root directory, made when missing.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        make_private(root).map_err(|source| Error::Directory { path: root.to_owned(), source })?;
        let lock = lock(root)?;
        let path = root.join("berth.db");
        let open = |source| Error::Open { path: path.clone(), source };
        let connection = Connection::open(&path).map_err(open)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
        connection.execute_batch(SETTINGS).map_err(open)?;
        let found = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(open)?;
        match found {
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;")).map_err(open)?,
            SCHEMA_VERSION => {}
            _ => {
                return Err(Error::NewerSchema { path, found, known: SCHEMA_VERSION });
            }
        }
        Ok(Self { connection, durability: Durability::Process, unsettled_commits: 0, _lock: lock })
    }

    /// Applies all rows in one transaction, or none.
    pub(crate) fn commit(&mut self, rows: &[Row], durability: Durability) -> Result<()> {
        self.try_commit(rows, durability).map_err(|source| Error::Commit { rows: rows.len(), source })?;
        self.unsettled_commits += 1;
        Ok(())
    }

    /// Every row of a table, by key.
    pub(crate) fn rows(&self, table: &'static str) -> Result<Vec<StoredRow>> {
        let read = || -> rusqlite::Result<Vec<StoredRow>> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT key, version, body FROM records WHERE tab = ?1 ORDER BY key")?;
            let rows = statement.query_map([table], |row| {
                Ok(StoredRow { key: row.get(0)?, version: row.get(1)?, body: row.get(2)? })
            })?;
            rows.collect()
        };
        read().map_err(|source| Error::Load { table, source })
    }

    /// Where every row is, by table and key.
    pub(crate) fn keys(&self) -> Result<Vec<RowKey>> {
        let read = || -> rusqlite::Result<Vec<RowKey>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT tab, key, 0 FROM records UNION ALL SELECT tab, key, 1 FROM quarantine ORDER BY 3, 1, 2",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(RowKey { table: row.get(0)?, key: row.get(1)?, set_aside: row.get(2)? })
            })?;
            rows.collect()
        };
        read().map_err(|source| Error::Load { table: "records", source })
    }

    /// Moves rows out of their tables, with the reason and their text as it is.
    pub(crate) fn quarantine(&mut self, rows: &[Quarantined]) -> Result<()> {
        let mut set_aside = || {
            let transaction = self.connection.transaction()?;
            for Quarantined { table, key, reason, .. } in rows {
                transaction.execute(
                    "INSERT INTO quarantine (tab, key, version, body, reason)
                     SELECT tab, key, version, body, ?3 FROM records WHERE tab = ?1 AND key = ?2",
                    params![table, key, reason],
                )?;
                transaction
                    .execute("DELETE FROM records WHERE tab = ?1 AND key = ?2", params![table, key])?;
            }
            transaction.commit()
        };
        set_aside().map_err(|source| Error::Commit { rows: rows.len(), source })
    }

    /// Copies the log into the database file when enough has gathered; to be called when nobody waits.
    pub(crate) fn settle(&mut self) {
        if self.unsettled_commits >= COMMITS_BEFORE_SETTLING {
            // A failure loses nothing: the log stays, and SQLite itself tries again when it grows.
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            self.unsettled_commits = 0;
        }
    }

    fn try_commit(&mut self, rows: &[Row], durability: Durability) -> rusqlite::Result<()> {
        if durability != self.durability {
            let level = match durability {
                Durability::Process => "NORMAL",
                Durability::Power => "FULL",
            };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.durability = durability;
        }
        let transaction = self.connection.transaction()?;
        for row in rows {
            match row {
                Row::Put { table, key, version, body } => transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO records (tab, key, version, body) VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![table, key, version, body])?,
                Row::Delete { table, key } => transaction
                    .prepare_cached("DELETE FROM records WHERE tab = ?1 AND key = ?2")?
                    .execute(params![table, key])?,
            };
        }
        transaction.commit()
    }
}

/// Takes the lock of a root directory, and writes our process id into it for the one who comes second.
fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let failed = |source| Error::Directory { path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(failed)?;
            return Err(Error::Locked { path, holder: holder.trim().to_owned() });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}
