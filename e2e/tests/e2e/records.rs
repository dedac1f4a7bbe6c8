//! Records that can't be read: what they name runs on, is told of, and goes when someone removes it.

use std::path::PathBuf;
use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::{Node, Pod, eventually, requests};

/// In the ways in which a record can be unreadable.
const LATER_VERSION: &str = "version = 99";
const GARBAGE: &str = "body = 'x' || substr(body, 1, 300)";
const OTHER_KEY: &str = "key = 'beef' || substr(key, 5)";
const GARBLED_KEY: &str = "key = x'ff00fe'";
const UNKNOWN_PHASE: &str = "body = replace(body, '\"phase\":\"Ready\"', '\"phase\":\"Frozen\"')";
const NO_PARENT: &str = "body = replace(body, '\"cgroup_parent\":null', '\"cgroup_parent\":\"/../../x\"')";
const OTHER_FIELDS: &str = "version = 99, body = replace(body, '\"addresses\":', '\"ips\":')";

fn spoil(node: &Node, table: &str, key: &str, how: &str) {
    node.kill9();
    node.change_database(&format!("update records set {how} where tab = '{table}' and key = '{key}'"));
    node.restart();
}

fn is_running(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}/root")).read_link().is_ok()
}

fn remove(node: &Node, pod: &str) {
    node.cri().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).unwrap();
}

