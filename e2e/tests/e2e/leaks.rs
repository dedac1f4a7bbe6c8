//! `berth check --leaks` names what nobody owns, `--repair` takes it away, and neither has an eye for anything else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use berth_e2e::{Node, Running, eventually, run, spawn};
use serde_json::Value;

const POD: &str = "deadbeef00000000deadbeef00000000deadbeef00000000deadbeef00000000";
const ON_RECORD: &str = "deadbeef11111111deadbeef11111111deadbeef11111111deadbeef11111111";
const CONTAINER: &str = "deadbeef22222222deadbeef22222222deadbeef22222222deadbeef22222222";

/// Runs a check to its end: whether it found nothing, and what it found that is not as it should be.
fn check(node: &Node, args: &[&str]) -> (bool, Vec<Value>) {
    let output = node.berth(&[&["check", "--json"], args].concat()).output().unwrap();
    let (said, complained) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert_eq!(complained, "");
    (output.status.success(), said.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn names(items: &[Value], standing: &str) -> BTreeSet<String> {
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let wanted = items.iter().filter(|item| item["standing"] == standing);
    wanted.map(|item| format!("{} {}", text(item, "kind"), text(item, "name"))).collect()
}

#[track_caller]
fn assert_nothing_is_left(node: &Node) {
    let (is_clean, found) = check(node, &["--leaks"]);
    assert!(is_clean && found.is_empty(), "{found:#?}");
}

/// Directories of an agent that no pod of this test needs.
fn make_directories(node: &Node) -> BTreeSet<String> {
    let paths = [
        format!("state/pods/{POD}"),
        format!("root/pods/{POD}"),
        format!("root/containers/{CONTAINER}"),
        format!("root/images/layers/{POD}"),
        "root/images/ingest/.tmpleft".to_owned(),
    ];
    for path in &paths {
        fs::create_dir_all(node.dir().join(path).join("deeper")).unwrap();
        fs::write(node.dir().join(path).join("deeper/file"), "x").unwrap();
    }
    let blob = format!("root/images/blobs/{CONTAINER}");
    fs::write(node.dir().join(&blob), "x").unwrap();
    let kinds = ["file", "file", "file", "layer", "ingest", "blob"];
    let shown = |(kind, path): (&str, &String)| format!("{kind} {}", node.dir().join(path).display());
    kinds.into_iter().zip(paths.iter().chain([&blob])).map(shown).collect()
}

/// The directories of a cgroup below the agent's root, in each hierarchy.
fn cgroup_directories(node: &Node, name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let roots = hierarchies.map(|path| path.join(&node.cgroup()[1..])).filter(|path| path.is_dir());
    roots.map(|root| root.join(name)).collect()
}

/// A process that calls itself a monitor.
fn impostor(node: &Node, pod: &str) -> Running {
    let fifo = node.dir().join(&pod[8..16]);
    run(Command::new("mkfifo").arg(&fifo));
    // Reads what nobody writes: a program with no more arguments than its title.
    let script = format!("exec -a 'berth-monitor: {pod}' cat <> {}", fifo.display());
    let running = spawn(node.site().command("bash").args(["-c", &script]), &node.dir().join("impostor.log"));
    let title = || fs::read(format!("/proc/{}/cmdline", running.pid())).unwrap_or_default();
    eventually("the impostor", Duration::from_secs(10), || {
        title().starts_with(b"berth-monitor").then_some(())
    });
    running
}

/// Copies rows of the database under other ids.
fn copy_rows(node: &Node, table: &str, from: &[&str], to: &[&str]) {
    let script = "import sqlite3, sys\n\
                  path, table, *ids = sys.argv[1:]\n\
                  half = len(ids) // 2\n\
                  database = sqlite3.connect(path)\n\
                  for key, version, body in database.execute(\n\
                  \x20       'select key, version, body from records where tab = ?', (table,)).fetchall():\n\
                  \x20   for old, new in zip(ids[:half], ids[half:]):\n\
                  \x20       key, body = key.replace(old, new), body.replace(old, new)\n\
                  \x20   database.execute('insert or ignore into records values (?, ?, ?, ?)', (table, key, version, body))\n\
                  database.commit()\n";
    let path = node.dir().join("root/berth.db");
    run(Command::new("python3").args(["-c", script]).arg(path).arg(table).args(from).args(to));
}

#[test]
#[ignore = "needs root and the test images"]
fn every_kind_of_leftover_is_named_and_taken_away_and_nothing_else_is_touched() {
    let node = Node::start();
    let pod = node.pod("stays");
    let container = pod.shell("main", "exec sleep 1000");
    assert_nothing_is_left(&node);
    let number = node.bridge().trim_start_matches("be2e").to_owned();
    let (site, bridge) = (node.site(), node.bridge());

    // What a pod that is gone could have left.
    let mut expected = make_directories(&node);
    let point = node.dir().join(format!("root/containers/{CONTAINER}/deeper"));
    let precious = node.dir().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "precious").unwrap();
    run(Command::new("mount").arg("--bind").arg(&precious).arg(&point));
    expected.insert(format!("mount {}", point.display()));
    for (link, id) in [(&POD[..12], Some(POD)), (&CONTAINER[..12], None)] {
        let name = format!("bth{link}");
        let peer = format!("p{}", &link[8..]);
        site.run("ip", &["link", "add", &name, "type", "veth", "peer", "name", &peer]);
        site.run("ip", &["link", "set", &name, "master", bridge]);
        if let Some(id) = id {
            site.run("ip", &["link", "set", &name, "alias", &format!("berth:{bridge}:pod:{id}")]);
        }
        expected.insert(format!("link {name}"));
    }
    let element = format!("{{ tcp . 7777 : 10.200.{number}.99 . 80 }}");
    site.run("nft", &["add", "element", "inet", &format!("be2e_{number}"), "ports4", &element]);
    expected.insert(format!("port 7777/tcp to 10.200.{number}.99:80"));
    site.run("ip", &["address", "add", "10.99.0.1/24", "dev", bridge]);
    expected.insert("route 10.99.0.0/24".to_owned());
    for directory in cgroup_directories(&node, POD) {
        fs::create_dir(&directory).unwrap();
    }
    expected.insert(format!("cgroup {}/{POD}", node.cgroup()));
    let mut inside = impostor(&node, POD);
    for directory in cgroup_directories(&node, POD) {
        let _ = fs::write(directory.join("cgroup.procs"), inside.pid().to_string());
    }
    expected.insert(format!("process berth-monitor: {POD} (pid {})", inside.pid()));
    copy_rows(&node, "sandboxes", &[&pod.id], &[ON_RECORD]);
    expected.insert(format!("row sandboxes/{ON_RECORD}"));
    copy_rows(&node, "containers", &[&container, &pod.id], &[CONTAINER, POD]);
    expected.insert(format!("row containers/{CONTAINER}"));

    // What is somebody else's.
    let mut outside = impostor(&node, ON_RECORD);
    site.run("ip", &["link", "add", "other0", "type", "veth", "peer", "name", "other1"]);
    site.run("ip", &["link", "set", "other0", "master", bridge]);
    site.run("nft", &["add", "table", "inet", "other"]);
    let strangers: Vec<PathBuf> =
        ["state/pods/notes", "root/containers/notes", "state/other.sock", "root/notes"]
            .map(|name| node.dir().join(name))
            .into();
    strangers.iter().for_each(|path| fs::create_dir(path).unwrap());
    let not_a_pod = cgroup_directories(&node, "notes");
    not_a_pod.iter().for_each(|directory| fs::create_dir(directory).unwrap());

    let (is_clean, found) = check(&node, &["--leaks"]);
    assert!(!is_clean);
    assert_eq!(names(&found, "left"), expected, "{found:#?}");

    let (is_clean, done) = check(&node, &["--repair"]);
    assert_eq!(names(&done, "left"), expected);
    assert!(is_clean, "{done:#?}");
    assert_nothing_is_left(&node);
    assert!(inside.wait(Duration::from_secs(5)).is_some());
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "precious");

    assert!(outside.ended().is_none());
    assert!(site.run("ip", &["-o", "link"]).contains("other0"));
    assert!(site.run("nft", &["list", "tables"]).contains("inet other"));
    assert!(strangers.iter().chain(&not_a_pod).all(|path| path.is_dir()));
    assert_eq!(pod.exec(&container, "echo fine"), "fine");
    assert_eq!(node.cri().sandboxes().len(), 1);

    site.run("ip", &["link", "delete", "other0"]);
    site.run("nft", &["delete", "table", "inet", "other"]);
    strangers.iter().chain(&not_a_pod).for_each(|path| fs::remove_dir(path).unwrap());
    drop(outside);
}

