//! A database of which a power cut has kept a part, or a lying disk something else. The database of a node with pods and
//! images is cut at one byte after the other, and opened as an agent opens it; some of what comes of that, an agent starts
//! with, on the machine as it was or on one that was started anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_dice::Dice;
use berth_e2e::{Node, eventually, repository, requests, run};
use berth_store::{Loaded, Record, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tally::{Tally, short_or_long};

const PATIENCE: Duration = Duration::from_secs(30);

/// A log begins with a header, and each of its pages has one. Source: the SQLite WAL file format.
const LOG_HEADER: usize = 32;
const PAGE_HEADER: usize = 24;

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
type Records = BTreeMap<(&'static str, String), Value>;

/// A database's files at one moment.
#[derive(Debug, Clone)]
struct Files {
    main: Vec<u8>,
    log: Vec<u8>,
}

/// What came of opening it.
struct Opened {
    records: Records,
    is_ruined: bool,
}

impl Files {
    fn read(root: &Path) -> Self {
        let read = |name: &str| fs::read(root.join(name)).unwrap_or_default();
        Self { main: read("berth.db"), log: read("berth.db-wal") }
    }

    fn write(&self, root: &Path) {
        for (name, bytes) in [("berth.db", &self.main), ("berth.db-wal", &self.log)] {
            fs::write(root.join(name), bytes).unwrap();
        }
        let _ = fs::remove_file(root.join("berth.db-shm"));
    }

    /// Opens it as an agent does, in memory.
    fn open(&self) -> Opened {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        self.write(root.path());
        fs::create_dir(root.path().join("images")).unwrap();
        let thread = tokio::runtime::Builder::new_current_thread().build().unwrap();
        thread.block_on(async {
            let store = Store::open(root.path()).await.unwrap();
            let mut records = Records::new();
            take(&store, &mut records, |Sandbox(value)| value).await;
            take(&store, &mut records, |Container(value)| value).await;
            take(&store, &mut records, |Image(value)| value).await;
            let is_ruined = store.ruin().is_some();
            store.close().await;
            Opened { records, is_ruined }
        })
    }

    /// Where each whole commit in the log ends, the first at its beginning.
    fn commits(&self) -> Vec<usize> {
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

async fn take<R: Record>(store: &Store, into: &mut Records, value: fn(R) -> Value) {
    let Loaded { records, .. } = store.load::<R>().await.unwrap();
    into.extend(records.into_iter().map(|record| ((R::TABLE, record.key()), value(record))));
}

/// A node whose database has seen something.
fn busy_node() -> Node {
    let node = Node::start_empty("[reconciliation]\nperiod_seconds = 1");
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    node
}

/// Two pods, one of which has ended, after others that have come and gone.
fn make_pods(node: &Node, round: usize) {
    for name in ["passing", "ended", "runs"] {
        let pod = node.pod(&format!("{name}-{round}"));
        let id = pod.shell("main", if name == "runs" { "exec sleep 1000" } else { "exit 3" });
        match name {
            "passing" => pod.take_down(),
            "ended" => drop(pod.end_of(&id)),
            _ => {}
        }
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_database_opens_whatever_byte_it_was_cut_at() {
    let node = busy_node();
    make_pods(&node, 0);
    node.kill9();
    let files = Files::read(&node.dir().join("root"));
    node.restart();
    let commits = files.commits();
    assert!(commits.len() > 20, "too few commits in the log: {commits:?}");
    // What each commit made of it; the last one is what the agent would have found.
    let cut = |at: usize| Files { log: files.log[..at].to_vec(), ..files.clone() };
    let states: Vec<(usize, Records)> = commits.iter().map(|end| (*end, cut(*end).open().records)).collect();
    assert_eq!(states.last().unwrap().1, files.open().records);
    let state_at = |at: usize| &states.iter().rev().find(|(end, _)| *end <= at).unwrap().1;

    let end = *commits.last().unwrap();
    let step = short_or_long(2_003, 41);
    let near_ends = commits.iter().flat_map(|end| [end.saturating_sub(1), end + 1]);
    let mut cuts: Vec<usize> = (0..=end).step_by(step).chain(near_ends).filter(|cut| *cut <= end).collect();
    cuts.dedup();
    let mut tally = Tally { what: "torn databases", ..Tally::default() };
    let mut judge = |what: String, holds: bool| {
        tally.tried += 1;
        tally.survived += usize::from(holds);
        if !holds {
            println!("    {what}");
        }
    };
    for at in &cuts {
        let opened = cut(*at).open();
        judge(format!("log cut at {at}"), !opened.is_ruined && opened.records == *state_at(*at));
    }
    for at in (LOG_HEADER..end).step_by(step * 3) {
        let mut garbled = files.clone();
        garbled.log[at] ^= 0x41;
        let opened = garbled.open();
        judge(format!("log garbled at {at}"), !opened.is_ruined && opened.records == *state_at(at));
    }
    // What is in the file alone: it is empty, cut, or has a page of something else.
    let was_known = |records: &Records| {
        records.iter().all(|(key, value)| states.iter().any(|(_, state)| state.get(key) == Some(value)))
    };
    let mut ruined = 0;
    let mut ruin = |what: String, main: Vec<u8>| {
        for log in [Vec::new(), files.log.clone()] {
            let opened = Files { main: main.clone(), log }.open();
            ruined += usize::from(opened.is_ruined);
            judge(what.clone(), was_known(&opened.records));
        }
    };
    for length in (0..files.main.len()).step_by(step * 3) {
        ruin(format!("file cut at {length}"), files.main[..length].to_vec());
    }
    for page in 0..files.main.len() / 4096 {
        let mut main = files.main.clone();
        main[page * 4096..][..4096].fill(0x41);
        ruin(format!("garbage in page {page}"), main);
    }
    assert!(ruined > 0, "no file was ruined");
    node.cri().sandboxes().iter().for_each(|pod| node.cri().take_down(&pod.id).unwrap());
    node.remove_image(requests::BUSYBOX);
    tally.remarks =
        format!("{} commits in {} KiB of log; {ruined} files set aside", commits.len() - 1, end / 1024);
    tally.enter();
    assert!(tally.is_clean(), "see above");
}

/// What is done to a database while no agent runs.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// The last commits are lost.
    Cut,
    /// A page is something else.
    Garbage,
    /// All is lost.
    Empty,
}

#[test]
#[ignore = "needs root and the test images"]
fn a_node_goes_on_with_what_is_left_of_its_database() {
    let node = busy_node();
    let mut dice = Dice::new(berth_dice::seed_or(11));
    let mut tally = Tally { what: "starts with torn databases", ..Tally::default() };
    for round in 0..short_or_long(6, 60) {
        let damage = [Damage::Cut, Damage::Garbage, Damage::Empty][round % 3];
        let is_rebooted = round % 2 == 1;
        make_pods(&node, round);
        match is_rebooted {
            true => node.reboot(),
            false => node.kill9(),
        }
        let root = node.dir().join("root");
        let mut files = Files::read(&root);
        match damage {
            Damage::Cut => files.log.truncate(dice.below(files.log.len() + 1)),
            Damage::Garbage => {
                // Merged first: what a log has good copies of can't be ruined.
                files = merged(&files);
                let page = dice.below(files.main.len() / 4096);
                files.main[page * 4096..][..4096].fill(0x41);
            }
            Damage::Empty => (files.main, files.log) = (Vec::new(), Vec::new()),
        }
        files.write(&root);
        node.restart();
        tally.tried += 1;
        tally.restarts += 1;
        let problems = look_after(&node, is_rebooted);
        tally.survived += usize::from(problems.is_empty());
        if !problems.is_empty() {
            println!("round {round}, {damage:?}, machine started anew: {is_rebooted}");
            problems.iter().for_each(|problem| println!("    {problem}"));
        }
    }
    node.remove_image(requests::BUSYBOX);
    tally.enter();
    assert!(tally.is_clean(), "see above");
}

/// The same with all that is in the log in the file.
fn merged(files: &Files) -> Files {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    files.write(root.path());
    let thread = tokio::runtime::Builder::new_current_thread().build().unwrap();
    thread.block_on(async { Store::open(root.path()).await.unwrap().close().await });
    Files::read(root.path())
}

/// What is wrong with a node that has just come up with part of a database. It is as good as new afterwards.
fn look_after(node: &Node, is_rebooted: bool) -> Vec<String> {
    let mut problems = Vec::new();
    // A container whose record is lost dies with the start, and its monitor writes that down later: the next rounds find
    // it. What is missing belongs to records that are older than the disk.
    let left =
        || node.check("--leaks").into_iter().filter(|line| line.starts_with("left ")).collect::<Vec<_>>();
    eventually("what is left to be removed", PATIENCE, || left().is_empty().then_some(()));
    let cri = node.cri();
    if !node.condition("RuntimeReady").0 {
        problems.push("the node is not ready".into());
    }
    let ruins: Vec<PathBuf> = berth_store::ruins(&node.dir().join("root"));
    let (is_readable, why) = node.condition("RecordsReadable");
    if is_readable != (ruins.is_empty() && no_row_is_set_aside(node)) {
        problems.push(format!("records are readable: {is_readable} {why}, and ruins are {ruins:?}"));
    }
    if !ruins.is_empty() && !node.journal().contains("database ruined") {
        problems.push("the journal says nothing of a ruin".into());
    }
    for container in cri.containers() {
        let status = cri.container(&container.id).unwrap();
        if is_rebooted && status.state() != ContainerState::ContainerExited {
            problems.push(format!("container {} is {:?} after a reboot", container.id, status.state()));
        }
    }
    for pod in cri.sandboxes() {
        if is_rebooted && pod.state() != PodSandboxState::SandboxNotready {
            problems.push(format!("pod {} is ready after a reboot", pod.id));
        }
        problems.extend(cri.take_down(&pod.id).err().map(|status| format!("take down: {status}")));
    }
    problems.extend(node.check("--repair").into_iter().map(|line| format!("after a repair: {line}")));
    if node.condition("RecordsReadable") != (true, String::new()) {
        problems.push("a repair leaves records that can't be read".into());
    }
    // The image may have gone with its record.
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    let pod = node.pod("next");
    let ended = pod.end_of(&pod.start(requests::shell("main", "exit 5")));
    if ended.exit_code != 5 {
        problems.push(format!("the next pod's container ends with {}", ended.exit_code));
    }
    pod.take_down();
    problems.extend(node.check("--leaks").into_iter().map(|line| format!("at the end: {line}")));
    problems
}

/// Whether no single row was set aside.
fn no_row_is_set_aside(node: &Node) -> bool {
    !node.check("--leaks").iter().any(|line| line.starts_with("unreadable row "))
}
