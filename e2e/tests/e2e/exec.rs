//! Commands in running containers.

use std::thread;
use std::time::{Duration, Instant};

use berth_e2e::Node;
use berth_e2e::requests::shell;
use tonic::Code;

#[test]
#[ignore = "needs root and the test images"]
fn exec_gives_output_and_exit_code() {
    let node = Node::start();
    let pod = node.pod("exec");
    let id = pod.shell("main", "export SECRET=1; exec sleep 1000");
    let reply = pod.try_exec(&id, &["sh", "-c", "echo out; echo err >&2; pwd; exit 9"], 10).unwrap();
    assert_eq!((reply.stdout, reply.stderr, reply.exit_code), (b"out\n/\n".to_vec(), b"err\n".to_vec(), 9));
    let reply = pod.try_exec(&id, &["sh", "-c", "kill -9 $$"], 10).unwrap();
    assert_eq!(reply.exit_code, 137);
    let big = pod.try_exec(&id, &["head", "-c", "3000000", "/dev/zero"], 30).unwrap();
    assert_eq!(big.stdout.len(), 3_000_000);

    let refused = pod.try_exec(&id, &["no-such-program"], 10);
    let text = format!("{refused:?}");
    assert!(text.contains("no-such-program"), "{text}");
    let ended = pod.shell("ended", "true");
    pod.end_of(&ended);
    assert_eq!(pod.try_exec(&ended, &["true"], 10).unwrap_err().code(), Code::FailedPrecondition);
    let created = pod.create(shell("created", "true"));
    assert_eq!(pod.try_exec(&created, &["true"], 10).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(pod.try_exec("0123456789abcdef", &["true"], 10).unwrap_err().code(), Code::NotFound);
}

#[test]
#[ignore = "needs root and the test images"]
fn an_exec_that_times_out_is_killed_whole_and_nothing_else() {
    let node = Node::start();
    let pod = node.pod("timeout");
    let id = pod.shell("main", "sleep 4001 & exec sleep 4002");
    let took = time(|| {
        let script = "trap '' TERM; sleep 4003 & setsid sleep 4004 & sleep 4005";
        let refused = pod.try_exec(&id, &["sh", "-c", script], 1).unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    });
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{took:?}");
    let running = pod.exec(&id, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    for survivor in ["sleep 4001", "sleep 4002"] {
        assert!(running.contains(survivor), "{running}");
    }
    for gone in ["sleep 4003", "sleep 4004", "sleep 4005"] {
        assert!(!running.contains(gone), "{running}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn an_exec_returns_although_its_daemon_keeps_the_pipe() {
    let node = Node::start();
    let pod = node.pod("daemon");
    let id = pod.shell("main", "exec sleep 1000");
    let took = time(|| {
        let reply = pod.try_exec(&id, &["sh", "-c", "sleep 1234 & echo started"], 30).unwrap();
        assert_eq!((reply.stdout, reply.exit_code), (b"started\n".to_vec(), 0));
    });
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
#[ignore = "needs root and the test images"]
fn no_output_is_lost_when_many_run_at_once() {
    let node = Node::start();
    let pod = node.pod("many");
    let id = pod.shell("main", "exec sleep 1000");
    thread::scope(|scope| {
        for lane in 0..10 {
            let (pod, id) = (&pod, &id);
            scope.spawn(move || {
                for number in 0..20 {
                    let word = format!("word {lane} {number}");
                    assert_eq!(pod.exec(id, &format!("echo {word}")), word);
                }
            });
        }
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_stops_while_commands_run_in_it() {
    let node = Node::start();
    let pod = node.pod("busy");
    let id = pod.shell("main", "echo ready; exec sleep 1000");
    thread::scope(|scope| {
        let command =
            scope.spawn(|| pod.try_exec(&id, &["sh", "-c", "echo begun >/proc/1/fd/1; sleep 1000"], 60));
        pod.await_line("main", "begun");
        let took = time(|| pod.stop(&id, 0));
        assert!(took < Duration::from_secs(5), "{took:?}");
        let end = command.join().unwrap();
        assert!(end.as_ref().map_or(true, |reply| reply.exit_code == 137), "{end:?}");
    });
    assert_eq!(pod.status(&id).exit_code, 137);
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}