/// Its processes run, it is reported, and nothing of it counts as left.
fn assert_doubted(node: &Node, id: &str, pids: &[u32]) {
    assert!(pids.iter().all(|pid| is_running(*pid)), "its processes are killed");
    let found = node.check("--leaks");
    assert!(!found.is_empty() && found.iter().all(|line| line.starts_with("unreadable ")), "{found:#?}");
    let of_it = found.iter().filter(|line| line.contains(&id[..12]));
    assert!(of_it.count() > 1, "{found:#?}");
    let (is_so, why) = node.condition("RecordsReadable");
    assert!(!is_so && why.contains(id), "{why}");
    assert!(node.condition("RuntimeReady").0);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_whose_record_cannot_be_read_runs_on_until_it_is_removed_by_its_id() {
    let node = Node::start();
    let stays = node.pod("stays");
    let command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let main = stays.start(ContainerConfig { command, ..requests::container("main", requests::BUSYBOX) });
    for how in [LATER_VERSION, GARBAGE, UNKNOWN_PHASE, NO_PARENT] {
        let before = node.baseline();
        let config = PodSandboxConfig {
            port_mappings: vec![PortMapping { container_port: 80, host_port: 18_081, ..Default::default() }],
            ..node.sandbox("doubted")
        };
        let pod = Pod::run(&node, config.clone());
        let container = pod.shell("main", "exec sleep 1000");
        let (pids, addresses) =
            ([pod.pid(None), pod.pid(Some(&container)), pod.monitor_pid()], pod.addresses());
        spoil(&node, "sandboxes", &pod.id, how);
        assert_eq!(node.cri().sandboxes().len(), 1, "{how}");
        assert_doubted(&node, &pod.id, &pids);
        // Its name is free, its addresses are not.
        let again = Pod::run(&node, node.sandbox("doubted"));
        assert!(again.addresses().iter().all(|address| !addresses.contains(address)), "{how}");
        if how == LATER_VERSION {
            let error = node.cri().run_pod_sandbox(RunPodSandboxRequest {
                config: Some(PodSandboxConfig { metadata: node.sandbox("other").metadata, ..config }),
                ..Default::default()
            });
            assert!(error.unwrap_err().message().contains("18081"), "its port is not kept");
        }
        again.take_down();
        // The next agent sees it as the last one did.
        node.kill9();
        node.restart();
        assert_doubted(&node, &pod.id, &pids);
        remove(&node, &pod.id);
        assert!(!pids.iter().any(|pid| is_running(*pid)), "{how}");
        assert_eq!(node.check("--leaks"), [""; 0], "{how}");
        assert_eq!(node.condition("RecordsReadable"), (true, String::new()));
        node.assert_as_before(&before.with_agent_of(&node.snapshot()));
        remove(&node, &pod.id);
    }
    assert_eq!(stays.exec(&main, "echo fine"), "fine");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_pod_whose_row_has_a_wrong_key_runs_on_until_it_is_removed_by_its_id() {
    let node = Node::start();
    let stays = node.pod("stays");
    for how in [OTHER_KEY, GARBLED_KEY] {
        let pod = node.pod("doubted");
        let container = pod.shell("main", "exec sleep 1000");
        let pids = [pod.pid(None), pod.pid(Some(&container)), pod.monitor_pid()];
        spoil(&node, "sandboxes", &pod.id, how);
        assert!(pids.iter().all(|pid| is_running(*pid)), "{how}: its processes are killed");
        let found = node.check("--leaks");
        assert!(found.iter().all(|line| line.starts_with("unreadable ")), "{how}: {found:#?}");
        assert!(found.iter().filter(|line| line.contains(&pod.id[..12])).count() > 1, "{how}: {found:#?}");
        remove(&node, &pod.id);
        assert!(!pids.iter().any(|pid| is_running(*pid)), "{how}");
        assert_eq!(node.check("--leaks"), [""; 0], "{how}");
        assert_eq!(node.condition("RecordsReadable"), (true, String::new()), "{how}");
    }
    assert!(is_running(stays.monitor_pid()));
}

#[test]
#[ignore = "needs root and the test images"]
fn pods_in_doubt_with_the_same_name_server_keep_their_addresses() {
    let node = Node::start();
    let sandbox = |name: &str| PodSandboxConfig {
        dns_config: Some(DnsConfig { servers: vec!["10.96.0.10".into()], ..Default::default() }),
        ..node.sandbox(name)
    };
    // By what is left of a text, an address of the name server is as good as one of the pod.
    for how in [LATER_VERSION, OTHER_FIELDS] {
        let pods = ["one", "two", "three"].map(|name| Pod::run(&node, sandbox(name)));
        let taken: Vec<String> = pods.iter().flat_map(Pod::addresses).collect();
        node.kill9();
        node.change_database(&format!("update records set {how} where tab = 'sandboxes'"));
        // The search for a free address goes on after the last one given, which is forgotten with the agent.
        node.restart();
        let new = ["four", "five", "six"].map(|name| Pod::run(&node, node.sandbox(name)));
        let given: Vec<String> = new.iter().flat_map(Pod::addresses).collect();
        assert!(given.iter().all(|address| !taken.contains(address)), "{how}: {given:?} of {taken:?}");
        pods.iter().for_each(|pod| remove(&node, &pod.id));
        new.iter().for_each(Pod::take_down);
        assert_eq!(node.check("--leaks"), [""; 0], "{how}");
    }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_repair_removes_what_cannot_be_read() {
    let node = Node::start();
    let stays = node.pod("stays");
    let main = stays.shell("main", "exec sleep 1000");
    let pod = node.pod("doubted");
    let pids = [pod.monitor_pid(), pod.pid(Some(&pod.shell("main", "exec sleep 1000")))];
    // A container alone, in a pod that is known.
    let lone = stays.shell("lone", "exec sleep 1000");
    let lone_pid = stays.pid(Some(&lone));
    spoil(&node, "sandboxes", &pod.id, LATER_VERSION);
    spoil(&node, "containers", &lone, "body = '{'");
    assert_doubted(&node, &pod.id, &pids);
    assert_doubted(&node, &lone, &[lone_pid]);
    assert_eq!(node.cri().containers().len(), 1);
    node.kill9();
    // Without an agent it is the same.
    let found = node.check("--leaks");
    assert!(!found.is_empty() && found.iter().all(|line| line.starts_with("unreadable ")), "{found:#?}");
    node.restart();
    assert_eq!(node.check("--repair"), [""; 0]);
    assert!(![pids[0], pids[1], lone_pid].iter().any(|pid| is_running(*pid)));
    assert_eq!(node.check("--leaks"), [""; 0]);
    assert_eq!(node.condition("RecordsReadable"), (true, String::new()));
    assert_eq!(stays.exec(&main, "echo fine"), "fine");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_look_without_an_agent_leaves_a_ruined_database_to_the_next_one() {
    let node = Node::start();
    let pod = node.pod("runs");
    node.stop();
    let root = node.dir().join("root");
    let database = root.join("berth.db");
    let whole = std::fs::read(&database).unwrap();
    std::fs::write(&database, &whole[..whole.len() - 4096]).unwrap();
    let files = || {
        let files = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.is_file() && !path.ends_with("lock")).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect::<Vec<_>>()
    };
    let before = files();
    let found = node.check("--leaks");
    let told = format!("unreadable file {}: ", database.display());
    assert!(found.iter().any(|line| line.starts_with(&told)), "{found:#?}");
    assert!(files() == before, "the look has changed the files");
    node.restart();
    assert!(node.journal().contains("database ruined"));
    let (is_so, why) = node.condition("RecordsReadable");
    assert!(!is_so && why.contains("ruined-1.db"), "{why}");
    // Whether the pod is still known is for the page to say that is gone.
    node.cri().take_down(&pod.id).ok();
    assert_eq!(node.check("--repair"), [""; 0]);
    assert_eq!(node.check("--leaks"), [""; 0]);
}

#[test]
#[ignore = "needs root and the test images"]
fn the_files_of_an_image_whose_record_cannot_be_read_stay_for_its_containers() {
    let node = Node::start_with("[reconciliation]\nperiod_seconds = 1");
    let pod = node.pod("runs");
    let main = pod.shell("main", "exec sleep 1000");
    let request = ImageSpec { image: requests::BUSYBOX.into(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(request), ..Default::default() };
    let image = node.cri().image_status(request.clone()).unwrap().image.unwrap();
    node.kill9();
    // Importing it again would put a good record in the place of this one.
    let settings = node.dir().join("config.toml");
    let text = std::fs::read_to_string(&settings).unwrap().replace("import = ", "# import = ");
    std::fs::write(&settings, text).unwrap();
    node.change_database(&format!(
        "update records set version = 99 where tab = 'images' and key = '{}'",
        image.id
    ));
    node.restart();
    assert!(node.cri().image_status(request).unwrap().image.is_none());
    // Read from the image's layers, as nothing of it is in memory.
    assert_eq!(pod.exec(&main, "busybox cat /etc/passwd | busybox head -c 4"), "root");
    let found = node.check("--leaks");
    assert!(found.iter().all(|line| line.starts_with("unreadable row ")), "{found:#?}");
    run_import(&node);
    eventually("the image", Duration::from_secs(10), || {
        (node.cri().list_images(ListImagesRequest::default()).unwrap().images.len() >= 4).then_some(())
    });
    assert_eq!(node.check("--repair"), [""; 0]);
    assert_eq!(pod.exec(&main, "busybox cat /etc/passwd | busybox head -c 4"), "root");
    pod.take_down();
}

fn run_import(node: &Node) {
    let images = berth_e2e::repository().join("hack/images/out/busybox");
    berth_e2e::run(node.berth(&["image", "import"]).arg(images));
}
