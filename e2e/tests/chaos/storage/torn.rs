//! A database of which a power cut has kept a part, or a lying disk something else. The database of a node with pods and
//! images is cut at one byte after the other, and opened as an agent opens it; some of what comes of that, an agent starts
//! with, on the machine as it was or on one that was started anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_cri_proto::v1::*;
use berth_dice::Dice;
use berth_e2e::{Node, eventually, repository, requests, run};
use berth_store::Error;
use serde_json::Value;

use super::database::{FILE_PAGE, Files, Opened, Records, Tear};
use super::memory::Memory;
use crate::tally::{Tally, short_or_long};

const PATIENCE: Duration = Duration::from_secs(30);

/// Wrong ones that are printed.
const MOST_SHOWN: usize = 20;

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
    let memory = Memory::new(&node.dir().join("memory"));
    let begun = Instant::now();
    let history = History::of(&files, &memory.directory(0));
    let merged = files.merged_in(&memory.directory(0));
    // Before and after the log was copied into the file, with it and without.
    let variants = [&files.main, &merged.main]
        .map(|main| [Vec::new(), files.log.clone()].map(|log| Files { main: main.clone(), log }));
    let of_log = tears_of_log(&history).into_iter().map(|tear| (&files, tear));
    let of_file =
        variants.iter().flatten().flat_map(|files| tears_of_file(files).map(move |tear| (files, tear)));
    let all: Vec<_> = of_log.chain(of_file).collect();
    let judged = memory.each(&all, |(files, tear), root| history.judge(*tear, tear.of(files).open_in(root)));
    let ruined = judged.iter().filter(|judged| **judged == Ok(true)).count();
    let wrong: Vec<_> = judged.iter().filter_map(|judged| judged.as_ref().err()).collect();
    wrong.iter().take(MOST_SHOWN).for_each(|what| println!("    {what}"));
    assert!(ruined > 0, "no file was ruined");
    node.cri().sandboxes().iter().for_each(|pod| node.cri().take_down(&pod.id).unwrap());
    node.remove_image(requests::BUSYBOX);
    let remarks = format!(
        "{} commits in {} KiB of log, {} KiB of file; {ruined} files set aside; {:.1} ms for each",
        history.0.len() - 1,
        history.end() / 1024,
        merged.main.len() / 1024,
        begun.elapsed().as_secs_f64() * 1000.0 / judged.len() as f64
    );
    let (tried, survived) = (judged.len(), judged.len() - wrong.len());
    let tally = Tally { what: "torn databases", tried, survived, remarks, ..Tally::default() };
    tally.enter();
    assert!(tally.is_clean(), "see above");
}

/// What each commit in a log made of a database, by where it ends; the first is at the beginning.
struct History(Vec<(usize, Records)>);

impl History {
    fn of(files: &Files, bench: &Path) -> Self {
        let commits = files.commits();
        assert!(commits.len() > 20, "too few commits in the log: {commits:?}");
        let state = |end: usize| (end, Tear::LogCutAt(end).of(files).open_in(bench).unwrap().records);
        let history = Self(commits.into_iter().map(state).collect());
        assert_eq!(*history.at(history.end()), files.open_in(bench).unwrap().records);
        history
    }

    fn end(&self) -> usize {
        self.0[self.0.len() - 1].0
    }

    /// As the last commit left it that ends here or before.
    fn at(&self, place: usize) -> &Records {
        &self.0[self.0.partition_point(|(end, _)| *end <= place) - 1].1
    }

    /// Whether the database was set aside, or what is wrong.
    fn judge(&self, tear: Tear, opened: Result<Opened, Error>) -> Result<bool, String> {
        let Opened { records, is_ruined } = opened.map_err(|error| format!("{tear:?}: {error}"))?;
        let holds = match tear {
            Tear::LogCutAt(at) | Tear::LogGarbledAt(at) => !is_ruined && records == *self.at(at),
            // Nothing that never was.
            Tear::FileCutAt(_) | Tear::GarbageInPage(_) => records.iter().all(|record| self.knows(record)),
        };
        if holds { Ok(is_ruined) } else { Err(format!("{tear:?}: {:?}", records.keys())) }
    }

    fn knows(&self, (key, value): (&(&'static str, String), &Value)) -> bool {
        self.0.iter().any(|(_, state)| state.get(key) == Some(value))
    }
}

/// At each byte in a long pass; at some, and around the ends of commits, in a short one.
fn tears_of_log(history: &History) -> Vec<Tear> {
    let end = history.end();
    let around = history.0.iter().flat_map(|(end, _)| [end.saturating_sub(1), *end, end + 1]);
    let mut cuts: Vec<_> =
        (0..=end).step_by(short_or_long(2_003, 1)).chain(around).filter(|at| *at <= end).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let garbled = (0..end).step_by(short_or_long(6_009, 1)).map(Tear::LogGarbledAt);
    cuts.into_iter().map(Tear::LogCutAt).chain(garbled).collect()
}

fn tears_of_file(files: &Files) -> impl Iterator<Item = Tear> {
    let bytes = files.main.len();
    let cuts = (0..bytes).step_by(short_or_long(6_009, 1)).map(Tear::FileCutAt);
    cuts.chain((0..bytes / FILE_PAGE).map(Tear::GarbageInPage))
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
                files = files.merged_in(tempfile::tempdir_in("/dev/shm").unwrap().path());
                files = Tear::GarbageInPage(dice.below(files.main.len() / FILE_PAGE)).of(&files);
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
