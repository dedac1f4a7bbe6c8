//! Terminals of exec sessions, attached clients, and the network's handle.

use std::io::Read;

use berth_cgroup::{Limit, Limits};

use super::*;

/// A pipe for a viewer; the write side goes to the monitor.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

/// Attaches; returns both outputs, the answer and the descriptor that came with it.
fn attach(pod: &mut Pod, plan: &LaunchPlan, stdin: bool) -> (File, File, Answer, Option<File>) {
    let ((out, stdout), (err, stderr)) = (pipe(), pipe());
    let order = Order::Attach { container: plan.container.clone(), stdin, stdout: true, stderr: true };
    let (answer, fds) = pod.ask_for_fds(order, &[stdout.as_fd(), stderr.as_fd()]);
    (out, err, answer.unwrap(), fds.into_iter().next().map(File::from))
}

fn attached_end(pod: &Pod) -> AttachEnd {
    loop {
        if let Message::Event(Event::AttachEnded { end, .. }) = pod.message() {
            return end;
        }
    }
}

/// Reads until `text` has come.
fn read_up_to(file: &mut File, text: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let length = file.read(&mut buffer).unwrap_or_else(|error| panic!("{error} after {seen:?}"));
        assert_ne!(length, 0, "the end after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    seen
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn attached_clients_see_all_to_the_end_and_can_write() {
    let host = Host::new();
    let mut pod = host.pod(30, |_| {});
    let mut plan = host.plan(30, "read a; echo got $a; read b; echo got $b >&2; cat; echo end; exit 3");
    plan.stdio.stdin = true;
    pod.launch(&plan).unwrap();
    pod.start(&plan);
    let (mut one, mut one_err, answer, stdin) = attach(&mut pod, &plan, true);
    assert_eq!(answer, Answer::Attached { tty: false, stdin: true });
    stdin.unwrap().write_all(b"first\n").unwrap();
    assert_eq!(read_up_to(&mut one, "\n"), "got first\n");
    // The second sees only what comes from now on; that the first left did not close the input.
    let (mut two, mut two_err, _, stdin) = attach(&mut pod, &plan, true);
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"second\nthird\n").unwrap();
    for (out, err) in [(&mut one, &mut one_err), (&mut two, &mut two_err)] {
        assert_eq!(read_up_to(err, "\n"), "got second\n");
        assert_eq!(read_up_to(out, "\n"), "third\n");
    }
    drop(stdin);
    pod.ask(Order::Kill { container: plan.container.clone() }, &[]).unwrap();
    let mut rest = String::new();
    two.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_eq!(log_text(&plan), "got first\ngot second\nthird\n");
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn the_input_of_one_client_ends_with_it_if_it_was_for_one() {
    let host = Host::new();
    let mut pod = host.pod(31, |_| {});
    let mut plan = host.plan(31, "cat; echo end; exit 3");
    (plan.stdio.stdin, plan.stdio.stdin_once) = (true, true);
    pod.launch(&plan).unwrap();
    pod.start(&plan);
    let (mut out, _err, _, stdin) = attach(&mut pod, &plan, true);
    let (mut late, _late_err, answer, none) = attach(&mut pod, &plan, true);
    assert_eq!((answer, none.is_none()), (Answer::Attached { tty: false, stdin: false }, true));
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"all\n").unwrap();
    drop(stdin);
    for client in [&mut out, &mut late] {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all\nend\n");
    }
    assert_eq!(attached_end(&pod), AttachEnd::Exited);
    assert_eq!(pod.exit(&plan).code, 3);
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_client_that_does_not_read_is_cut_and_holds_up_nothing() {
    let host = Host::new();
    let mut pod = host.pod(32, |_| {});
    let plan = host.plan(32, "read a </bin/go; seq 1 50000; exit 4");
    let go = plan.rootfs.lower[0].join("bin/go");
    rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    pod.launch(&plan).unwrap();
    let pid = pod.start(&plan);
    let (mut out, _err, ..) = attach(&mut pod, &plan, false);
    fs::write(format!("/proc/{pid}/root/bin/go"), "\n").unwrap();
    assert_eq!(attached_end(&pod), AttachEnd::TooSlow);
    assert_eq!(pod.exit(&plan).code, 4);
    let numbers: String = (1..=50000).map(|n| format!("{n}\n")).collect();
    assert_eq!(log_text(&plan), numbers);
    let mut seen = String::new();
    out.read_to_string(&mut seen).unwrap();
    assert!(numbers.starts_with(&seen) && seen.len() < numbers.len(), "{} bytes", seen.len());
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn a_session_has_a_terminal_of_its_own() {
    let host = Host::new();
    let mut pod = host.pod(33, |_| {});
    let mut plan = host.plan(33, "sleep 100");
    plan.process.user.user = NameOrId::Name("web".to_owned());
    let Scratch(cgroup) = &Scratch::new("terminal");
    plan.cgroup = cgroup.entry();
    pod.launch(&plan).unwrap();
    pod.start(&plan);
    // A signal that comes between two commands is seen after the next; a `read` would not end for it.
    let script = "trap 'stty size; exit 5' WINCH; stat -c %u $(readlink /proc/self/fd/0); echo $TERM; echo to; \
        while :; do sleep 0.1; done";
    let exec = ExecPlan {
        container: plan.container.clone(),
        args: vec!["sh".into(), "-c".into(), script.into()],
        tty: true,
    };
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let plan_fd = memfd(&exec);
    let fds = [plan_fd.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
    let (answer, mut fds) = pod.ask_for_fds(Order::Exec, &fds);
    assert!(matches!(answer, Ok(Answer::Started { .. })), "{answer:?}");
    let mut terminal = File::from(fds.remove(0));
    assert_eq!(read_up_to(&mut terminal, "to\r\n"), "1000\r\nxterm\r\nto\r\n");
    let size = rustix::termios::Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    assert_eq!(read_up_to(&mut terminal, "\n"), "33 77\r\n");
    loop {
        if let Message::Event(Event::ExecExited { code, .. }) = pod.message() {
            assert_eq!(code, 5);
            break;
        }
    }
    // The session has ended, and nobody else holds its terminal.
    assert_eq!(terminal.read(&mut [0; 16]).unwrap_err().raw_os_error(), Some(5));
}

#[test]
#[ignore = "needs root: makes namespaces, mounts and cgroups"]
fn a_session_that_cannot_be_forked_leaves_no_cgroup() {
    let host = Host::new();
    let mut pod = host.pod(36, |_| {});
    let mut plan = host.plan(36, "sleep 1000");
    let Scratch(cgroup) = &Scratch::new("fork");
    plan.cgroup = cgroup.entry();
    pod.launch(&plan).unwrap();
    pod.start(&plan);
    let entry = cgroup.entry();
    // In version 2 the session is born into the container's cgroup, in version 1 into its monitor's.
    let of_pids = |file: &&PathBuf| file.iter().any(|part| part == "pids");
    if let Some(tasks) = entry.tasks.iter().find(of_pids) {
        fs::write(tasks, pod.hello.pid.to_string()).unwrap();
    }
    let limited_to = |pids| cgroup.apply(&Limits { pids: Some(pids), ..Limits::default() }).unwrap();
    let args = vec!["id".into()];
    let exec = ExecPlan { container: plan.container.clone(), args, tty: false };
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut ask = || {
        let (exec, null) = (memfd(&exec), null.as_fd());
        pod.ask(Order::Exec, &[exec.as_fd(), null, null, null])
    };

    limited_to(Limit::At(1));
    let refused = ask().unwrap_err();
    assert_eq!(refused.stage(), Some(Stage::Fork), "{refused}");
    let directories = entry.tasks.iter().filter_map(|file| file.parent()).chain(entry.directory.as_deref());
    for directory in directories {
        let mut below = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
        assert_eq!(below.find(|path| path.is_dir()), None);
    }
    limited_to(Limit::Max);
    let answer = ask();
    assert!(matches!(answer, Ok(Answer::Started { .. })), "{answer:?}");
}

#[test]
#[ignore = "needs root: makes namespaces and mounts"]
fn the_pods_network_can_be_had_at_any_time() {
    let host = Host::new();
    let mut pod = host.pod(34, |_| {});
    let (_, fds) = pod.ask_for_fds(Order::OpenNetwork, &[]);
    let inode = rustix::fs::fstat(&fds[0]).unwrap().st_ino;
    let pause = namespace(pod.hello.pause_pid.unwrap(), "net");
    assert_eq!(pause.to_str().unwrap(), format!("net:[{inode}]"));
    let mut of_the_host = host.pod(35, |plan| {
        (plan.net, plan.hostname) = (Sharing::Host, None);
    });
    assert_eq!(of_the_host.ask_for_fds(Order::OpenNetwork, &[]).1.len(), 0);
}
