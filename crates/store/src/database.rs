//! The SQLite file: its settings, its schema and the few things that are done with it. All of it blocks.
//!
//! Write-ahead log, because a commit is then one append that survives the death of the process without a flush,
//! and a power cut can lose the last commits but never tear the file. The log is copied into the database at quiet
//! moments ([`Database::settle`]), so that a commit does not pay for it. `room` keeps blocks for both on a disk that
//! others may fill; `ruin` is for a file that can't be read.

use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, params, types::ValueRef};
use rustix::fs::{FlockOperation, flock};

use crate::{
    Error, Quarantined, Result, SetAside,
    change::{Row, StoredRow},
    copy,
    room::{self, Room},
    ruin::{self, Fault, Ruin},
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
    /// Table and key as they are, which need not be text.
    pub(crate) raw: [Vec<u8>; 2],
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.set_aside { "quarantine/" } else { "" };
        write!(f, "{place}{}/{}", self.table, self.key)
    }
}

pub(crate) const SCHEMA_VERSION: u32 = 1;
pub(crate) const SCHEMA: &str = "
    CREATE TABLE records (tab TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
                          PRIMARY KEY (tab, key)) WITHOUT ROWID;
    CREATE TABLE quarantine (tab TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
                             reason TEXT NOT NULL, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
    PRAGMA user_version = 1;";

/// Small enough for a node agent: a quarter of a MiB of pages, and no mapping of the file. The automatic
/// checkpoint is only the backstop behind `settle`.
const SETTINGS: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -256; PRAGMA mmap_size = 0;
    PRAGMA wal_autocheckpoint = 1500; PRAGMA journal_size_limit = 8388608;";

/// A few MiB of log, less than the room that is kept for it. Settling takes milliseconds, and the commit that comes next
/// may have to wait for it.
const COMMITS_BEFORE_SETTLING: u32 = 512;

/// An open database and the lock that keeps other agents out of it.
pub(crate) struct Database {
    connection: Connection,
    durability: Durability,
    unsettled_commits: u32,
    root: PathBuf,
    /// Declared after the connection, so that it is closed after it. A copy has none.
    room: Option<Room>,
    /// Declared last, so that it is released after all others.
    _lock: File,
}

impl Database {
    /// Opens or makes the database in a root directory, made when missing, for root alone: records hold containers'
    /// environments, and the layers beside them files with set-user-id bits (CVE-2021-41103). One that can't be read is
    /// set aside, which is told, and a new one made.
    pub(crate) fn open(root: &Path) -> Result<(Self, Option<Ruin>)> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(|source| Error::Directory { path: root.to_owned(), source })?;
        let lock = lock(root)?;
        room::give_reserve_up(root);
        let path = root.join("berth.db");
        let (connection, mut room, ruin) = match connect(&path) {
            Ok((connection, room)) => (connection, room, None),
            Err(Error::Ruined { reason, .. }) => {
                let aside = |source| Error::Directory { path: path.clone(), source };
                let ruined = ruin::set_aside(root).map_err(aside)?;
                let (connection, room) = connect(&path)?;
                let salvaged = Connection::open(&ruined).map_or(0, |from| ruin::salvage(&from, &connection));
                (connection, room, Some(Ruin { path: ruined, reason, salvaged }))
            }
            Err(error) => return Err(error),
        };
        room.furnish(&root.join("berth.db-wal"));
        let (durability, unsettled_commits, root) = (Durability::Process, 0, root.to_owned());
        Ok((Self { connection, durability, unsettled_commits, root, room: Some(room), _lock: lock }, ruin))
    }

    /// Locks a database, and copies it to memory; the files stay as they are.
    pub(crate) fn open_copy(root: &Path) -> Result<(Self, Option<Ruin>)> {
        let lock = lock(root)?;
        let (connection, ruin) = copy::copy(&root.join("berth.db"))?;
        let (durability, unsettled_commits, root) = (Durability::Process, 0, root.to_owned());
        Ok((Self { connection, durability, unsettled_commits, root, room: None, _lock: lock }, ruin))
    }

    /// Closes the file, and keeps room for whoever opens it next.
    pub(crate) fn close(self) {
        let Self { connection, root, room, _lock, .. } = self;
        drop(connection);
        if let Some(room) = room {
            drop(room);
            room::make_reserve(&root);
        }
    }

    /// Applies all rows in one transaction, or none. On a full disk, the log is begun anew first.
    pub(crate) fn commit(&mut self, rows: &[Row], durability: Durability) -> Result<()> {
        let mut committed = self.try_commit(rows, durability);
        if let Err(error) = &committed
            && error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        {
            self.copy_log();
            committed = self.try_commit(rows, durability);
        }
        committed.map_err(|source| Error::Commit { rows: rows.len(), source })?;
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
                Ok(StoredRow::new(row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?))
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
                let (table, key) = (row.get_ref(0)?, row.get_ref(1)?);
                let raw = [table, key].map(bytes);
                Ok(RowKey { table: shown(table), key: shown(key), set_aside: row.get(2)?, raw })
            })?;
            rows.collect()
        };
        read().map_err(|source| Error::Load { table: "records", source })
    }

    /// Every row that was moved out of its table.
    pub(crate) fn set_aside(&self) -> Result<Vec<SetAside>> {
        let read = || -> rusqlite::Result<Vec<SetAside>> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT tab, key, body, reason FROM quarantine ORDER BY tab, key")?;
            let rows = statement.query_map([], |row| {
                Ok(SetAside {
                    table: shown(row.get_ref(0)?),
                    key: shown(row.get_ref(1)?),
                    text: shown(row.get_ref(2)?),
                    reason: shown(row.get_ref(3)?),
                })
            })?;
            rows.collect()
        };
        read().map_err(|source| Error::Load { table: "quarantine", source })
    }

    /// Moves rows out of their tables, with the reason and their text as it is.
    pub(crate) fn quarantine(&mut self, rows: &[Quarantined]) -> Result<()> {
        let mut set_aside = || {
            let transaction = self.connection.transaction()?;
            for Quarantined { table, raw_key, reason, .. } in rows {
                // A table with one row would otherwise fill this one, a row for each start.
                transaction.execute(
                    "DELETE FROM quarantine WHERE tab = ?1 AND CAST(key AS BLOB) = ?2",
                    params![table, raw_key],
                )?;
                transaction.execute(
                    "INSERT INTO quarantine (tab, key, version, body, reason)
                     SELECT tab, key, version, body, ?3 FROM records WHERE tab = ?1 AND CAST(key AS BLOB) = ?2",
                    params![table, raw_key, reason],
                )?;
                transaction.execute(
                    "DELETE FROM records WHERE tab = ?1 AND CAST(key AS BLOB) = ?2",
                    params![table, raw_key],
                )?;
            }
            transaction.commit()
        };
        set_aside().map_err(|source| Error::Commit { rows: rows.len(), source })
    }

    /// Forgets a row, wherever it is and whatever is in it; absent means done.
    pub(crate) fn discard(&mut self, row: &RowKey) -> Result<()> {
        let statement = match row.set_aside {
            true => "DELETE FROM quarantine WHERE CAST(tab AS BLOB) = ?1 AND CAST(key AS BLOB) = ?2",
            false => "DELETE FROM records WHERE CAST(tab AS BLOB) = ?1 AND CAST(key AS BLOB) = ?2",
        };
        let deleted = self.connection.execute(statement, params![row.raw[0], row.raw[1]]);
        deleted.map(drop).map_err(|source| Error::Commit { rows: 1, source })
    }

    /// Whether enough has gathered in the log.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled_commits >= COMMITS_BEFORE_SETTLING
    }

    /// Copies the log into the database file when enough has gathered; to be called when nobody waits.
    pub(crate) fn settle(&mut self) {
        if self.is_unsettled() {
            self.copy_log();
            if let Some(room) = &self.room {
                room.keep();
            }
        }
    }

    /// The next commit begins the log anew, unless somebody reads it. A failure loses nothing: the log stays, and SQLite
    /// itself tries again when it grows.
    fn copy_log(&mut self) {
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        self.unsettled_commits = 0;
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

/// Opens a file and makes sure that it can be read, whole. One that can't be is left as it is.
fn connect(path: &Path) -> Result<(Connection, Room)> {
    let failed = |source| Error::Directory { path: path.to_owned(), source };
    let ruined = |reason: String| Error::Ruined { path: path.to_owned(), reason };
    let cut_short = ruin::cut_short(path);
    let room = Room::open(path).map_err(failed)?;
    if let Some(reason) = cut_short {
        return Err(ruined(reason));
    }
    let opened = prepare(path).map_err(|fault| match fault {
        Fault::Ruined(reason) => ruined(reason),
        Fault::Failed(source) => Error::Open { path: path.to_owned(), source },
    });
    match opened? {
        (connection, SCHEMA_VERSION) => Ok((connection, room)),
        (_, found) => Err(Error::NewerSchema { path: path.to_owned(), found, known: SCHEMA_VERSION }),
    }
}

/// Returns the version of the schema, too.
fn prepare(path: &Path) -> std::result::Result<(Connection, u32), Fault> {
    let connection = Connection::open(path)?;
    ruin::leave_as_it_is(&connection, true)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(SETTINGS)?;
    ruin::check(&connection)?;
    let version = || connection.query_row("PRAGMA user_version", [], |row| row.get(0));
    if version()? == 0 {
        connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?;
    }
    let version = version()?;
    if version == SCHEMA_VERSION {
        ruin::read_all(&connection)?;
        ruin::leave_as_it_is(&connection, false)?;
    }
    Ok((connection, version))
}

/// What is in a column, whatever its type and encoding.
fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The same as bytes, which tell what is no text from all else.
fn bytes(value: ValueRef<'_>) -> Vec<u8> {
    value.as_bytes().map_or_else(|_| shown(value).into_bytes(), <[u8]>::to_vec)
}

impl StoredRow {
    fn new(key: ValueRef<'_>, version: ValueRef<'_>, body: ValueRef<'_>) -> Self {
        let version = version.as_i64().ok().and_then(|number| u32::try_from(number).ok());
        let body = body.as_str().ok().map(str::to_owned);
        Self { key: shown(key), raw_key: bytes(key), version, body }
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
    // A disk without room for a number is no reason not to start.
    let holder = format!("{}\n", std::process::id());
    let _ = file.write_all_at(holder.as_bytes(), 0).and_then(|()| file.set_len(holder.len() as u64));
    Ok(file)
}
