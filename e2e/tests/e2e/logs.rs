//! What a container writes, and reads: the log's format, its rotation, terminals and standard input.

use std::fs;
use std::time::Duration;

use berth_cri_proto::v1::{ContainerState, ReopenContainerLogRequest};
use berth_e2e::requests::shell;
use berth_e2e::{Line, Node, eventually, read_log};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root and the test images"]
fn records_have_time_stream_tag_and_text() {
    let node = Node::start();
    let pod = node.pod("format");
    let script = "echo first; echo second >&2; echo; printf 'a\\tb\\r\\n'; head -c 20000 /dev/zero | tr '\\0' x; echo; printf rest";
    let id = pod.shell("main", script);
    pod.end_of(&id);
    let lines = read_log(&pod.log_path("main"));
    for line in &lines {
        check_time(&line.time);
    }
    let of = |stream: &str| -> Vec<(&str, &str)> {
        let own = lines.iter().filter(|line| line.stream == stream);
        own.map(|Line { tag, text, .. }| (tag.as_str(), text.as_str())).collect()
    };
    let (piece, remainder) = ("x".repeat(16384), "x".repeat(20000 - 16384));
    let expected =
        [("F", "first"), ("F", ""), ("F", "a\tb\r"), ("P", &*piece), ("F", &*remainder), ("P", "rest")];
    assert_eq!(of("stdout"), expected);
    assert_eq!(of("stderr"), [("F", "second")]);
    assert_eq!(lines.len(), 7);
}

/// `2026-11-22T16:50:26.000000001Z`, or with an offset.
fn check_time(time: &str) {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999999999Z");
}

#[test]
#[ignore = "needs root and the test images"]
fn rotation_loses_no_line() {
    const ROTATIONS: usize = 30;
    let node = Node::start();
    let pod = node.pod("rotate");
    let reopen =
        |id: &str| node.cri().reopen_container_log(ReopenContainerLogRequest { container_id: id.into() });
    let path = pod.log_path("count");
    let id = pod.shell(
        "count",
        "i=1; while [ ! -e /tmp/enough ]; do echo $i; i=$((i+1)); done; echo end; exec sleep 1000",
    );
    let rotated = |number: usize| path.with_extension(format!("log.{number}"));
    for number in 0..ROTATIONS {
        eventually("a line", PATIENCE, || (fs::metadata(&path).ok()?.len() > 0).then_some(()));
        fs::rename(&path, rotated(number)).unwrap();
        reopen(&id).unwrap();
        assert!(path.exists());
    }
    let counted = || {
        let files = (0..ROTATIONS).map(rotated).chain([path.clone()]);
        files.flat_map(|path| read_log(&path)).map(|line| line.text).collect::<Vec<_>>()
    };
    pod.exec(&id, "mkdir -p /tmp && touch /tmp/enough");
    eventually("the last line", PATIENCE, || (counted().last()? == "end").then_some(()));
    let lines = counted();
    let numbers = (1..lines.len()).map(|number| number.to_string());
    assert_eq!(lines, numbers.chain(["end".to_owned()]).collect::<Vec<_>>());

    pod.stop(&id, 0);
    fs::remove_file(&path).unwrap();
    let refused = reopen(&id).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(!path.exists(), "no log is made for who does not run");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_terminal_is_one_stream() {
    let node = Node::start();
    let pod = node.pod("terminal");
    let mut config =
        shell("main", "tty; echo out; echo error >&2; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && exit 6");
    config.tty = true;
    let id = pod.start(config);
    assert_eq!(pod.end_of(&id).exit_code, 6);
    let lines = read_log(&pod.log_path("main"));
    assert!(lines.iter().all(|line| line.stream == "stdout"), "{lines:?}");
    let text: Vec<_> = lines.iter().map(|line| line.text.trim_end()).collect();
    assert!(text[0] == "/dev/pts/0" || text[0] == "/dev/console", "{text:?}");
    assert_eq!(text[1..], ["out", "error"]);
}

#[test]
#[ignore = "needs root and the test images"]
fn standard_input_is_empty_or_stays_open_as_asked() {
    let node = Node::start();
    let pod = node.pod("input");
    let closed = pod.shell("closed", "cat; exit 8");
    assert_eq!(pod.end_of(&closed).exit_code, 8);
    let mut config = shell("open", "echo waiting; cat; exit 8");
    config.stdin = true;
    let open = pod.start(config);
    pod.await_line("open", "waiting");
    assert_eq!(pod.status(&open).state(), ContainerState::ContainerRunning);
    pod.stop(&open, 0);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_without_a_log_runs_all_the_same() {
    let node = Node::start();
    let pod = node.pod("silent");
    let mut config = shell("main", "echo nobody reads this; exit 2");
    config.log_path = String::new();
    let id = pod.start(config);
    assert_eq!(pod.end_of(&id).exit_code, 2);
    assert!(!pod.log_path("main").exists());
}
