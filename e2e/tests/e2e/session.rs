//! A person's session with crictl, from an empty node to an empty node.

use std::time::Duration;

use berth_e2e::{Node, REGISTRY, eventually, repository, start_registry};
use rustix::process::Signal;
use serde_json::{Value, json};

const IMAGE: &str = "127.0.0.1:5000/berth/busybox:latest";

#[test]
#[ignore = "needs root, crictl and docker-registry"]
fn a_session_with_crictl() {
    let node = Node::start_empty(&format!("[registries.hosts.'{REGISTRY}']\nplain_http = true"));
    let mut registry = start_registry(&node);

    let version = node.crictl(&["version"]);
    assert!(version.contains("RuntimeName:  berth"), "{version}");
    assert!(version.contains("RuntimeApiVersion:  v1"), "{version}");
    let info = json(&node.crictl(&["info"]));
    for condition in ["RuntimeReady", "NetworkReady"] {
        let found = array(&info["status"]["conditions"]).iter().find(|found| found["type"] == condition);
        assert_eq!(found.unwrap()["status"], true, "{info}");
    }

    let image_id = pull(&node);
    let (pod, container) = run(&node);
    look(&node, &pod, &container, &image_id);
    end(&node, &pod, &container);

    node.crictl(&["rmi", IMAGE]);
    assert_eq!(json(&node.crictl(&["images", "-o", "json"]))["images"], json!([]));
    registry.signal(Signal::TERM);
    registry.wait(Duration::from_secs(10)).expect("the registry stops");
}

fn pull(node: &Node) -> String {
    let pulled = node.crictl(&["pull", IMAGE]);
    let id = pulled.trim().strip_prefix("Image is up to date for ").expect(&pulled).to_owned();
    let images = json(&node.crictl(&["images", "-o", "json"]));
    let image = &images["images"][0];
    assert_eq!(image["id"], id.as_str(), "{images}");
    assert_eq!(image["repoTags"], json!([IMAGE]), "{images}");
    let table = node.crictl(&["images"]);
    assert!(table.contains("127.0.0.1:5000/berth/busybox"), "{table}");
    assert_eq!(json(&node.crictl(&["inspecti", IMAGE]))["status"]["id"], id.as_str());
    id
}

fn run(node: &Node) -> (String, String) {
    let pod_file = node.dir().join("pod.json");
    let pod_config = json!({
        "metadata": {"name": "session", "namespace": "default", "uid": "0b7e", "attempt": 1},
        "hostname": "session-host",
        "log_directory": node.dir().join("logs"),
        "labels": {"app": "session", "odd": " \u{fc} "},
        "annotations": {"note": "kept\nas it is"},
        "linux": {"security_context": {"namespace_options": {"pid": 1}}},
    });
    std::fs::write(&pod_file, pod_config.to_string()).unwrap();
    let container_file = node.dir().join("container.json");
    let container_config = json!({
        "metadata": {"name": "greeter", "attempt": 2},
        "image": {"image": IMAGE},
        "command": ["sh", "-c"],
        "args": ["trap 'echo bye; exit 3' TERM; echo hello, $WHOM; echo oops >&2; while :; do sleep 1 & wait; done"],
        "envs": [{"key": "WHOM", "value": "world"}],
        "labels": {"tier": "front"},
        "log_path": "greeter.log",
        "linux": {"security_context": {"namespace_options": {"pid": 1}}},
    });
    std::fs::write(&container_file, container_config.to_string()).unwrap();
    let (pod_file, container_file) = (pod_file.to_str().unwrap(), container_file.to_str().unwrap());

    let pod = node.crictl(&["runp", pod_file]).trim().to_owned();
    let container = node.crictl(&["create", &pod, container_file, pod_file]).trim().to_owned();
    assert_eq!(state_in_ps(node, &container), "CONTAINER_CREATED");
    assert_eq!(node.crictl(&["ps", "-q"]), "", "ps without -a shows the running ones");
    assert_eq!(node.crictl(&["start", &container]).trim(), container);
    assert_eq!(state_in_ps(node, &container), "CONTAINER_RUNNING");
    assert_eq!(node.crictl(&["ps", "-q"]).trim(), container);
    (pod, container)
}

