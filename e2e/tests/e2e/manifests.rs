//! Pods from Kubernetes manifests, with no kubelet: by the running agent, or by one that `berth run` brings along.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_e2e::{Node, Running, eventually, repository, spawn};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root and the test images"]
fn the_sample_pods_run_on_a_running_agent() {
    let node = Node::start();
    for (name, code, lines) in [
        ("init-and-sidecar", 0, &["prepare | prepared in default/init-and-sidecar", "reader  | now: "][..]),
        (
            "resources",
            0,
            &[
                "limited | uid=1000(web) gid=1000(web)",
                "the root filesystem is read-only",
                "limited | 67108864",
            ],
        ),
        ("host-network", 0, &["look | 127.0.0.1", "loop.example"]),
    ] {
        let mut run = berth_run(&node, &[&manifest(name)]);
        let status = run.wait(PATIENCE).unwrap_or_else(|| panic!("{name} does not end:\n{}", run.output()));
        let output = run.output();
        assert_eq!(status.code(), Some(code), "{name}:\n{output}");
        for line in lines {
            assert!(output.contains(line), "{name} lacks {line:?}:\n{output}");
        }
        assert_eq!(node.cri().sandboxes().len(), 0, "{name}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn ctrl_c_takes_a_pod_of_a_running_agent_down() {
    let node = Node::start();
    let mut run = berth_run(&node, &[&manifest("shared-loopback")]);
    see_shared_loopback(&node, &mut run);
    end_by_ctrl_c(&mut run);
    assert_eq!(node.cri().sandboxes().len(), 0);
    assert!(run.output().contains("web: stopping"), "{}", run.output());
}

#[test]
#[ignore = "needs root and the test images"]
fn ctrl_c_takes_an_embedded_agent_down_with_its_pods() {
    let node = Node::without_agent();
    let mut run = berth_run(&node, &[&manifest("shared-loopback")]);
    see_shared_loopback(&node, &mut run);
    end_by_ctrl_c(&mut run);
    node.assert_nothing_is_left();
    let links = node.site().run("ip", &["-o", "link"]);
    assert_eq!(links.lines().count(), 1, "only the loopback is left: {links}");
    assert_eq!(node.site().run("nft", &["list", "ruleset"]), "");
    let namespace = node.site().run("stat", &["-Lc", "%i", "/proc/self/ns/net"]);
    for kind in ["bridges", "tables"] {
        let claimed = PathBuf::from("/run/berth-claims").join(kind).join(namespace.trim());
        assert_eq!(fs::read_dir(claimed).unwrap().count(), 0, "{kind}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_closed_terminal_and_impatience_leave_nothing_either() {
    for (name, first, second) in [("closed", Signal::HUP, None), ("deaf", Signal::INT, Some(Signal::INT))] {
        let node = Node::without_agent();
        let file = node.dir().join(format!("{name}.yaml"));
        let trap = if second.is_some() { "echo deaf" } else { "exit 0" };
        let script = format!("trap \"{trap}\" TERM; echo up; while :; do sleep 1; done");
        let grace = "  terminationGracePeriodSeconds: 600\n";
        std::fs::write(&file, short_pod(name, &script, grace)).unwrap();
        let mut run = berth_run(&node, &[file.to_str().unwrap()]);
        eventually("the pod", PATIENCE, || run.output().contains("main | up").then_some(()));
        run.signal(first);
        if let Some(second) = second {
            eventually("the stop", PATIENCE, || run.output().contains("main | deaf").then_some(()));
            run.signal(second);
        }
        let status = run.wait(PATIENCE).unwrap_or_else(|| panic!("it does not end:\n{}", run.output()));
        assert_eq!(status.code(), Some(130), "{}", run.output());
        node.assert_nothing_is_left();
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_detached_pod_is_named_and_takes_its_files_with_it() {
    let node = Node::start();
    let file = node.dir().join("detached.yaml");
    let volumes = "  volumes: [{name: v, emptyDir: {medium: Memory}}]\n";
    std::fs::write(&file, short_pod("detached", "exec sleep 1000", volumes)).unwrap();
    let output = node.berth(&["run", "--detach", file.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sandboxes = node.cri().sandboxes();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", sandboxes[0].id));
    let count = |kind: &str| std::fs::read_dir(node.dir().join("state/run").join(kind)).unwrap().count();
    assert_eq!((count("pods"), count("logs")), (1, 1));
    node.crictl(&["rmp", "--force", &sandboxes[0].id]);
    let are_gone = || ((count("pods"), count("logs")) == (0, 0)).then_some(());
    eventually("the end of its directories", PATIENCE, are_gone);
}

#[test]
#[ignore = "needs root and the test images"]
fn an_embedded_agent_ends_with_the_last_pod() {
    let node = Node::without_agent();
    let file = node.dir().join("short.yaml");
    std::fs::write(&file, short_pod("short", "echo done; exit 3", "")).unwrap();
    let mut run = berth_run(&node, &[file.to_str().unwrap()]);
    let status = run.wait(PATIENCE).expect("the run ends");
    assert_eq!(status.code(), Some(3), "{}", run.output());
    assert!(run.output().contains("main | done"), "{}", run.output());
    node.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root and the test images"]
fn what_is_not_supported_is_an_error_that_names_it() {
    let node = Node::start();
    let before = node.snapshot();
    for (more, words) in [
        ("  schedulingGates: [{name: x}]\n", "spec.schedulingGates"),
        ("  nonsense: 1\n", "nonsense"),
        ("  volumes: [{name: v, nfs: {server: a, path: /b}}]\n", "spec.volumes[0].nfs"),
    ] {
        let file = node.dir().join("odd.yaml");
        std::fs::write(&file, short_pod("odd", "true", more)).unwrap();
        let output = node.berth(&["run", file.to_str().unwrap()]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{words} is not in: {said}");
    }
    node.assert_as_before(&before);
}

/// Waits until both containers have spoken and checks what `berth ns` makes of them.
fn see_shared_loopback(node: &Node, run: &mut Running) {
    eventually("the client's word", PATIENCE, || {
        let ended = run.ended();
        assert_eq!(ended, None, "{}", run.output());
        run.output().contains("says: hello from web").then_some(())
    });
    let output = run.output();
    assert!(
        output.contains("client | I am process 1 of my pid namespace, on host shared-loopback"),
        "{output}"
    );
    assert!(output.contains("web    | web: serving /www on 127.0.0.1:8080"), "{output}");

    let table = berth_e2e::run(&mut node.berth(&["ns"]));
    let row = |name: &str| -> Vec<&str> {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name}:\n{table}"))
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect()
    };
    let (head, pause, web, client) = (row("process"), row("pause"), row("web"), row("client"));
    for (column, kind) in head.iter().enumerate().skip(2) {
        let cells = [pause[column], web[column], client[column]];
        match *kind {
            "net" | "ipc" | "uts" => {
                assert!(cells.iter().all(|cell| *cell == cells[0] && cell.ends_with(" A")), "{table}")
            }
            "user" | "time" => assert!(cells.iter().all(|cell| cell.ends_with(" host")), "{table}"),
            "pid" | "mnt" => {
                assert!(cells[1] != cells[2] && !cells[1].contains(' ') && !cells[2].contains(' '), "{table}")
            }
            _ => {}
        }
    }
}

fn end_by_ctrl_c(run: &mut Running) {
    run.signal(Signal::INT);
    let status = run.wait(PATIENCE).unwrap_or_else(|| panic!("it does not end:\n{}", run.output()));
    assert!(matches!(status.code(), Some(0 | 130)), "{status}:\n{}", run.output());
}

fn berth_run(node: &Node, files: &[&str]) -> Running {
    let run = node.berth(&["run"]);
    // It heeds no SIGHUP where these tests run under nohup.
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(run.get_program()).args(run.get_args()).args(files);
    spawn(&mut command, &node.dir().join(format!("run-{}.log", name_of(files[0]))))
}

fn name_of(file: &str) -> &str {
    Path::new(file).file_stem().unwrap().to_str().unwrap()
}

fn manifest(name: &str) -> String {
    repository().join(format!("manifests/{name}.yaml")).to_str().unwrap().to_owned()
}

fn short_pod(name: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n{more}  containers:\n  \
         - name: main\n    image: localhost/berth/busybox:latest\n    imagePullPolicy: Never\n    \
         command: [sh, -c, '{script}']\n"
    )
}
