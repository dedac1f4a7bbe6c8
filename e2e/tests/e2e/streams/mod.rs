//! Exec, attach and port-forward, as people and kubelets use them: with crictl, over SPDY and over WebSocket.

mod attach;
mod port_forward;

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

/// What sleeps from its start on, so that a look at the processes sees it under no other name.
fn sleeper(name: &str) -> ContainerConfig {
    ContainerConfig {
        command: vec!["sleep".to_owned(), "1000".to_owned()],
        args: Vec::new(),
        ..shell(name, "")
    }
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
        terminal.type_text("sleep 4321; echo inter''rupted $?\r");
        eventually("the command", PATIENCE, || pod.exec(&id, "ps").contains("sleep 4321").then_some(()));
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
