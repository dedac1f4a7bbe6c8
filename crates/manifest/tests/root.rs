//! What the runner does on the host as root: mounts, owners. Each test runs again in a mount namespace of its own, in a
//! child process, and looks at the result with findmnt and stat.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the other test binary uses the rest")]
mod fake;

use std::{env, fs, path::Path, process::Command};

use berth_manifest::{Dirs, Mode, Options, Outcome, Output, Runner, load};
use fake::Fake;
use tokio_util::sync::CancellationToken;

const INSIDE: &str = "BERTH_TEST_IN_NAMESPACE";

/// Runs the test `name` in a fresh mount namespace; false when this process is already there.
fn in_namespace(name: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return false;
    }
    let mut child = Command::new("unshare");
    child.arg("--mount").arg(env::current_exe().unwrap()).args(["--ignored", "--exact", name]);
    assert!(child.env(INSIDE, "1").status().unwrap().success());
    true
}

fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
#[ignore = "needs root: mounts a tmpfs"]
async fn a_volume_in_memory_is_a_tmpfs_that_goes_with_the_pod() {
    if in_namespace("a_volume_in_memory_is_a_tmpfs_that_goes_with_the_pod") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let yaml = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {
        securityContext: {fsGroup: 4321},
        volumes: [{name: fast, emptyDir: {medium: Memory, sizeLimit: 1Mi}}],
        containers: [{name: c, image: 'i:1', command: [serve],
                      volumeMounts: [{name: fast, mountPath: /fast, subPath: deep/er}]}]}}";
    fs::write(at("pod.yaml"), yaml).unwrap();
    let fake = Fake::default();
    fake.serve(&at("cri.sock"));
    let channel = berth_cri_proto::connect(at("cri.sock")).await.unwrap();
    let runner = Runner::new(channel, Dirs { pods: at("pods"), logs: at("logs") });
    let options = Options {
        mode: Mode::Follow,
        output: Output::plain(std::io::sink()),
        runtime_handler: String::new(),
        hurry: CancellationToken::new(),
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (stop, pods) = (stop.clone(), load(at("pod.yaml")).unwrap());
        async move { runner.run(pods, options, stop).await }
    });
    while !fake.calls().contains(&"start p/c.0".to_owned()) {
        assert!(!running.is_finished());
        tokio::task::yield_now().await;
    }

    let pod = fs::read_dir(at("pods")).unwrap().next().unwrap().unwrap().path();
    let volume = pod.join("volumes/fast").display().to_string();
    let found = output_of("findmnt", &["--noheadings", "--raw", "--output", "FSTYPE,SIZE", &volume]);
    assert_eq!(found, "tmpfs 1M");
    for path in [&volume, &format!("{volume}/deep/er")] {
        assert_eq!(output_of("stat", &["--format", "%a %g", path]), "2777 4321", "{path}");
    }

    stop.cancel();
    assert!(matches!(running.await.unwrap(), Ok(Outcome::Stopped)));
    assert!(!Path::new(&pod).exists());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&volume), "{mounts}");
}
