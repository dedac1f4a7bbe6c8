//! The handle that the agent's tasks share, and the thread that works on the database for those who may not block.
//!
//! Requests reach the thread through a bounded queue, in order. A request that was queued is carried out even if
//! its future is dropped, so a change is whole or was never sent. Who may block himself takes the database for as long as
//! his change takes ([`Store::commit_now`]), and wakes no thread. The thread ends, and the file is closed, when the last
//! handle is dropped or after [`Store::close`].

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::{
    Change, Durability, Error, Loaded, Quarantined, Record, Result, Ruin, SetAside,
    change::{Row, StoredRow},
    database::{Database, RowKey},
};

const QUEUED_REQUESTS: usize = 256;

/// A database, and the one that can't be read for which it stands.
type Opened = Result<(Database, Option<Ruin>)>;

/// A handle on the database; cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Store {
    requests: mpsc::Sender<Request>,
    database: Shared,
    ruin: Option<Arc<Ruin>>,
}

/// The database, until it is closed.
#[derive(Clone)]
struct Shared(Arc<Mutex<Option<Database>>>);

/// What the database's thread can be asked; each answer goes to the sender in it.
#[derive(Debug)]
enum Request {
    Commit {
        rows: Vec<Row>,
        durability: Durability,
        answer: oneshot::Sender<Result<()>>,
    },
    Rows {
        table: &'static str,
        answer: oneshot::Sender<Result<Vec<StoredRow>>>,
    },
    Quarantine {
        rows: Vec<Quarantined>,
        answer: oneshot::Sender<Result<()>>,
    },
    Keys {
        answer: oneshot::Sender<Result<Vec<RowKey>>>,
    },
    SetAside {
        answer: oneshot::Sender<Result<Vec<SetAside>>>,
    },
    Discard {
        row: RowKey,
        answer: oneshot::Sender<Result<()>>,
    },
    /// Only to look whether it is time to settle.
    Settle,
    Close {
        answer: oneshot::Sender<()>,
    },
}

impl Store {
    /// Opens or makes the database `berth.db` in a root directory, which is made when missing. One that can't be read is
    /// set aside, see [`Store::ruin`].
    ///
    /// Errors: busy when another agent has the directory's lock.
    pub async fn open(root: &Path) -> Result<Self> {
        Self::open_by(root, Database::open).await
    }

    /// As [`Store::open`], but for a copy of what there is: no file is changed, nor is any made but the lock. `None` where
    /// no agent has made a database. Changes go nowhere.
    pub async fn open_copy(root: &Path) -> Result<Option<Self>> {
        match root.join("berth.db").exists() {
            true => Self::open_by(root, Database::open_copy).await.map(Some),
            false => Ok(None),
        }
    }