#[test]
#[ignore = "needs root and the test images"]
fn pods_that_come_and_go_are_no_leftovers_and_no_repair_harms_them() {
    let node = Node::start();
    let pod = node.pod("stays");
    let container = pod.shell("main", "exec sleep 1000");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for lane in 0..3 {
            let (node, is_over) = (&node, &is_over);
            scope.spawn(move || {
                for round in 0..8 {
                    let passing = node.pod(&format!("passing-{lane}-{round}"));
                    let id = passing.shell("main", "exec sleep 1000");
                    assert_eq!(passing.exec(&id, "echo fine"), "fine");
                    passing.take_down();
                }
                is_over.store(true, Ordering::Relaxed);
            });
        }
        let mut checks = 0;
        while !is_over.load(Ordering::Relaxed) || checks < 4 {
            let (is_clean, found) = check(&node, if checks % 2 == 0 { &["--leaks"] } else { &["--repair"] });
            assert!(is_clean && found.is_empty(), "{found:#?}");
            checks += 1;
        }
    });
    assert_eq!(pod.exec(&container, "echo fine"), "fine");
    assert_nothing_is_left(&node);
}

#[test]
#[ignore = "needs root and the test images"]
fn what_nobody_owns_goes_by_itself_while_pods_come_and_go() {
    let node = Node::start_with("[reconciliation]\nperiod_seconds = 5");
    let pod = node.pod("stays");
    let container = pod.shell("main", "exec sleep 1000");
    let (site, bridge) = (node.site(), node.bridge());
    // What is the operator's, and what only looks like ours.
    site.run("ip", &["address", "add", "10.99.0.1/24", "dev", bridge]);
    let strangers =
        ["state/pods/notes", "root/containers/notes", "root/notes"].map(|name| node.dir().join(name));
    strangers.iter().for_each(|path| fs::create_dir(path).unwrap());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for lane in 0..2 {
            let (node, is_over) = (&node, &is_over);
            scope.spawn(move || {
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let passing = node.pod(&format!("passing-{lane}-{round}"));
                    let id = passing.shell("main", "exec sleep 1000");
                    assert_eq!(passing.exec(&id, "echo fine"), "fine");
                    passing.take_down();
                }
            });
        }
        // The lanes end also when this fails.
        let ended = Ended(&is_over);
        for _ in 0..2 {
            make_directories(&node);
            let link = format!("bth{}", &POD[..12]);
            site.run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "peer"]);
            site.run("ip", &["link", "set", &link, "master", bridge]);
            let cgroups = cgroup_directories(&node, POD);
            cgroups.iter().for_each(|directory| fs::create_dir(directory).unwrap());
            copy_rows(&node, "sandboxes", &[&pod.id], &[ON_RECORD]);
            let precious = node.dir().join("precious");
            fs::create_dir_all(&precious).unwrap();
            fs::write(precious.join("file"), "precious").unwrap();
            let point = node.dir().join(format!("root/containers/{CONTAINER}/deeper"));
            run(Command::new("mount").arg("--bind").arg(&precious).arg(&point));
            eventually("what was left to go by itself", Duration::from_secs(60), || {
                let left = names(&check(&node, &["--leaks"]).1, "left");
                (left == ["route 10.99.0.0/24".to_owned()].into()).then_some(())
            });
            assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "precious");
            assert!(cgroups.iter().all(|directory| !directory.exists()));
        }
        drop(ended);
    });
    assert!(node.journal().contains("node tidied"));
    assert!(strangers.iter().all(|path| path.is_dir()));
    strangers.iter().for_each(|path| fs::remove_dir(path).unwrap());
    site.run("ip", &["address", "del", "10.99.0.1/24", "dev", bridge]);
    assert_eq!(pod.exec(&container, "echo fine"), "fine");
    assert_nothing_is_left(&node);
}

