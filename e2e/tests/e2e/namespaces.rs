//! Who shares which namespace, as the kernel tells it and as the containers live it.

use berth_cri_proto::v1::NamespaceMode;
use berth_e2e::requests::{sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod};

#[test]
#[ignore = "needs root and the test images"]
fn containers_of_a_pod_share_net_ipc_and_uts_and_talk_over_loopback() {
    let node = Node::start();
    let pod = node.pod("shared");
    let web =
        pod.shell("web", "echo $$; echo shared >/dev/shm/note; exec httpd -f -p 127.0.0.1:8080 -h /etc");
    let client = pod.shell("client", "echo $$; exec sleep 1000");
    let pids = [pod.pid(None), pod.pid(Some(&web)), pod.pid(Some(&client))];

    for kind in ["net", "ipc", "uts"] {
        let [pause, one, other] = pids.map(|pid| namespace(pid, kind));
        assert_eq!([&pause, &pause], [&one, &other], "{kind}");
        assert_ne!(pause, hosts(kind), "{kind} is not the host's");
    }
    for kind in ["pid", "mnt"] {
        let [pause, one, other] = pids.map(|pid| namespace(pid, kind));
        assert!(one != other && one != pause && other != pause, "{kind}: {pause} {one} {other}");
        assert!(![one, other].contains(&hosts(kind)), "{kind} is not the host's");
    }
    pod.await_line("web", "1");
    pod.await_line("client", "1");
    let fetched = pod.exec(
        &client,
        "for i in 1 2 3 4 5; do wget -q -O - http://127.0.0.1:8080/motd && break; usleep 200000; done",
    );
    assert_eq!(fetched, "The base image's, removed by web.");
    assert_eq!(pod.exec(&client, "cat /dev/shm/note"), "shared");
    assert_eq!(pod.exec(&web, "hostname"), "shared");
    assert_eq!(pod.exec(&client, "set -- /proc/[0-9]*; echo $#"), "2", "sleep, and this shell");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_shared_pid_namespace_has_pause_as_its_init() {
    let node = Node::start();
    let mut config = node.sandbox("one-tree");
    sandbox_namespaces(&mut config).pid = NamespaceMode::Pod.into();
    let pod = Pod::run(&node, config);
    let start = |name: &str, script: &str| {
        let mut config = shell(name, script);
        security(&mut config).namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
        pod.start(config)
    };
    let one = start("one", "exec sleep 1001");
    let other = start("other", "exec sleep 1002");
    let pids = [pod.pid(None), pod.pid(Some(&one)), pod.pid(Some(&other))];
    let [pause, first, second] = pids.map(|pid| namespace(pid, "pid"));
    assert!(pause == first && first == second && first != hosts("pid"));

    let seen = pod.exec(&other, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(seen.contains("sleep 1001") && seen.contains("sleep 1002"), "{seen}");
    assert!(pod.exec(&one, "cat /proc/1/cmdline").contains("pause"));
    // An orphan falls to pause, which waits for it.
    pod.exec(&one, "(sleep 0.1 &) ");
    berth_e2e::eventually("the orphan's end", std::time::Duration::from_secs(5), || {
        let states = pod.exec(&one, "cat /proc/[0-9]*/stat 2>/dev/null | cut -d ' ' -f 2-3; true");
        (!states.contains(" Z") && states.matches("(sleep)").count() == 2).then_some(())
    });
    // The other's end is nobody else's.
    pod.stop(&other, 0);
    assert_eq!(pod.end_of(&other).exit_code, 137);
    pod.exec(&one, "true");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_container_joins_the_pid_namespace_of_another() {
    let node = Node::start();
    let pod = node.pod("target");
    let target = pod.shell("target", "exec sleep 1003");
    let mut config = shell("debugger", "exec sleep 1004");
    let options = security(&mut config).namespace_options.as_mut().unwrap();
    options.pid = NamespaceMode::Target.into();
    options.target_id = target.clone();
    let debugger = pod.start(config);
    assert!(pod.exec(&debugger, "cat /proc/1/cmdline").contains("1003"));
    assert_eq!(namespace(pod.pid(Some(&debugger)), "pid"), namespace(pod.pid(Some(&target)), "pid"));
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_can_have_the_hosts_namespaces() {
    let node = Node::start();
    let mut config = node.sandbox("host");
    let options = sandbox_namespaces(&mut config);
    (options.network, options.pid, options.ipc) =
        (NamespaceMode::Node.into(), NamespaceMode::Node.into(), NamespaceMode::Node.into());
    let options = options.clone();
    let pod = Pod::run(&node, config);
    let mut config = shell("all", "exec sleep 1000");
    security(&mut config).namespace_options = Some(options);
    let id = pod.start(config);
    let pid = pod.pid(Some(&id));
    for kind in ["ipc", "uts", "pid"] {
        assert_eq!(namespace(pid, kind), hosts(kind), "{kind}");
    }
    assert_eq!(node.site().run("readlink", &["/proc/self/ns/net"]).trim(), namespace(pid, "net"));
    assert_ne!(namespace(pid, "mnt"), hosts("mnt"));
}

/// The machine's own, which is also this process's.
fn hosts(kind: &str) -> String {
    namespace(std::process::id(), kind)
}

/// A namespace, as the kernel names it.
fn namespace(pid: u32, kind: &str) -> String {
    let path = format!("/proc/{pid}/ns/{kind}");
    let target = std::fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    target.to_str().unwrap().to_owned()
}
