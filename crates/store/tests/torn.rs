//! What is left of a database whose files have been cut short or overwritten: it opens, and is what some whole commit made
//! of it, or a new one with what could be read of the old, which says so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use berth_store::{Change, Durability, Loaded, Record, Ruin, Store, ruins};
use serde::{Deserialize, Serialize};

const COMMITS: u32 = 12;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Pod {
    id: String,
    attempt: u32,
    text: String,
}

impl Record for Pod {
    const TABLE: &'static str = "pods";
    const VERSION: u32 = 1;

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// The files of a database at one moment.
#[derive(Debug, Clone)]
struct Files {
    main: Vec<u8>,
    log: Vec<u8>,
}

#[derive(Debug)]
struct Found {
    records: Vec<Pod>,
    set_aside: usize,
    ruin: Option<Ruin>,
}

impl Files {
    fn of(root: &Path) -> Self {
        let read = |name: &str| fs::read(root.join(name)).unwrap_or_default();
        Self { main: read("berth.db"), log: read("berth.db-wal") }
    }

    /// What an agent finds that starts with these files.
    async fn open(&self) -> Found {
        let root = directory();
        fs::write(root.path().join("berth.db"), &self.main).unwrap();
        if !self.log.is_empty() {
            fs::write(root.path().join("berth.db-wal"), &self.log).unwrap();
        }
        // As an agent's does.
        fs::create_dir(root.path().join("images")).unwrap();
        let store = Store::open(root.path()).await.unwrap();
        let Loaded { records, quarantined } = store.load::<Pod>().await.unwrap();
        // It is as good as a new one.
        let more = Pod { id: "after".into(), attempt: 0, text: String::new() };
        store.commit(Change::new().put(&more).unwrap(), Durability::Power).await.unwrap();
        let ruin = store.ruin().cloned();
        store.close().await;
        let again = Store::open(root.path()).await.unwrap();
        assert_eq!(again.ruin(), None);
        assert_eq!(again.load::<Pod>().await.unwrap().records.len(), records.len() + 1);
        again.close().await;
        assert_eq!(ruins(root.path()).first(), ruin.as_ref().map(|ruin| &ruin.path));
        Found { records, set_aside: quarantined.len(), ruin }
    }
}

/// In memory where that can be had: what is tested is what is written, not when it is flushed.
fn directory() -> tempfile::TempDir {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A database with records in its file and later ones in its log, and what each commit in the log made of it, by how long
/// the log was then.
async fn history() -> (Files, Vec<(usize, Vec<Pod>)>) {
    let root = directory();
    let store = Store::open(root.path()).await.unwrap();
    let pod = |number: u32, attempt| Pod {
        id: format!("pod-{number:03}"),
        attempt,
        text: format!("{number} ").repeat(400),
    };
    let mut change = Change::new();
    for number in 0..40 {
        change = change.put(&pod(number, 0)).unwrap();
    }
    store.commit(change, Durability::Process).await.unwrap();
    store.close().await;
    let store = Store::open(root.path()).await.unwrap();
    let mut states = vec![(0, store.load::<Pod>().await.unwrap().records)];
    for commit in 0..COMMITS {
        let change = Change::new().put(&pod(commit, 1)).unwrap().put(&pod(100 + commit, 0)).unwrap();
        let change = change.delete::<Pod>(format!("pod-{:03}", 20 + commit));
        store.commit(change, Durability::Process).await.unwrap();
        states.push((Files::of(root.path()).log.len(), store.load::<Pod>().await.unwrap().records));
    }
    let files = Files::of(root.path());
    store.close().await;
    (files, states)
}

/// What the last commit left that lies in the first bytes of the log.
fn state_at(states: &[(usize, Vec<Pod>)], log_bytes: usize) -> &Vec<Pod> {
    let (_, state) = states.iter().rev().find(|(length, _)| *length <= log_bytes).unwrap();
    state
}

#[tokio::test]
async fn a_log_cut_short_loses_the_commits_that_it_cuts_and_no_other() {
    let (files, states) = history().await;
    assert_eq!(states.last().unwrap().0, files.log.len());
    // Some near each commit's end, and some anywhere.
    let ends = states.iter().flat_map(|(end, _)| [end.saturating_sub(1), *end, end + 1]);
    let cuts = ends.chain((0..files.log.len()).step_by(4001)).filter(|cut| *cut <= files.log.len());
    for cut in cuts {
        let torn = Files { log: files.log[..cut].to_vec(), ..files.clone() };
        let found = torn.open().await;
        assert_eq!((found.ruin, found.set_aside), (None, 0), "cut at {cut}");
        assert_eq!(&found.records, state_at(&states, cut), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_log_with_a_wrong_byte_is_good_up_to_the_commit_before() {
    let (files, states) = history().await;
    // Past its header, a checksum covers everything; a salt or a length in the header voids the log as a whole.
    for wrong in (32..files.log.len()).step_by(5003) {
        let mut torn = files.clone();
        torn.log[wrong] ^= 0x55;
        let found = torn.open().await;
        assert_eq!((found.ruin, found.set_aside), (None, 0), "wrong at {wrong}");
        assert_eq!(&found.records, state_at(&states, wrong), "wrong at {wrong}");
    }
}

#[tokio::test]
async fn a_ruined_file_is_set_aside_and_what_can_be_read_is_taken_over() {
    let (files, states) = history().await;
    // All that there ever was in it: a record that comes from nowhere would be worse than one that is lost.
    let known: Vec<&Pod> = states.iter().flat_map(|(_, state)| state).collect();
    let mut trials: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), Vec::new()),
        ("garbage".into(), vec![b'x'; 8192]),
        ("short garbage".into(), b"no".to_vec()),
    ];
    for cut in (1..files.main.len()).step_by(9001) {
        trials.push((format!("cut at {cut}"), files.main[..cut].to_vec()));
    }
    for page in 0..files.main.len() / 4096 {
        for (kind, byte) in [("zeros", 0), ("garbage", 0xa7)] {
            let mut main = files.main.clone();
            main[page * 4096..][..4096].fill(byte);
            trials.push((format!("{kind} in page {page}"), main));
        }
    }
    let mut salvaged = 0;
    for log in [Vec::new(), files.log.clone()] {
        for (trial, main) in &trials {
            let torn = Files { main: main.clone(), log: log.clone() };
            let Found { records, set_aside, ruin } = torn.open().await;
            assert!(records.iter().all(|pod| known.contains(&pod)), "{trial}");
            let whole = if log.is_empty() { &states[0].1 } else { &states[states.len() - 1].1 };
            match ruin {
                Some(ruin) => {
                    assert_eq!(ruin.salvaged, records.len() + set_aside, "{trial}");
                    assert!(!ruin.reason.is_empty());
                    salvaged += ruin.salvaged;
                }
                // What was broken is in the log as it should be, or a record's text, which tells by itself.
                None => assert_eq!(records.len() + set_aside, whole.len(), "{trial}"),
            }
        }
    }
    assert!(salvaged > 100, "nothing can be saved from a file with one broken page");
}

#[tokio::test]
async fn what_was_set_aside_is_taken_over_from_a_ruined_file_too() {
    let (files, _) = history().await;
    let root = directory();
    fs::write(root.path().join("berth.db"), &files.main).unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let other = rusqlite::Connection::open(root.path().join("berth.db")).unwrap();
    // Both of one key: the order of the rows tells them apart.
    for (text, reason) in [("a", "cut"), ("b", "garbled")] {
        let row = format!("('pods', 'pod-000', 1, '{text}', '{reason}', CURRENT_TIMESTAMP)");
        other.execute(&format!("INSERT INTO quarantine VALUES {row}"), []).unwrap();
    }
    drop(other);
    let before = store.set_aside().await.unwrap();
    store.close().await;
    let mut torn = Files::of(root.path());
    // A page in the middle of the records, which are many more than the rows that were set aside.
    let broken = torn.main.len() / 4096 / 2;
    torn.main[broken * 4096..][..4096].fill(0xa7);
    fs::write(root.path().join("berth.db"), &torn.main).unwrap();
    let store = Store::open(root.path()).await.unwrap();
    let salvaged = store.ruin().unwrap().salvaged;
    assert_eq!(store.set_aside().await.unwrap(), before);
    let Loaded { records, quarantined } = store.load::<Pod>().await.unwrap();
    assert!(records.len() > 20, "{}", records.len());
    assert_eq!(salvaged, records.len() + quarantined.len() + before.len());
}

/// Every file but for SQLite's index of a log.
fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.is_file() && !path.ends_with("berth.db-shm")).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[tokio::test]
async fn a_copy_tells_what_there_is_and_leaves_the_files_as_they_are() {
    let (files, states) = history().await;
    let garbled = |page: usize| {
        let mut main = files.main.clone();
        main[page * 4096..][..4096].fill(0xa7);
        main
    };
    let trials = [
        ("after a stop", files.main.clone(), Vec::new(), Some(&states[0].1)),
        ("after a kill", files.main.clone(), files.log.clone(), Some(&states.last().unwrap().1)),
        ("empty", Vec::new(), Vec::new(), None),
        ("garbage", vec![b'x'; 8192], Vec::new(), None),
        ("garbled", garbled(files.main.len() / 4096 / 2), Vec::new(), None),
        ("cut", files.main[..files.main.len() / 2].to_vec(), Vec::new(), None),
    ];
    for (trial, main, log, expected) in trials {
        let root = directory();
        fs::write(root.path().join("berth.db"), &main).unwrap();
        if !log.is_empty() {
            fs::write(root.path().join("berth.db-wal"), &log).unwrap();
        }
        fs::create_dir(root.path().join("images")).unwrap();
        fs::write(root.path().join("lock"), format!("{}\n", std::process::id())).unwrap();
        let before = contents(root.path());
        let copy = Store::open_copy(root.path()).await.unwrap().unwrap();
        let Loaded { records, quarantined } = copy.peek::<Pod>().await.unwrap();
        match expected {
            Some(expected) => assert_eq!((&records, copy.ruin()), (expected, None), "{trial}"),
            None => {
                let ruin = copy.ruin().unwrap();
                assert_eq!(ruin.path, root.path().join("berth.db"), "{trial}");
                assert_eq!(ruin.salvaged, records.len() + quarantined.len(), "{trial}");
            }
        }
        assert!(trial != "garbled" || records.len() > 20, "{}", records.len());
        copy.close().await;
        assert_eq!(contents(root.path()), before, "{trial}");
    }
}

#[tokio::test]
async fn only_some_ruins_are_kept_and_they_can_be_removed() {
    let root = directory();
    for _ in 0..5 {
        fs::write(root.path().join("berth.db"), "garbage").unwrap();
        fs::write(root.path().join("berth.db-wal"), "log").unwrap();
        Store::open(root.path()).await.unwrap().close().await;
    }
    let found = ruins(root.path());
    let databases = found.iter().filter(|path| path.extension().is_some_and(|end| end == "db"));
    assert_eq!(databases.count(), 3, "{found:?}");
    assert_eq!(fs::read(&found[0]).unwrap(), b"garbage");
    found.iter().for_each(|path| fs::remove_file(path).unwrap());
    let left =
        fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["berth.db", "lock", "reserve"]);
}