    async fn open_by(root: &Path, open: fn(&Path) -> Opened) -> Result<Self> {
        let (requests, inbox) = mpsc::channel(QUEUED_REQUESTS);
        let (answer, opened) = oneshot::channel();
        let root = root.to_owned();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || match open(&root) {
                Ok((database, ruin)) => {
                    let database = Shared(Arc::new(Mutex::new(Some(database))));
                    let _ = answer.send(Ok((database.clone(), ruin)));
                    serve(&database, inbox);
                }
                Err(error) => {
                    let _ = answer.send(Err(error));
                }
            })
            .map_err(Error::Thread)?;
        let (database, ruin) = opened.await.map_err(|_| Error::Closed)??;
        Ok(Self { requests, database, ruin: ruin.map(Arc::new) })
    }

    /// As [`Store::open`], but makes nothing: `None` where no agent has made a database.
    pub async fn open_existing(root: &Path) -> Result<Option<Self>> {
        match root.join("berth.db").exists() {
            true => Self::open(root).await.map(Some),
            false => Ok(None),
        }
    }

    /// The database that was set aside when this one was opened, if it was; of a copy, the one that it is of, if that
    /// can't be read.
    pub fn ruin(&self) -> Option<&Ruin> {
        self.ruin.as_deref()
    }

    /// Applies a change in one transaction.
    ///
    /// Dropping the future midway is safe: the change is then applied whole, or not at all.
    pub async fn commit(&self, change: Change, durability: Durability) -> Result<()> {
        self.ask(|answer| Request::Commit { rows: change.rows, durability, answer }).await?
    }

    /// As [`Store::commit`], on the caller's own thread, which blocks.
    pub fn commit_now(&self, change: Change, durability: Durability) -> Result<()> {
        let mut database = self.database.lock();
        let open = database.as_mut().ok_or(Error::Closed)?;
        open.commit(&change.rows, durability)?;
        if open.is_unsettled() {
            // A full queue means that somebody else's request is looked at soon.
            let _ = self.requests.try_send(Request::Settle);
        }
        Ok(())
    }

    /// Reads every record of a type. Rows that are none are moved to the `quarantine` table and reported.
    pub async fn load<R: Record>(&self) -> Result<Loaded<R>> {
        let loaded = self.peek().await?;
        if !loaded.quarantined.is_empty() {
            let rows = loaded.quarantined.clone();
            self.ask(|answer| Request::Quarantine { rows, answer }).await??;
        }
        Ok(loaded)
    }

    /// As [`Store::load`], but leaves every row where it is.
    pub async fn peek<R: Record>(&self) -> Result<Loaded<R>> {
        let rows = self.ask(|answer| Request::Rows { table: R::TABLE, answer }).await??;
        let mut loaded = Loaded { records: Vec::with_capacity(rows.len()), quarantined: Vec::new() };
        for row in rows {
            match row.parse() {
                Ok(record) => loaded.records.push(record),
                Err(unreadable) => loaded.quarantined.push(unreadable),
            }
        }
        Ok(loaded)
    }

    /// Names every row that there is, whether it can be read as a record or not.
    pub async fn keys(&self) -> Result<Vec<RowKey>> {
        self.ask(|answer| Request::Keys { answer }).await?
    }

    /// Every row in the `quarantine` table.
    pub async fn set_aside(&self) -> Result<Vec<SetAside>> {
        self.ask(|answer| Request::SetAside { answer }).await?
    }

    /// Forgets a row that nobody understands; absent means done.
    pub async fn discard(&self, row: RowKey) -> Result<()> {
        self.ask(|answer| Request::Discard { row, answer }).await?
    }

    /// Closes the database after all that was asked before, and releases its lock. Every handle is closed with it.
    pub async fn close(self) {
        // A store that is closed already needs no closing.
        let _ = self.ask(|answer| Request::Close { answer }).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        if let Some(database) = self.lock().take() {
            database.close();
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

/// The database's thread: answers until it is told to close or nobody is left to ask. An asker who has gone is
/// not an error.
fn serve(shared: &Shared, mut inbox: mpsc::Receiver<Request>) {
    while let Some(request) = inbox.blocking_recv() {
        let mut locked = shared.lock();
        // Nobody else closes it.
        let Some(database) = locked.as_mut() else { return };
        match request {
            Request::Commit { rows, durability, answer } => {
                let _ = answer.send(database.commit(&rows, durability));
            }
            Request::Rows { table, answer } => {
                let _ = answer.send(database.rows(table));
            }
            Request::Keys { answer } => {
                let _ = answer.send(database.keys());
            }
            Request::Quarantine { rows, answer } => {
                let _ = answer.send(database.quarantine(&rows));
            }
            Request::SetAside { answer } => {
                let _ = answer.send(database.set_aside());
            }
            Request::Discard { row, answer } => {
                let _ = answer.send(database.discard(&row));
            }
            Request::Settle => {}
            Request::Close { answer } => {
                drop(locked);
                shared.close();
                let _ = answer.send(());
                return;
            }
        }
        if inbox.is_empty() {
            database.settle();
        }
    }
    shared.close();
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::ErrorKind;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pod {
        id: String,
        attempt: u32,
    }

    impl Record for Pod {
        const TABLE: &'static str = "pods";
        const VERSION: u32 = 2;

        fn key(&self) -> String {
            self.id.clone()
        }
    }

    /// The same table in the eyes of another version.
    #[derive(Serialize, Deserialize)]
    struct OldPod(String);

    impl Record for OldPod {
        const TABLE: &'static str = "pods";
        const VERSION: u32 = 1;

        fn key(&self) -> String {
            self.0.clone()
        }
    }

    fn pod(id: &str, attempt: u32) -> Pod {
        Pod { id: id.into(), attempt }
    }

    async fn reopened(store: Store, root: &Path) -> Store {
        store.close().await;
        Store::open(root).await.unwrap()
    }

    #[tokio::test]
    async fn records_survive_a_restart_in_key_order() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).await.unwrap();
        let change = Change::new().put(&pod("b", 0)).unwrap().put(&pod("a", 1)).unwrap();
        store.commit(change, Durability::Process).await.unwrap();
        let change = Change::new().put(&pod("c", 2)).unwrap().put(&pod("b", 3)).unwrap();
        store.commit(change.delete::<Pod>("c").delete::<Pod>("absent"), Durability::Power).await.unwrap();
        let loaded = reopened(store, root.path()).await.load::<Pod>().await.unwrap();
        assert_eq!(loaded.records, [pod("a", 1), pod("b", 3)]);
        assert_eq!(loaded.quarantined, []);
    }

    #[tokio::test]
    async fn looking_changes_nothing_and_makes_no_database() {
        let root = tempfile::tempdir().unwrap();
        assert!(Store::open_existing(root.path()).await.unwrap().is_none());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        let store = Store::open(root.path()).await.unwrap();
        let change = Change::new().put(&OldPod("old".into())).unwrap().put(&pod("new", 0)).unwrap();
        store.commit(change, Durability::Process).await.unwrap();
        assert_eq!(store.peek::<Pod>().await.unwrap().quarantined[0].key, "old");
        let shown =
            async || -> Vec<String> { store.keys().await.unwrap().iter().map(ToString::to_string).collect() };
        assert_eq!(shown().await, ["pods/new", "pods/old"]);
        store.load::<Pod>().await.unwrap();
        assert_eq!(shown().await, ["pods/new", "quarantine/pods/old"]);
        store.close().await;
        assert!(Store::open_existing(root.path()).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_is_set_aside_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).await.unwrap();
        let change = Change::new().put(&OldPod("old".into())).unwrap().put(&pod("new", 0)).unwrap();
        store.commit(change, Durability::Process).await.unwrap();
        let loaded = store.load::<Pod>().await.unwrap();
        assert_eq!(loaded.records, [pod("new", 0)]);
        assert_eq!(loaded.quarantined[0].key, "old");
        assert_eq!(loaded.quarantined[0].reason, "version 1 is not 2, the one known");
        assert_eq!(store.load::<Pod>().await.unwrap().quarantined, []);
        assert!(store.load::<OldPod>().await.unwrap().records.is_empty());
        store.close().await;
        let kept: String = rusqlite::Connection::open(root.path().join("berth.db"))
            .unwrap()
            .query_row("SELECT body FROM quarantine WHERE key = 'old'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, "\"old\"");
    }

    #[tokio::test]
    async fn a_second_agent_is_told_who_holds_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let _first = Store::open(root.path()).await.unwrap();
        let error = Store::open(root.path()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[tokio::test]
    async fn a_closed_store_says_so() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).await.unwrap();
        store.clone().close().await;
        let error = store.load::<Pod>().await.unwrap_err();
        assert!(matches!(error, Error::Closed), "{error}");
    }
}
