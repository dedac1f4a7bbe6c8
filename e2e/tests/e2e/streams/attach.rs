//! Attach: clients that see what a running container says, and write to it.

use super::*;

/// For containers that tell clients when they are attached, all the time.
const TICK: &str = "(while :; do echo tick; usleep 20000; done) &";

/// Waits until a client is attached to a container that ticks.
fn attached(client: &Running) {
    eventually("a client to be attached", PATIENCE, || client.output().contains("tick").then_some(()));
}

/// What came besides the ticks.
fn words(seen: &str) -> Vec<&str> {
    seen.lines().filter(|line| *line != "tick").collect()
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn attached_clients_see_what_comes_and_can_write() {
    let node = Node::start();
    let pod = node.pod("attach");
    for transport in TRANSPORTS {
        let name = format!("main-{transport}");
        let script = "echo before; {TICK} while read line; do echo \"got $line\"; echo \"and $line\" >&2; \
            [ \"$line\" = last ] && exit 4; done; echo the end of input";
        let mut config = shell(&name, &script.replace("{TICK}", TICK));
        config.stdin = true;
        let id = pod.start(config);
        let mut watcher =
            spawn(&mut attach(&node, transport, &[], &id), &node.dir().join(format!("watcher-{transport}")));
        attached(&watcher);
        // That its client leaves does not end the container's input.
        let words_of = |line: &str| {
            let file = node.dir().join("line");
            fs::write(&file, line).unwrap();
            File::open(file).unwrap()
        };
        let mut first = attach(&node, transport, &["-i"], &id);
        let mut first =
            first.stdin(words_of("hello\n")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        pod.await_line(&name, "and hello");
        first.kill().unwrap();
        first.wait().unwrap();
        // So does one that closes its own, when it has heard the answer; all the others stay.
        let mut second = attach(&node, transport, &["-i"], &id);
        let second = second.stdin(words_of("short\n")).output().unwrap();
        assert!(second.status.success(), "{transport}: {second:?}");
        assert_eq!(words(&text(&second.stdout)), ["got short"]);
        let mut last = attach(&node, transport, &["-i"], &id);
        let last = last.stdin(words_of("more\nlast\n")).output().unwrap();
        assert!(last.status.success(), "{transport}: {last:?}");
        let (out, err) = (text(&last.stdout), text(&last.stderr));
        assert_eq!((words(&out), err.as_str()), (vec!["got more", "got last"], "and more\nand last\n"));
        let ended = watcher.wait(PATIENCE).expect("the watcher ends with the container");
        let seen = watcher.output();
        let mut seen = words(&seen);
        seen.sort_unstable();
        let all = [
            "and hello",
            "and last",
            "and more",
            "and short",
            "got hello",
            "got last",
            "got more",
            "got short",
        ];
        assert!(ended.success() && seen == all, "{transport}: {ended} {seen:?}");
        assert_eq!(pod.end_of(&id).exit_code, 4);
    }
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn input_for_one_client_ends_with_it() {
    let node = Node::start();
    let pod = node.pod("once");
    for transport in TRANSPORTS {
        let mut config = shell(transport, "echo ready; cat; echo end of input; exit 5");
        (config.stdin, config.stdin_once) = (true, true);
        let id = pod.start(config);
        pod.await_line(transport, "ready");
        let words = node.dir().join("words");
        fs::write(&words, "some words\n").unwrap();
        let mut command = attach(&node, transport, &["-i"], &id);
        let done = command.stdin(File::open(&words).unwrap()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(text(&done.stdout), "some words\nend of input\n");
        assert_eq!(pod.end_of(&id).exit_code, 5);
    }
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn an_attached_client_can_have_the_containers_terminal() {
    let node = Node::start();
    let pod = node.pod("tty");
    for transport in TRANSPORTS {
        let mut config = shell(transport, "exec sh");
        (config.stdin, config.stdin_once, config.tty) = (true, true, true);
        let id = pod.start(config);
        let command = attach(&node, transport, &["-i", "-t"], &id);
        let mut one = Terminal::start(&command, 80, 24);
        eventually("a prompt", PATIENCE, || {
            one.type_text("echo on''e\r");
            one.screen().contains("\r\none\r\n").then_some(())
        });
        one.resize(101, 33);
        eventually("the size", PATIENCE, || {
            one.type_text("stty size\r");
            one.screen().contains("\r\n33 101\r\n").then_some(())
        });
        // It can leave, and the terminal stays.
        one.type_text("\x10\x11");
        let (_, screen) = one.end();
        assert!(screen.contains("33 101"), "{transport}: {screen}");
        let mut other = Terminal::start(&command, 80, 24);
        eventually("a second client", PATIENCE, || {
            other.type_text("echo tw''o\r");
            other.screen().contains("\r\ntwo\r\n").then_some(())
        });
        // Its log can be rotated like any other.
        let log = pod.log_path(transport);
        fs::rename(&log, log.with_extension("old")).unwrap();
        node.cri().reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() }).unwrap();
        other.type_text("echo thr''ee\r");
        other.await_text("\r\nthree\r\n");
        other.type_text("exit 6\r");
        let (status, screen) = other.end();
        assert!(status.success(), "{transport}: {screen}");
        assert_eq!(pod.end_of(&id).exit_code, 6);
        for (file, word) in [(log.with_extension("old"), "two"), (log, "three")] {
            let lines = read_log(&file);
            assert!(lines.iter().all(|line| line.stream == "stdout"), "{lines:?}");
            assert!(lines.iter().any(|line| line.text.trim_end() == word), "{lines:?}");
        }
    }
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn a_client_that_does_not_read_holds_up_nothing_and_is_cut() {
    const LINES: usize = 4_000_000;
    let node = Node::start();
    let pod = node.pod("slow");
    let script =
        format!("{TICK} until [ -e /go ]; do usleep 20000; done; kill $!; seq {LINES}; sleep 1; exit 3");
    let id = pod.shell("main", &script);
    let mut clients: Vec<_> = TRANSPORTS
        .into_iter()
        .map(|transport| spawn(&mut attach(&node, transport, &[], &id), &node.dir().join(transport)))
        .collect();
    clients.iter().for_each(attached);
    clients.iter_mut().for_each(|client| client.signal(Signal::STOP));
    pod.exec(&id, "touch /go");
    assert_eq!(pod.end_of(&id).exit_code, 3);
    let log = read_log(&pod.log_path("main"));
    let numbers =
        log.iter().filter(|line| line.text != "tick").map(|line| line.text.parse::<usize>().unwrap());
    assert!(numbers.eq(1..=LINES), "the log has a gap");
    for mut client in clients {
        client.signal(Signal::CONT);
        let ended = client.wait(PATIENCE).expect("a client that was cut ends");
        let said = client.output();
        assert!(!ended.success() && said.contains("reads more slowly"), "{ended} {:?}", said.get(..300));
    }
}