#[tokio::test]
async fn rows_of_any_type_and_encoding_are_set_aside() {
    let root = directory();
    let store = Store::open(root.path()).await.unwrap();
    let good = Pod { id: "good".into(), attempt: 0, text: String::new() };
    store.commit(Change::new().put(&good).unwrap(), Durability::Process).await.unwrap();
    let body = serde_json::to_string(&good).unwrap();
    let other = rusqlite::Connection::open(root.path().join("berth.db")).unwrap();
    for row in [
        "'blob', 1, x'00ff'",
        "'not utf-8', 1, CAST(x'fffe' AS TEXT)",
        "CAST(x'fffe' AS TEXT), 1, '{}'",
        "x'6162', 1, '{}'",
        "'negative', -1, '{}'",
        "'no number', 'one', '{}'",
        "'huge', 99999999999, '{}'",
        "'short', 1, '{\"id\":'",
    ] {
        other.execute(&format!("INSERT INTO records VALUES ('pods', {row})"), []).unwrap();
    }
    other.execute("INSERT INTO records VALUES ('pods', 'not mine', 1, ?1)", [&body]).unwrap();
    let loaded = store.load::<Pod>().await.unwrap();
    assert_eq!(loaded.records, [good]);
    assert_eq!(loaded.quarantined.len(), 9, "{:#?}", loaded.quarantined);
    assert!(store.load::<Pod>().await.unwrap().quarantined.is_empty());
    let set_aside = store.set_aside().await.unwrap();
    assert_eq!(set_aside.len(), 9);
    let not_mine = set_aside.iter().find(|row| row.key == "not mine").unwrap();
    assert_eq!((not_mine.reason.as_str(), &not_mine.text), ("it is the record of good", &body));
    let rows = store.keys().await.unwrap();
    assert_eq!(rows.len(), 10);
    for row in rows {
        store.discard(row).await.unwrap();
    }
    assert_eq!(store.set_aside().await.unwrap(), []);
    assert!(store.load::<Pod>().await.unwrap().records.is_empty());
}
