//! What `berth explain` says of things that no misbehaviour of pods brings about; the others are in the chaos tests.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_cri_proto::v1::{ImageSpec, PodSandboxState, PullImageRequest};
use berth_e2e::requests::{self, BUSYBOX};
use berth_e2e::{Node, eventually, repository, run};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1/nothing:1";

fn explain(node: &Node, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = node.berth(&[&["explain"], args].concat()).output().unwrap();
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

/// Changes the database past the agent.
fn change(database: &Path, statement: &str) {
    let script = "import sqlite3, sys\n\
                  sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])\n";
    run(Command::new("python3").args(["-c", script]).arg(database).arg(statement));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_node_is_well_until_a_pull_fails_or_a_record_is_not_understood() {
    let node = Node::start();
    let pod = node.pod("web");
    let id = pod.shell("app", "exec sleep 1000");
    assert_eq!(explain(&node, &[]), (Some(0), "all well\n".to_owned()));
    for subject in ["web", "e2e/web", &pod.id[..10], &id[..10]] {
        let (code, text) = explain(&node, &[subject]);
        assert!(text.starts_with(&format!("pod e2e/web {}: ready for ", &pod.id[..13])), "{text}");
        assert!(text.contains(&format!("container app {}: running for ", &id[..13])), "{text}");
        assert_eq!(code, Some(0), "{text}");
    }
    let (code, text) = explain(&node, &["nobody"]);
    assert_eq!((code, text.as_str()), (Some(1), "berth: explain: no pod sandbox \"nobody\"\n"));

    let image = Some(ImageSpec { image: NOWHERE.into(), ..Default::default() });
    node.cri().pull_image(PullImageRequest { image, ..Default::default() }).unwrap_err();
    let (code, text) = explain(&node, &[]);
    assert!(text.contains("! pull: 127.0.0.1:1/nothing:1 failed once, the last time "), "{text}");
    assert_eq!(code, Some(1), "{text}");
    let (code, text) = explain(&node, &["web"]);
    assert!(text.contains("! pull: "), "{text}");
    assert_eq!(code, Some(0), "the pull is not this pod's: {text}");

    let database = node.dir().join("root/berth.db");
    change(&database, "insert into records values ('sandboxes', 'nonsense', 1, 'nonsense')");
    let (_, text) = explain(&node, &[]);
    assert!(text.contains("! record: not understood: sandboxes/nonsense"), "{text}");
    change(&database, "delete from records where key = 'nonsense'");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_failed_pull_is_forgotten_once_its_image_is_imported_or_used() {
    let node = Node::start();
    let pod = node.pod("web");
    // Nobody serves it there.
    let fail = || {
        let image = Some(ImageSpec { image: BUSYBOX.into(), ..Default::default() });
        node.cri().pull_image(PullImageRequest { image, ..Default::default() }).unwrap_err();
        let (code, text) = explain(&node, &[]);
        assert!(text.contains(&format!("! pull: {BUSYBOX} failed once")), "{text}");
        assert_eq!(code, Some(1), "{text}");
    };
    fail();
    run(node.berth(&["image", "import"]).arg(repository().join("hack/images/out/busybox")));
    assert_eq!(explain(&node, &[]), (Some(0), "all well\n".to_owned()));
    fail();
    pod.shell("app", "exec sleep 1000");
    assert_eq!(explain(&node, &[]), (Some(0), "all well\n".to_owned()));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_is_told_with_its_pod_its_attempt_and_how_often_it_was_made_anew() {
    let node = Node::start();
    let pod = node.pod("web");
    let attempt = |attempt, script: &str| {
        let mut config = requests::shell("crash", script);
        config.metadata.as_mut().unwrap().attempt = attempt;
        pod.start(config)
    };
    for number in 0..4 {
        let id = attempt(number, "exit 3");
        pod.end_of(&id);
        if number < 3 {
            let (code, text) = explain(&node, &[]);
            let shown = if number == 0 { String::new() } else { format!("attempt {number} ") };
            let headline = format!("container e2e/web/crash {shown}{}: exited for ", &id[..13]);
            assert!(text.starts_with(&headline), "{text}");
            assert_eq!(text.matches("it ended with exit code 3").count(), 1, "{text}");
            assert_eq!(code, Some(1), "{text}");
        }
    }
    attempt(4, "exec sleep 1000");
    let (code, text) = explain(&node, &[]);
    assert!(text.contains("! restarts: it was made anew 4 times, the last time "), "{text}");
    assert!(text.contains("the one before: Error: it ended with exit code 3"), "{text}");
    assert_eq!(code, Some(1), "{text}");
    let (_, text) = explain(&node, &["web"]);
    let places: Vec<_> = (1..5).map(|number| text.find(&format!("crash attempt {number} "))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_that_lost_its_monitor_and_an_agent_that_is_stopped_are_told_as_such() {
    let node = Node::start();
    let pod = node.pod("web");
    pod.shell("app", "exec sleep 1000");
    let monitor = pod.monitor_pid();
    kill_process(Pid::from_raw(i32::try_from(monitor).unwrap()).unwrap(), Signal::KILL).unwrap();
    eventually("the pod's end", PATIENCE, || {
        let status = node.cri().sandbox(&pod.id).unwrap();
        (status.state() == PodSandboxState::SandboxNotready).then_some(())
    });
    let (code, text) = explain(&node, &["web"]);
    let loss = "! sandbox: its monitor has died, or was killed";
    assert!(text.contains(loss) && text.contains("! exit: Unknown: nobody saw it end"), "{text}");
    assert_eq!(code, Some(1), "{text}");
    pod.take_down();

    // At the same time, since each of them waits as long.
    let asked: [&[&str]; 6] = [
        &["explain"],
        &["check"],
        &["check", "--leaks"],
        &["check", "--repair"],
        &["ns"],
        &["image", "list"],
    ];
    let piped = |args: &&[&str]| {
        node.berth(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    node.signal(Signal::STOP);
    let begun = Instant::now();
    let asking = asked.each_ref().map(piped);
    let told = asking.map(|child| child.wait_with_output().unwrap());
    node.signal(Signal::CONT);
    assert!(begun.elapsed() < 3 * PATIENCE, "{:?}", begun.elapsed());
    for (args, Output { status, stdout, stderr }) in asked.iter().zip(told) {
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        let expected =
            format!("has not answered within 15 s: see whether process {} is stopped", node.agent_pid());
        assert!(text.contains(&expected), "{args:?}: {text}");
        assert_eq!(status.code(), Some(1), "{args:?}: {text}");
    }
    let checked = node.berth(&["check"]).output().unwrap();
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(text.lines().any(|line| line.starts_with("ok    socket         berth ")), "{text}");
    assert_eq!(explain(&node, &[]), (Some(0), "all well\n".to_owned()));
}
