//! The runner against a runtime that only notes what it is asked: the order of things, ends, stops and leftovers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::{
    fs,
    io::{self, Read},
};

use berth_manifest::{Dirs, Mode, Options, Outcome, Output, RunError, Runner, load};
use fake::Fake;
use tokio_util::sync::CancellationToken;

/// What a run did.
struct Seen {
    result: Result<Outcome, RunError>,
    calls: Vec<String>,
    lines: Vec<String>,
    /// Whether neither the runtime nor the runner's directories have anything left.
    clean: bool,
}

/// [`run_all`] with one pod, named p.
async fn run(fake: Fake, spec: &str, mode: Mode, stops: &[&str]) -> Seen {
    run_all(fake, &[("p", spec)], mode, stops).await
}

/// Runs pods with these names and specs; stops once the runtime has been asked the first of `stops`, and hurries once
/// it has been asked the second.
async fn run_all(fake: Fake, specs: &[(&str, &str)], mode: Mode, stops: &[&str]) -> Seen {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fake.serve(&at("cri.sock"));
    let pods = specs.iter().map(|(name, spec)| {
        format!("---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {spec}}}\n")
    });
    fs::write(at("pod.yaml"), pods.collect::<String>()).unwrap();
    let (mut printed, output) = io::pipe().unwrap();
    let channel = berth_cri_proto::connect(at("cri.sock")).await.unwrap();
    let runner = Runner::new(channel, Dirs { pods: at("pods"), logs: at("logs") });
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let options =
        Options { mode, output: Output::plain(output), runtime_handler: String::new(), hurry: hurry.clone() };
    let running = tokio::spawn({
        let (stop, pods) = (stop.clone(), load(at("pod.yaml")).unwrap());
        async move { runner.run(pods, options, stop).await }
    });
    for (call, token) in stops.iter().zip([stop, hurry]) {
        while !fake.calls().iter().any(|noted| noted == call) {
            tokio::task::yield_now().await;
        }
        token.cancel();
    }
    let result = running.await.unwrap();
    let mut text = String::new();
    printed.read_to_string(&mut text).unwrap();
    let nothing_in = |name: &str| fs::read_dir(at(name)).map_or(0, Iterator::count) == 0;
    Seen {
        result,
        clean: fake.is_empty() && nothing_in("pods") && nothing_in("logs"),
        calls: fake.calls(),
        lines: text.lines().map(str::to_owned).collect(),
    }
}

fn container(name: &str, command: &str, rest: &str) -> String {
    format!("{{name: {name}, image: 'i:1', command: [{command}]{rest}}}")
}

#[tokio::test]
async fn init_containers_run_in_turn_and_a_sidecar_is_stopped_last() {
    let spec = format!(
        "{{restartPolicy: Never, terminationGracePeriodSeconds: 7, initContainers: [{}, {}, {}], containers: [{}, {}]}}",
        container("first", "exit, '0'", ""),
        container("side", "serve", ", restartPolicy: Always"),
        container("second", "exit, '0'", ""),
        container("main", "exit, '0'", ""),
        container("other", "exit, '3'", ""),
    );
    let seen = run(Fake::default(), &spec, Mode::Follow, &[]).await;
    assert!(matches!(seen.result, Ok(Outcome::Finished { exit_code: 3 })), "{:?}", seen.result);
    let calls = [
        "run p",
        "start p/first.0",
        "start p/side.0",
        "start p/second.0",
        "start p/main.0",
        "start p/other.0",
        "stop p/side.0 7",
        "stopp p",
        "rmp p",
    ];
    assert_eq!(seen.calls, calls);
    let mut lines = seen.lines;
    lines.sort();
    assert_eq!(
        lines,
        ["first", "main", "other", "second", "side"].map(|name| format!("{name:6} | attempt 0"))
    );
    assert!(seen.clean);
}

#[tokio::test]
async fn a_failed_init_container_ends_the_pod() {
    let spec = format!(
        "{{restartPolicy: Never, initContainers: [{}], containers: [{}]}}",
        container("first", "exit, '4'", ""),
        container("main", "serve", ""),
    );
    let seen = run(Fake::default(), &spec, Mode::Follow, &[]).await;
    assert!(matches!(seen.result, Ok(Outcome::Finished { exit_code: 4 })), "{:?}", seen.result);
    assert_eq!(seen.calls, ["run p", "start p/first.0", "stopp p", "rmp p"]);
    assert!(seen.clean);
}

#[tokio::test(start_paused = true)]
async fn a_container_is_restarted_until_its_policy_is_content() {
    let main = container("main", "flaky, '3'", "");
    let spec = format!("{{restartPolicy: OnFailure, containers: [{main}]}}");
    let began = tokio::time::Instant::now();
    let seen = run(Fake::default(), &spec, Mode::Follow, &[]).await;
    assert!(matches!(seen.result, Ok(Outcome::Finished { exit_code: 0 })), "{:?}", seen.result);
    let starts: Vec<_> = seen.calls.iter().filter(|call| call.starts_with("start")).collect();
    assert_eq!(starts, ["start p/main.0", "start p/main.1", "start p/main.2", "start p/main.3"]);
    assert_eq!(seen.lines, (0..4).map(|attempt| format!("main | attempt {attempt}")).collect::<Vec<_>>());
    assert!(began.elapsed().as_secs() >= 30, "no back-off: {:?}", began.elapsed());
    assert!(seen.clean);
}