fn look(node: &Node, pod: &str, container: &str, image_id: &str) {
    let pods = json(&node.crictl(&["pods", "-o", "json", "--label", "app=session"]));
    let item = &pods["items"][0];
    assert_eq!(item["id"], pod, "{pods}");
    assert_eq!(item["state"], "SANDBOX_READY");
    assert_eq!(item["labels"], json!({"app": "session", "odd": " \u{fc} "}));
    assert_eq!(item["annotations"], json!({"note": "kept\nas it is"}));
    let others = json(&node.crictl(&["pods", "-o", "json", "--label", "app=other"]));
    assert_eq!(array(&others["items"]).len(), 0);

    let lines = eventually("the greeting", Duration::from_secs(10), || {
        let output = node.try_crictl(&["logs", container]);
        let both = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (both[0].contains("hello") && both[1].contains("oops")).then_some(both)
    });
    assert_eq!(lines, ["hello, world\n", "oops\n"]);

    // crictl adds newlines of its own.
    let exec = |args: &[&str]| node.crictl(&[&["exec", "-s", &container[..10]], args].concat());
    assert_eq!(exec(&["hostname"]).trim(), "session-host");
    assert_eq!(exec(&["sh", "-c", "echo $WHOM"]).trim(), "world");
    let failed = node.try_crictl(&["exec", "-s", container, "sh", "-c", "echo out; exit 7"]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains('7'), "{failed:?}");

    let inspect = json(&node.crictl(&["inspect", container]));
    let status = &inspect["status"];
    assert_eq!(status["state"], "CONTAINER_RUNNING", "{inspect}");
    assert_eq!(status["metadata"], json!({"name": "greeter", "attempt": 2}));
    assert_eq!(status["image"]["image"], IMAGE);
    assert_eq!(status["imageRef"], image_id);
    assert_eq!(status["imageId"], image_id);
    assert_eq!(status["labels"], json!({"tier": "front"}));
    assert_eq!(status["logPath"], node.dir().join("logs/greeter.log").to_str().unwrap());
    assert!(inspect["info"]["pid"].as_u64().unwrap() > 1, "{inspect}");

    let inspectp = json(&node.crictl(&["inspectp", pod]));
    assert_eq!(inspectp["status"]["metadata"]["attempt"], 1, "{inspectp}");
    assert!(inspectp["status"]["network"]["ip"].as_str().unwrap().starts_with("10.200."), "{inspectp}");
    assert!(inspectp["info"]["pid"].as_u64().unwrap() > 1, "{inspectp}");
}

fn end(node: &Node, pod: &str, container: &str) {
    assert_eq!(node.crictl(&["stop", "-t", "5", container]).trim(), container);
    let status = json(&node.crictl(&["inspect", container]))["status"].clone();
    assert_eq!(status["state"], "CONTAINER_EXITED");
    assert_eq!((&status["exitCode"], &status["reason"]), (&json!(3), &json!("Error")));
    assert!(node.crictl(&["logs", container]).ends_with("bye\n"));
    node.crictl(&["rm", container]);
    assert_eq!(node.crictl(&["ps", "-a", "-q"]), "");

    node.crictl(&["stopp", pod]);
    let pods = json(&node.crictl(&["pods", "-o", "json"]));
    assert_eq!(pods["items"][0]["state"], "SANDBOX_NOTREADY", "{pods}");
    node.crictl(&["rmp", pod]);
    assert_eq!(node.crictl(&["pods", "-q"]), "");
}

fn state_in_ps(node: &Node, container: &str) -> String {
    let all = json(&node.crictl(&["ps", "-a", "-o", "json"]));
    let found = array(&all["containers"]).iter().find(|found| found["id"] == container);
    found.unwrap_or_else(|| panic!("{container} is not in {all}"))["state"].as_str().unwrap().to_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
#[ignore = "needs root, crictl and the test images"]
fn images_come_and_go_without_a_registry() {
    const BUSYBOX: &str = "localhost/berth/busybox:latest";
    let node = Node::start_empty("");
    let berth = |args: &[&str]| berth_e2e::run(&mut node.berth(args));
    let ids = || node.crictl(&["images", "-q"]).lines().map(str::to_owned).collect::<Vec<_>>();
    let layouts = repository().join("hack/images/out");
    for layout in ["busybox", "web"] {
        let imported = berth(&["image", "import", layouts.join(layout).to_str().unwrap()]);
        assert!(imported.contains(&format!("localhost/berth/{layout}:latest")), "{imported}");
    }
    let list = berth(&["image", "list"]);
    assert!(list.contains("localhost/berth/busybox") && list.contains("localhost/berth/web"), "{list}");
    let both = ids();
    assert_eq!(both.len(), 2);

    let archive = node.dir().join("busybox.tar");
    berth(&["image", "export", "-o", archive.to_str().unwrap(), BUSYBOX]);
    node.crictl(&["rmi", BUSYBOX]);
    assert_eq!(ids().len(), 1);
    berth(&["image", "import", archive.to_str().unwrap()]);
    assert_eq!(std::collections::BTreeSet::from_iter(ids()), both.into_iter().collect());

    // An image in use is kept.
    let pod = node.pod("user");
    let id = pod.shell("main", "exec sleep 1000");
    berth(&["image", "prune"]);
    assert_eq!(pod.exec(&id, "echo fine"), "fine");
    pod.take_down();
    node.crictl(&["rmi", "--all"]);
    assert_eq!(ids(), [""; 0]);
}
