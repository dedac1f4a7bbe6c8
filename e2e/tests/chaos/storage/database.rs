//! A database's files, and what a disk may make of them.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::Path;

use berth_store::{Error, Loaded, Record, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A log begins with a header, and each of its pages has one. Source: the SQLite WAL file format.
const LOG_HEADER: usize = 32;
const PAGE_HEADER: usize = 24;
/// Of the database's file.
pub(super) const FILE_PAGE: usize = 4096;

macro_rules! records {
    ($($name:ident of $table:literal),*) => {$(
        /// Whatever is in that table, by its id.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        struct $name(Value);

        impl Record for $name {
            const TABLE: &'static str = $table;
            const VERSION: u32 = 1;

            fn key(&self) -> String {
                self.0["id"].as_str().unwrap_or_default().to_owned()
            }
        }
    )*};
}

records!(Sandbox of "sandboxes", Container of "containers", Image of "images");

/// All records of a database, by table and key.
pub(super) type Records = BTreeMap<(&'static str, String), Value>;

/// A database's files at one moment.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) main: Vec<u8>,
    pub(super) log: Vec<u8>,
}

/// What came of opening it.
pub(super) struct Opened {
    pub(super) records: Records,
    pub(super) is_ruined: bool,
}

impl Files {
    pub(super) fn read(root: &Path) -> Self {
        let read = |name: &str| fs::read(root.join(name)).unwrap_or_default();
        Self { main: read("berth.db"), log: read("berth.db-wal") }
    }

    pub(super) fn write(&self, root: &Path) {
        for (name, bytes) in [("berth.db", &self.main), ("berth.db-wal", &self.log)] {
            fs::write(root.join(name), bytes).unwrap();
        }
        let _ = fs::remove_file(root.join("berth.db-shm"));
    }

    /// Opens them as an agent does, in a directory in which there may have been others.
    pub(super) fn open_in(&self, root: &Path) -> Result<Opened, Error> {
        berth_store::ruins(root).iter().for_each(|ruin| fs::remove_file(ruin).unwrap());
        self.write(root);
        fs::create_dir_all(root.join("images")).unwrap();
        on_this_thread(async {
            let store = Store::open(root).await?;
            let mut records = Records::new();
            take(&store, &mut records, |Sandbox(value)| value).await?;
            take(&store, &mut records, |Container(value)| value).await?;
            take(&store, &mut records, |Image(value)| value).await?;
            let is_ruined = store.ruin().is_some();
            store.close().await;
            Ok(Opened { records, is_ruined })
        })
    }

    /// The same with all that is in the log in the file.
    pub(super) fn merged_in(&self, root: &Path) -> Self {
        self.write(root);
        on_this_thread(async { Store::open(root).await.unwrap().close().await });
        Self::read(root)
    }

    /// Where each whole commit in the log ends, the first at its beginning.
    pub(super) fn commits(&self) -> Vec<usize> {
        let word = |at: usize| u32::from_be_bytes(self.log[at..at + 4].try_into().unwrap());
        let page = usize::try_from(word(8)).unwrap();
        let salts = &self.log[16..24];
        let mut commits = vec![0];
        let mut at = LOG_HEADER;
        // What comes after the last commit has the salts of an earlier log, or is nothing yet.
        while at + PAGE_HEADER + page <= self.log.len() && self.log[at + 8..at + 16] == *salts {
            let is_last_of_commit = word(at + 4) != 0;
            at += PAGE_HEADER + page;
            if is_last_of_commit {
                commits.push(at);
            }
        }
        commits
    }
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

async fn take<R: Record>(store: &Store, into: &mut Records, value: fn(R) -> Value) -> Result<(), Error> {
    let Loaded { records, .. } = store.load::<R>().await?;
    into.extend(records.into_iter().map(|record| ((R::TABLE, record.key()), value(record))));
    Ok(())
}

/// What a disk has made of a database.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tear {
    LogCutAt(usize),
    LogGarbledAt(usize),
    FileCutAt(usize),
    GarbageInPage(usize),
}

impl Tear {
    pub(super) fn of(self, files: &Files) -> Files {
        let mut torn = files.clone();
        match self {
            Self::LogCutAt(at) => torn.log.truncate(at),
            Self::LogGarbledAt(at) => torn.log[at] ^= 0x41,
            Self::FileCutAt(at) => torn.main.truncate(at),
            Self::GarbageInPage(page) => torn.main[page * FILE_PAGE..][..FILE_PAGE].fill(0x41),
        }
        torn
    }
}