#[tokio::test]
async fn a_stop_request_stops_every_container_and_removes_the_pod() {
    let spec = format!("{{containers: [{}, {}]}}", container("a", "serve", ""), container("b", "serve", ""));
    let seen = run(Fake::default(), &spec, Mode::Follow, &["start p/b.0"]).await;
    assert!(matches!(seen.result, Ok(Outcome::Stopped)), "{:?}", seen.result);
    let mut stops: Vec<_> = seen.calls.iter().filter(|call| call.starts_with("stop ")).collect();
    stops.sort();
    assert_eq!(stops, ["stop p/a.0 30", "stop p/b.0 30"]);
    assert_eq!(seen.lines.len(), 2);
    assert!(seen.clean);
}

#[tokio::test]
async fn a_hurry_takes_the_grace_from_a_stop_under_way() {
    let side = container("side", "stubborn", ", restartPolicy: Always");
    let spec = format!("{{initContainers: [{side}], containers: [{}]}}", container("main", "stubborn", ""));
    let seen = run(Fake::default(), &spec, Mode::Follow, &["start p/main.0", "stop p/main.0 30"]).await;
    assert!(matches!(seen.result, Ok(Outcome::Stopped)), "{:?}", seen.result);
    let ends: Vec<_> = seen.calls.iter().skip_while(|call| !call.starts_with("stop ")).collect();
    assert_eq!(ends, ["stop p/main.0 30", "stop p/main.0 0", "stop p/side.0 0", "stopp p", "rmp p"]);
    assert!(seen.clean);
}

#[tokio::test]
async fn a_container_that_cannot_start_takes_the_pod_down() {
    let spec = format!("{{containers: [{}, {}]}}", container("a", "serve", ""), container("b", "broken", ""));
    let seen = run(Fake::default(), &spec, Mode::Follow, &[]).await;
    let error = seen.result.unwrap_err();
    assert_eq!(error.to_string(), "StartContainer of b");
    assert_eq!(seen.calls, ["run p", "start p/a.0", "start p/b.0", "stop p/a.0 30", "stopp p", "rmp p"]);
    assert!(seen.clean);
}

#[tokio::test]
async fn a_runtime_without_events_is_refused() {
    let spec = format!("{{containers: [{}]}}", container("a", "serve", ""));
    let seen = run(Fake::without_events(), &spec, Mode::Follow, &[]).await;
    assert!(matches!(seen.result, Err(RunError::Events { .. })), "{:?}", seen.result);
    assert!(seen.clean);
}

#[tokio::test]
async fn a_detached_pod_stays() {
    let spec = format!("{{containers: [{}]}}", container("a", "serve", ""));
    let seen = run(Fake::default(), &spec, Mode::Detach, &[]).await;
    assert_eq!(seen.result.unwrap(), Outcome::Detached { pod_ids: vec!["p".into()] });
    assert_eq!(seen.calls, ["run p", "start p/a.0"]);
    assert!(!seen.clean && seen.lines.is_empty());
}

#[tokio::test]
async fn detached_pods_stay_together_or_not_at_all() {
    let with_init = |command: &str| {
        let (init, main) = (container("first", command, ""), container("a", "serve", ""));
        format!("{{restartPolicy: Never, initContainers: [{init}], containers: [{main}]}}")
    };
    let (up, fails) = (with_init("exit, '0'"), with_init("broken"));
    let (ends, hangs) = (with_init("exit, '4'"), with_init("serve"));
    let seen = run_all(Fake::default(), &[("p", &up), ("q", &up)], Mode::Detach, &[]).await;
    assert_eq!(seen.result.unwrap(), Outcome::Detached { pod_ids: vec!["p".into(), "q".into()] });

    let seen = run_all(Fake::default(), &[("p", &up), ("q", &fails)], Mode::Detach, &[]).await;
    assert_eq!(seen.result.unwrap_err().to_string(), "StartContainer of first");
    assert!(seen.clean, "{:?}", seen.calls);

    let seen = run_all(Fake::default(), &[("p", &up), ("q", &ends)], Mode::Detach, &[]).await;
    assert_eq!(seen.result.unwrap(), Outcome::Finished { exit_code: 4 });
    assert!(seen.clean, "{:?}", seen.calls);

    let seen = run_all(Fake::default(), &[("p", &up), ("q", &hangs)], Mode::Detach, &["start p/a.0"]).await;
    assert_eq!(seen.result.unwrap(), Outcome::Stopped);
    assert!(seen.clean && seen.calls.contains(&"stop p/a.0 30".to_owned()), "{:?}", seen.calls);
}

#[tokio::test]
async fn images_are_pulled_only_when_the_policy_says_so() {
    for (image, policy, pulled) in [
        ("here:1", "", false),
        ("here", "", true),
        ("absent:1", "", true),
        ("absent:1", ", imagePullPolicy: IfNotPresent", true),
        ("here:latest", ", imagePullPolicy: Never", false),
    ] {
        let spec = format!(
            "{{restartPolicy: Never, containers: [{{name: a, image: '{image}', command: [exit, '0']{policy}}}]}}"
        );
        let seen = run(Fake::default(), &spec, Mode::Follow, &[]).await;
        assert!(matches!(seen.result, Ok(Outcome::Finished { exit_code: 0 })), "{image} {:?}", seen.result);
        assert_eq!(seen.calls.contains(&format!("pull {image}")), pulled, "{image} {policy}");
    }
    let never = "{containers: [{name: a, image: absent, imagePullPolicy: Never}]}";
    let seen = run(Fake::default(), never, Mode::Follow, &[]).await;
    assert!(matches!(seen.result, Err(RunError::ImageAbsent { .. })), "{:?}", seen.result);
    assert!(seen.clean);
}
