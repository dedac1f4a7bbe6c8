//! The floor on the real kernel: that it makes what it says, and leaves nothing, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

#[test]
#[ignore = "needs root: makes namespaces, mounts and cgroups"]
fn each_step_is_told_for_each_pod_and_nothing_is_left() {
    let (floor, output) = run(&["--pods", "3", "--json", "-"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let (calls, steps) = (rows["calls"].as_array().unwrap(), rows["steps"].as_array().unwrap());
    assert!(steps.iter().any(|row| row["what"] == "change the root"), "{rows}");
    for row in calls.iter().chain(steps) {
        let values = row["results"]["floor"]["values"].as_array().unwrap();
        assert!(values.len() == 3 && values.iter().all(|value| value.as_f64().unwrap() > 0.0), "{row}");
    }
    assert_eq!(leftovers(floor), Vec::<PathBuf>::new());
}

#[test]
#[ignore = "needs root: makes namespaces, mounts and cgroups"]
fn a_failed_step_is_told_and_nothing_is_left() {
    let image = tempfile::tempdir().unwrap();
    make_image_that_can_t_be_executed(image.path());
    let image = image.path().to_str().unwrap();
    for (image, expected) in [(image, "container: execute the program"), ("/none", "read /none/index.json")] {
        let (floor, output) = run(&["--image", image]);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
        assert_eq!(leftovers(floor), Vec::<PathBuf>::new(), "{image}");
    }
}

#[test]
#[ignore = "needs root: makes namespaces, mounts and cgroups"]
fn a_floor_that_is_ended_midway_leaves_nothing() {
    let itself: fn(&Child) -> u32 = Child::id;
    for (whom, signal) in [(itself, Signal::TERM), (worker_of, Signal::KILL), (worker_of, Signal::INT)] {
        let child = start(&["--pods", "1000000"]);
        let floor = child.id();
        await_pods(floor);
        let target = Pid::from_raw(i32::try_from(whom(&child)).unwrap()).unwrap();
        kill_process(target, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{signal:?}");
        assert_eq!(leftovers(floor), Vec::<PathBuf>::new(), "{signal:?}: {}", text(&output.stderr));
    }
}

/// A layout whose one layer has a text where the program should be.
fn make_image_that_can_t_be_executed(layout: &Path) {
    let (blobs, root) = (layout.join("blobs/sha256"), layout.join("root"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/busybox"), "no program").unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(blobs.join("layer")).arg("-C").arg(&root).arg("bin");
    assert!(tar.status().unwrap().success());
    fs::write(blobs.join("manifest"), r#"{"layers": [{"digest": "sha256:layer"}]}"#).unwrap();
    fs::write(layout.join("index.json"), r#"{"manifests": [{"digest": "sha256:manifest"}]}"#).unwrap();
}

fn start(args: &[&str]) -> Child {
    let mut floor = Command::new(env!("CARGO_BIN_EXE_berth-bench"));
    floor.arg("floor").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    floor.spawn().unwrap()
}

fn run(args: &[&str]) -> (u32, Output) {
    let child = start(args);
    (child.id(), child.wait_with_output().unwrap())
}

/// Waits until pods come and go.
fn await_pods(floor: u32) {
    let begun = Instant::now();
    while !cgroups(floor).iter().any(|cgroup| cgroup.join("container").exists()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no pod has come");
        std::thread::yield_now();
    }
}

/// The process in whose namespaces the pods are made.
fn worker_of(floor: &Child) -> u32 {
    let id = floor.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

/// What there is under a floor's name, once it has ended.
fn leftovers(floor: u32) -> Vec<PathBuf> {
    let directory = Path::new("/tmp").join(name(floor));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let is_of_floor = |line: &&str| line.contains(&name(floor));
    let mounted = mounts.lines().filter(is_of_floor).map(PathBuf::from);
    let made = cgroups(floor).into_iter().chain([directory]).filter(|path| path.exists());
    made.chain(mounted).collect()
}

/// Where its cgroups are, or would be.
fn cgroups(floor: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let hierarchies = fields.filter(|fields| fields[2].starts_with("cgroup"));
    hierarchies.map(|fields| Path::new(fields[1]).join(name(floor))).collect()
}

fn name(floor: u32) -> String {
    format!("berth-floor-{floor}")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