/// Says so when it goes.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn without_an_agent_the_same_is_found_and_pods_run_on() {
    let node = Node::start();
    let pod = node.pod("stays");
    let container = pod.shell("main", "exec sleep 1000");
    node.kill9();
    assert_nothing_is_left(&node);
    let expected = make_directories(&node);
    assert_eq!(names(&check(&node, &["--leaks"]).1, "left"), expected);
    let (is_clean, done) = check(&node, &["--repair"]);
    assert!(is_clean, "{done:#?}");
    assert_nothing_is_left(&node);

    // Somebody who asks about the wrong directory must not take everything for left.
    let elsewhere = node.dir().join("elsewhere");
    let wrong = ["check", "--repair", "--root", elsewhere.to_str().unwrap()];
    let refused = node.berth(&wrong).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("no database in"), "{said}");
    assert!(!Path::new(&elsewhere).exists());

    node.restart();
    assert_eq!(pod.exec(&container, "echo fine"), "fine");
}

#[test]
#[ignore = "needs root and the test images"]
fn what_a_record_says_and_is_not_there_is_missing() {
    let node = Node::start();
    let pod = node.pod("loses-its-link");
    let link = format!("bth{}", &pod.id[..12]);
    node.site().run("ip", &["link", "delete", &link]);
    let (is_clean, found) = check(&node, &["--leaks"]);
    assert!(!is_clean);
    assert_eq!(names(&found, "missing"), [format!("link {link}")].into());
    assert_eq!(found[0]["owner"], format!("pod {}", pod.id));
    pod.take_down();
    assert_nothing_is_left(&node);
}
