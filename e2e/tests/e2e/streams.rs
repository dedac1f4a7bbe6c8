//! Exec, attach and port-forward, as people and kubelets use them: with crictl, over SPDY and over WebSocket.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use berth_cri_proto::v1::*;
use berth_e2e::requests::{WEB, container, sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod, Running, Terminal, eventually, read_log, spawn};
use rustix::process::Signal;
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(30);

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// `crictl exec` in a container.
fn exec(node: &Node, transport: &str, flags: &[&str], id: &str, args: &[&str]) -> Command {
    let mut command = node.crictl_command();
    command.args(["exec", "--transport", transport]).args(flags).arg(id).args(args);
    command
}

fn attach(node: &Node, transport: &str, flags: &[&str], id: &str) -> Command {
    let mut command = node.crictl_command();
    command.args(["attach", "--transport", transport]).args(flags).arg(id);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn a_command_has_its_streams_and_its_exit_code() {
    let node = Node::start();
    let pod = node.pod("exec");
    let id = pod.shell("main", "exec sleep 1000");
    for transport in TRANSPORTS {
        let run = |args: &[&str]| output(&mut exec(&node, transport, &[], &id, args));
        let done = run(&["sh", "-c", "echo out; echo err >&2; cat; pwd"]);
        assert!(done.status.success(), "{transport}: {done:?}");
        assert_eq!((text(&done.stdout), text(&done.stderr)), ("out\n/\n".into(), "err\n".into()));
        let failed = run(&["sh", "-c", "echo last words; exit 7"]);
        assert!(!failed.status.success() && text(&failed.stderr).contains("exit code 7"), "{failed:?}");
        assert_eq!(text(&failed.stdout), "last words\n");
        let killed = run(&["sh", "-c", "kill -9 $$"]);
        assert!(text(&killed.stderr).contains("137"), "{killed:?}");
        let missing = run(&["no-such-program"]);
        assert!(
            !missing.status.success() && text(&missing.stderr).contains("no-such-program"),
            "{missing:?}"
        );
        let begun = Instant::now();
        let daemon = run(&["sh", "-c", "sleep 1234 & echo started"]);
        assert_eq!(text(&daemon.stdout), "started\n", "{daemon:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "a daemon must not hold the session");
    }
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn input_ends_when_the_client_closes_it_and_arrives_whole() {
    let node = Node::start();
    let pod = node.pod("input");
    let id = pod.shell("main", "exec sleep 1000");
    let (sent, received) = (node.dir().join("sent"), node.dir().join("received"));
    let mut random = File::open("/dev/urandom").unwrap();
    std::io::copy(&mut std::io::Read::take(&mut random, 64 << 20), &mut File::create(&sent).unwrap())
        .unwrap();
    for transport in TRANSPORTS {
        let mut command = exec(&node, transport, &["-i"], &id, &["cat"]);
        command.stdin(File::open(&sent).unwrap()).stdout(File::create(&received).unwrap());
        assert!(command.status().unwrap().success(), "{transport}");
        assert!(fs::read(&sent).unwrap() == fs::read(&received).unwrap(), "{transport}: not the same");
        let mut command = exec(&node, transport, &["-i"], &id, &["sh", "-c", "wc -c; echo counted >&2"]);
        let done = command.stdin(File::open(&sent).unwrap()).output().unwrap();
        assert_eq!((text(&done.stdout).trim(), text(&done.stderr).trim()), ("67108864", "counted"));
        // Input that nobody reads holds up nothing.
        let mut command = exec(&node, transport, &["-i"], &id, &["true"]);
        let done = command.stdin(File::open(&sent).unwrap()).output().unwrap();
        assert!(done.status.success(), "{transport}: {done:?}");
    }
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn a_command_can_have_a_terminal() {
    let node = Node::start();
    let pod = node.pod("terminal");
    let mut config = shell("main", "exec sleep 1000");
    security(&mut config).run_as_username = "web".into();
    let id = pod.start(config);
    for transport in TRANSPORTS {
        let script =
            "tty; echo TERM=$TERM; echo to the terminal >/dev/tty; stat -c 'owner %U' $(tty); exec sh";
        let command = exec(&node, transport, &["-i", "-t"], &id, &["sh", "-c", script]);
        let mut terminal = Terminal::start(&command, 91, 37);
        for shown in ["/dev/pts/", "TERM=xterm\r\n", "to the terminal\r\n", "owner web\r\n"] {
            terminal.await_text(shown);
        }
        // The size comes beside the output, a little later perhaps.
        eventually("the size of the terminal", PATIENCE, || {
            terminal.type_text("stty size\r");
            terminal.screen().contains("\r\n37 91\r\n").then_some(())
        });
        terminal.resize(120, 40);
        eventually("the new size of the terminal", PATIENCE, || {
            terminal.type_text("stty size\r");
            terminal.screen().contains("\r\n40 120\r\n").then_some(())
        });
        terminal.type_text("sleep 1000; echo inter''rupted $?\r");
        terminal.await_text("sleep 1000");
        terminal.type_text("\u{3}");
        terminal.type_text("echo still $((40 + 2)); exit 9\r");
        terminal.await_text("still 42\r\n");
        let (status, screen) = terminal.end();
        assert!(!status.success() && screen.contains("exit code 9"), "{transport}: {screen:?}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn what_makes_no_sense_is_refused_before_there_is_a_url() {
    let node = Node::start();
    let cri = node.cri();
    let pod = node.pod("refused");
    let id = pod.shell("main", "exec sleep 1000");
    let ended = pod.shell("ended", "true");
    pod.end_of(&ended);
    let created = pod.create(shell("created", "true"));
    let good = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let url = cri.exec(good.clone()).unwrap().url;
    assert!(url.starts_with("http://127.0.0.1:") && url.contains("/exec/"), "{url}");
    let of = |container: &str| ExecRequest { container_id: container.into(), ..good.clone() };
    for (request, code, word) in [
        (ExecRequest { cmd: vec![], ..good.clone() }, Code::InvalidArgument, "cmd"),
        (ExecRequest { stdout: false, ..good.clone() }, Code::InvalidArgument, "stdin, stdout, stderr"),
        (ExecRequest { tty: true, stderr: true, ..good.clone() }, Code::InvalidArgument, "stderr"),
        (of(&ended), Code::FailedPrecondition, "is not running"),
        (of(&created), Code::FailedPrecondition, "is not running"),
        (of("0123456789"), Code::NotFound, "0123456789"),
        (of(""), Code::NotFound, ""),
    ] {
        let refused = cri.exec(request).unwrap_err();
        assert!(refused.code() == code && refused.message().contains(word), "{refused:?}");
    }
    let good = AttachRequest { container_id: id.clone(), stdout: true, ..Default::default() };
    assert!(cri.attach(good.clone()).unwrap().url.contains("/attach/"));
    for (request, code, word) in [
        (AttachRequest { stdout: false, ..good.clone() }, Code::InvalidArgument, "stdin, stdout, stderr"),
        (AttachRequest { tty: true, ..good.clone() }, Code::InvalidArgument, "tty"),
        (AttachRequest { tty: true, stderr: true, ..good.clone() }, Code::InvalidArgument, "stderr"),
        (
            AttachRequest { container_id: ended.clone(), ..good.clone() },
            Code::FailedPrecondition,
            "is not running",
        ),
        (AttachRequest { container_id: "0123456789".into(), ..good.clone() }, Code::NotFound, "0123456789"),
    ] {
        let refused = cri.attach(request).unwrap_err();
        assert!(refused.code() == code && refused.message().contains(word), "{refused:?}");
    }
    let good = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![80, 65535] };
    assert!(cri.port_forward(good.clone()).unwrap().url.contains("/portforward/"));
    for port in [0, -1, 65536] {
        let refused =
            cri.port_forward(PortForwardRequest { port: vec![80, port], ..good.clone() }).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(&format!("port[1]: {port}")), "{refused:?}");
    }
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }).unwrap();
    assert_eq!(cri.port_forward(good).unwrap_err().code(), Code::FailedPrecondition);
}

#[test]
#[ignore = "needs root and the test images"]
fn one_container_cannot_have_all_sessions() {
    let node = Node::start();
    let cri = node.cri();
    let pod = node.pod("greedy");
    let [greedy, modest] = ["greedy", "modest"].map(|name| pod.shell(name, "exec sleep 1000"));
    let exec = |id: &str| {
        let (container_id, cmd) = (id.to_owned(), vec!["true".into()]);
        cri.exec(ExecRequest { container_id, cmd, stdout: true, ..Default::default() })
    };
    for _ in 0..100 {
        exec(&greedy).unwrap();
    }
    let refused = exec(&greedy).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("streaming.max_sessions_per_container"), "{refused:?}");
    exec(&modest).unwrap();
    let attach = AttachRequest { container_id: greedy.clone(), stdout: true, ..Default::default() };
    assert_eq!(cri.attach(attach).unwrap_err().code(), Code::ResourceExhausted);
}

/// What a process has in memory.
fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
#[ignore = "needs root and the test images"]
fn the_agent_gives_back_what_input_that_nobody_reads_has_taken() {
    let node = Node::start_with("[streaming]\nmax_sessions_per_container = 200");
    let cri = node.cri();
    let pod = node.pod("flood");
    let id = pod.shell("main", "exec sleep 1000");
    let rest = resident_mib(node.agent_pid());
    let upgrade = "HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";
    // Binary messages for standard input, with a mask of zeros.
    let message = [&[0x82, 0xfe, 0xf0, 0x01, 0, 0, 0, 0][..], &[0; 0xf001]].concat();
    let messages = node.dir().join("messages");
    fs::write(&messages, message.repeat(100)).unwrap();
    let script = "exec 3<>/dev/tcp/${1%:*}/${1##*:}; printf %s \"$2\" >&3; exec cat \"$3\" >&3";
    let mut clients = Vec::new();
    for number in 0..200 {
        let (container_id, cmd) = (id.clone(), vec!["sleep".into(), "1000".into()]);
        let url = cri.exec(ExecRequest { container_id, cmd, stdin: true, ..Default::default() }).unwrap().url;
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut command = node.site().command("bash");
        command.args(["-c", script, "bash", address, &format!("GET /{path} {upgrade}")]).arg(&messages);
        clients.push(spawn(&mut command, &node.dir().join(format!("client-{number}"))));
    }
    let taken = || resident_mib(node.agent_pid()).saturating_sub(rest);
    eventually("the agent is large", PATIENCE, || (taken() >= 70).then_some(()));
    drop(clients);
    eventually("the agent is small again", 3 * PATIENCE, || (taken() < 30).then_some(()));
}

/// What sleeps from its start on, so that a look at the processes sees it under no other name.
fn sleeper(name: &str) -> ContainerConfig {
    ContainerConfig {
        command: vec!["sleep".to_owned(), "1000".to_owned()],
        args: Vec::new(),
        ..shell(name, "")
    }
}

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

/// `crictl port-forward` with its local ports, in the order of the remote ones.
fn port_forward(node: &Node, transport: &str, pod: &str, ports: &[&str]) -> (Running, Vec<u16>) {
    let mut command = node.crictl_command();
    command.args(["port-forward", "--transport", transport, pod]);
    command.args(ports.iter().map(|port| format!(":{port}")));
    let forwarder = spawn(&mut command, &node.dir().join(format!("forward-{transport}-{}", ports[0])));
    let local = eventually("the local ports", PATIENCE, || {
        let said = forwarder.output();
        let port = |remote: &&str| {
            let line = said.lines().find(|line| {
                line.starts_with("Forwarding from 127.0.0.1:") && line.ends_with(&format!("-> {remote}"))
            })?;
            line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
        };
        ports.iter().map(port).collect::<Option<Vec<u16>>>()
    });
    (forwarder, local)
}

fn fetch(node: &Node, port: u16, path: &str) -> Output {
    let mut command = node.site().command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        &format!("http://127.0.0.1:{port}/{path}"),
    ]);
    output(&mut command)
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn ports_of_a_pod_can_be_reached() {
    const LARGE: usize = 20_000_000;
    let node = Node::start();
    let pod = node.pod("ports");
    let web = pod.start(container("web", WEB));
    let other = pod.shell("six", "mkdir /files; exec httpd -f -p '[::1]:8081' -h /files");
    pod.exec(&other, &format!("head -c {LARGE} /dev/urandom >/files/large"));
    let sum = pod.exec(&other, "sha256sum </files/large");
    let own = pod.exec(&web, "wget -q -O - http://127.0.0.1:8080/");
    for transport in TRANSPORTS {
        let (forwarder, ports) = port_forward(&node, transport, &pod.id, &["8080", "8081"]);
        let [good, six] = ports[..] else { panic!("{ports:?}") };
        let page = fetch(&node, good, "");
        assert!(text(&page.stdout).trim_end() == own, "{transport}: {page:?} {}", forwarder.output());
        let received = node.dir().join("received");
        fs::write(&received, fetch(&node, six, "large").stdout).unwrap();
        assert_eq!(
            node.site().run("sha256sum", &[received.to_str().unwrap()])[..64],
            sum[..64],
            "{transport}"
        );
        // Many at once, in one session.
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| assert_eq!(text(&fetch(&node, good, "").stdout).trim_end(), own));
            }
        });
        // crictl itself gives up the session after a connection that failed; the reason must arrive.
        let (refused, ports) = port_forward(&node, transport, &pod.id, &["9"]);
        assert!(!fetch(&node, ports[0], "").status.success());
        eventually("the reason", PATIENCE, || refused.output().contains("refused").then_some(()));
        assert!(refused.output().contains("localhost:9"), "{}", refused.output());
        assert!(fetch(&node, good, "").status.success(), "{transport}: {}", forwarder.output());
    }
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn ports_of_a_pod_on_the_hosts_network_can_be_reached() {
    let node = Node::start();
    let mut config = node.sandbox("host");
    config.hostname = String::new();
    sandbox_namespaces(&mut config).network = NamespaceMode::Node.into();
    let pod = Pod::run(&node, config);
    let mut config = shell("main", "exec httpd -f -p 127.0.0.1:8088 -h /etc");
    security(&mut config).namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
    pod.start(config);
    let (_forwarder, ports) = port_forward(&node, "spdy", &pod.id, &["8088"]);
    eventually("an answer", PATIENCE, || {
        text(&fetch(&node, ports[0], "motd").stdout).contains("base image").then_some(())
    });
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn a_command_has_the_rights_of_its_container() {
    let node = Node::start();
    let pod = node.pod("rights");
    let mut config = shell("main", "cat /proc/self/status; exec sleep 1000");
    let rights = security(&mut config);
    (rights.run_as_username, rights.no_new_privs, rights.supplemental_groups) =
        ("web".into(), true, vec![1234]);
    rights.capabilities.get_or_insert_default().drop_capabilities = vec!["CHOWN".into()];
    let id = pod.start(config);
    const FIELDS: [&str; 9] =
        ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"];
    let rights = |status: &str| {
        let of = |line: &&str| FIELDS.iter().any(|field| line.starts_with(&format!("{field}:")));
        status.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
    };
    pod.await_line("main", "Uid:\t1000\t1000\t1000\t1000");
    let first = eventually("all of the status", PATIENCE, || {
        let first = rights(&pod.log("main").join("\n"));
        (first.len() == FIELDS.len()).then_some(first)
    });
    let command = output(&mut exec(&node, "spdy", &[], &id, &["cat", "/proc/self/status"]));
    assert_eq!(rights(&text(&command.stdout)), first);
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn a_client_that_vanishes_leaves_no_command_behind() {
    let node = Node::start();
    let pod = node.pod("vanish");
    let id = pod.start(sleeper("main"));
    let before = node.baseline();
    for transport in TRANSPORTS {
        let script = "trap '' HUP PIPE; echo begun >/proc/1/fd/1; sleep 4321";
        let mut client = spawn(
            &mut exec(&node, transport, &["-i"], &id, &["sh", "-c", script]),
            &node.dir().join("client"),
        );
        eventually("the command", PATIENCE, || pod.exec(&id, "ps").contains("sleep 4321").then_some(()));
        client.signal(Signal::KILL);
        eventually("the command's end", PATIENCE, || {
            (!pod.exec(&id, "ps").contains("sleep 4321")).then_some(())
        });
    }
    node.assert_as_before(&before);
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn a_hundred_sessions_leave_no_descriptor_behind() {
    let node = Node::start();
    let pod = node.pod("hundred");
    let id = pod.start(ContainerConfig { stdin: true, ..sleeper("main") });
    let monitor = pod.monitor_pid();
    let descriptors = || fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count();
    output(&mut exec(&node, "spdy", &[], &id, &["true"]));
    let (before, held) = (node.baseline(), descriptors());
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let (node, id) = (&node, &id);
            scope.spawn(move || {
                for number in 0..25 {
                    let transport = TRANSPORTS[(lane + number) % 2];
                    match number % 5 {
                        4 => {
                            let mut client = attach(node, transport, &["-i"], id)
                                .stdin(Stdio::piped())
                                .stdout(Stdio::null())
                                .stderr(Stdio::null())
                                .spawn()
                                .unwrap();
                            client.kill().unwrap();
                            client.wait().unwrap();
                        }
                        _ => {
                            let done = output(&mut exec(node, transport, &[], id, &["echo", "done"]));
                            assert_eq!(text(&done.stdout), "done\n", "{done:?}");
                        }
                    }
                }
            });
        }
    });
    node.assert_as_before(&before);
    eventually("the monitor's descriptors", PATIENCE, || (descriptors() == held).then_some(()));
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn an_agent_that_is_killed_ends_sessions_and_no_container() {
    let node = Node::start();
    let pod = node.pod("killed");
    let script = "while :; do echo tick; sleep 0.2; done & while read line; do echo \"got $line\"; done";
    let mut config = shell("main", script);
    config.stdin = true;
    let id = pod.start(config);
    let mut watcher = spawn(&mut attach(&node, "spdy", &[], &id), &node.dir().join("watcher"));
    eventually("the watcher to see something", PATIENCE, || watcher.output().contains("tick").then_some(()));
    let mut client =
        spawn(&mut exec(&node, "spdy", &[], &id, &["sleep", "4321"]), &node.dir().join("client"));
    eventually("the command", PATIENCE, || pod.exec(&id, "ps").contains("sleep 4321").then_some(()));
    node.kill9();
    for client in [&mut watcher, &mut client] {
        client.wait(PATIENCE).expect("a client that has lost its agent ends");
    }
    node.restart();
    assert_eq!(pod.status(&id).state(), ContainerState::ContainerRunning);
    eventually("the command's end", PATIENCE, || (!pod.exec(&id, "ps").contains("sleep 4321")).then_some(()));
    let mut writer =
        attach(&node, "spdy", &["-i"], &id).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(writer.stdin.as_mut().unwrap(), b"after the restart\n").unwrap();
    pod.await_line("main", "got after the restart");
    writer.kill().unwrap();
    writer.wait().unwrap();
}
