//! Hooks of named devices: what they see and may change, and what becomes of a container whose hook fails.

mod outside;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use berth_cri_proto::v1::{ContainerConfig, Device, Int64Value};
use berth_e2e::requests::{sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod, eventually};
use serde_json::{Value, json};

use crate::devices::{describe_devices, with_cdi};
use crate::userns::users;

/// Finds bundle and root as a vendor's program does, and makes a link in the root, with the state's word on it as
/// target.
const MAKE_LINK: &str = r#"set -e
state=$(cat)
bundle=$(echo "$state" | sed 's/.*"bundle":"\([^"]*\)".*/\1/')
root=$(sed 's/.*"path":"\([^"]*\)".*/\1/' "$bundle/config.json")
pwd >"$root/made"
ln -s "$(echo "$state" | sed 's/.*"status":"\([^"]*\)".*/\1/')-$A-$(cat "$root/etc/hostname")" "$root/opt-$1""#;

/// Describes a device `v.com/c=d` that comes with these hooks.
fn describe(node: &Node, hooks: &Value) {
    let edits = json!({
        "hooks": hooks,
        "deviceNodes": [{ "path": "/dev/gpu", "hostPath": "/dev/zero", "permissions": "r" }],
    });
    let text = json!({
        "cdiVersion": "0.6.0", "kind": "v.com/c", "devices": [{ "name": "d", "containerEdits": edits }],
    });
    fs::write(node.dir().join("low/hooks.json"), text.to_string()).unwrap();
}

fn sh(point: &str, script: &str, name: &str) -> Value {
    json!({
        "hookName": point, "path": "/bin/sh", "args": ["sh", "-c", script, "hook", name],
        "env": ["PATH=/usr/bin:/bin", "A=b"],
    })
}

#[test]
#[ignore = "needs root and the test images"]
fn hooks_find_the_root_before_it_is_changed_and_run_inside_before_the_program() {
    let node = describe_devices(Node::start());
    let pod = node.pod("hooks");
    describe(
        &node,
        &json!([
            sh("createContainer", MAKE_LINK, "one"),
            sh("startContainer", "readlink /opt-one >/tmp/seen; id -u >>/tmp/seen; cat >>/tmp/seen", ""),
            sh("createContainer", MAKE_LINK, "two"),
        ]),
    );
    let mut config = with_cdi(&["v.com/c=d"]);
    config.annotations = [("who".to_owned(), "is it".to_owned())].into();
    security(&mut config).run_as_user = Some(Int64Value { value: 1000 });
    let id = pod.create(config);
    assert!(!fs::exists(format!("/proc/{}/root/tmp/seen", pod.pid(Some(&id)))).unwrap(), "not started yet");
    pod.try_start(&id).unwrap();
    assert_eq!(pod.exec(&id, "readlink /opt-one; readlink /opt-two"), "creating-b-hooks\ncreating-b-hooks");
    assert_eq!(pod.exec(&id, "stat -c %a /made; cat /made"), "644\n/");
    let seen = pod.exec(&id, "cat /tmp/seen");
    let (words, state) = seen.split_once("\n1000\n").unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!((words, state["status"].as_str()), ("creating-b-hooks", Some("created")));
    assert_eq!((state["id"].as_str(), state["annotations"]["who"].as_str()), (Some(&*id), Some("is it")));
    assert_eq!(pod.exec(&id, "echo /opt-*"), "/opt-one /opt-two", "nothing else of theirs");

    let mut config = with_cdi(&["v.com/c=d"]);
    config.metadata.as_mut().unwrap().name = "read-only".into();
    security(&mut config).readonly_rootfs = true;
    describe(&node, &json!([sh("createContainer", MAKE_LINK, "one")]));
    let id = pod.start(config);
    assert_eq!(pod.exec(&id, "readlink /opt-one; ! touch /x 2>/dev/null"), "creating-b-hooks");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_hook_that_fails_or_hangs_fails_the_create_and_leaves_nothing() {
    let node = describe_devices(Node::start());
    let pod = node.pod("failing");
    let before = node.baseline();
    let check = |hook: Value, words: &str| {
        describe(&node, &json!([hook]));
        let error = pod.try_create(with_cdi(&["v.com/c=d"])).unwrap_err();
        assert_eq!(error.code(), tonic::Code::Internal);
        assert!(error.message().contains(words), "{}", error.message());
        node.assert_as_before(&before);
    };
    check(
        sh("createContainer", "echo no such driver >&2; exit 3", ""),
        "createContainer hook /bin/sh: exit status: 3: no such driver",
    );
    check(
        json!({ "hookName": "createContainer", "path": "/no/such/hook" }),
        "createContainer hook /no/such/hook: No such file",
    );
    let mut hanging = sh("createContainer", "sleep 1000 & echo waiting >&2; wait", "");
    hanging["timeout"] = 1.into();
    let begun = Instant::now();
    check(hanging, "createContainer hook /bin/sh: no end within 1 s: waiting");
    assert!(begun.elapsed() < Duration::from_secs(20));

    // The name is free, and a hook of the start fails the start.
    describe(&node, &json!([sh("startContainer", "echo not today >&2; exit 4", "")]));
    let id = pod.create(with_cdi(&["v.com/c=d"]));
    let error = pod.try_start(&id).unwrap_err();
    assert!(error.message().contains("startContainer hook /bin/sh: exit status: 4: not today"), "{error}");
    assert_eq!(pod.end_of(&id).reason, "StartError");
}

#[test]
#[ignore = "needs root and the test images"]
fn hooks_and_devices_work_in_a_user_namespace() {
    let node = describe_devices(Node::start());
    let mut config = node.sandbox("mapped");
    sandbox_namespaces(&mut config).userns_options = Some(users());
    let options = sandbox_namespaces(&mut config).clone();
    let pod = Pod::run(&node, config);
    describe(
        &node,
        &json!([sh("createContainer", MAKE_LINK, "one"), sh("startContainer", "id -u >/tmp/seen", ""),]),
    );
    let device = Device {
        host_path: "/dev/kmsg".into(),
        container_path: "/dev/deep/log".into(),
        permissions: "w".into(),
    };
    let mut config = ContainerConfig { devices: vec![device], ..with_cdi(&["v.com/c=d"]) };
    security(&mut config).namespace_options = Some(options);
    let id = pod.start(config.clone());
    assert_eq!(
        pod.exec(&id, "readlink /opt-one; stat -c %u /opt-one; cat /tmp/seen"),
        "creating-b-mapped\n0\n0"
    );
    assert_eq!(pod.exec(&id, "stat -c '%F %t:%T %u' /dev/gpu"), "character special file 1:5 0");
    assert_eq!(pod.exec(&id, "head -c 5 /dev/gpu | wc -c; stat -c '%t:%T' /dev/deep/log"), "5\n1:b");
    pod.exec(&id, ": >/dev/deep/log");
    assert_eq!(pod.exec(&id, "(: </dev/deep/log) 2>&1 | grep -c 'not permitted'"), "1");

    // Where everybody may walk, too.
    for directory in ["root", "root/containers"] {
        fs::set_permissions(node.dir().join(directory), PermissionsExt::from_mode(0o755)).unwrap();
    }
    config.metadata.as_mut().unwrap().name = "open".into();
    let open = pod.start(config.clone());
    assert_eq!(pod.exec(&open, "readlink /opt-one"), "creating-b-mapped");

    config.metadata.as_mut().unwrap().name = "failing".into();
    describe(&node, &json!([sh("createContainer", "exit 5", "")]));
    let before = node.baseline();
    let error = pod.try_create(config).unwrap_err();
    assert!(error.message().contains("createContainer hook /bin/sh: exit status: 5"), "{error}");
    node.assert_as_before(&before);
}

#[test]
#[ignore = "needs root and the test images"]
fn another_runtime_is_told_of_hooks_and_runs_them_at_all_points() {
    let node = describe_devices(Node::start_with("[handlers.runc]\npath = '/usr/sbin/runc'\n"));
    let pod = Pod::run_by(&node, node.sandbox("guest"), "runc");
    let trace = node.dir().join("trace");
    let note = format!("echo $1 >>{}", trace.display());
    describe(
        &node,
        &json!([
            sh("poststop", &note, "poststop"),
            sh("createRuntime", &note, "createRuntime"),
            sh("createContainer", &note, "createContainer"),
            sh("poststart", &note, "poststart"),
        ]),
    );
    let id = pod.start(with_cdi(&["v.com/c=d"]));
    pod.exec(&id, "head -c 1 /dev/gpu");
    pod.stop(&id, 0);
    let all = "createRuntime\ncreateContainer\npoststart\npoststop\n";
    eventually("all hooks to have run", Duration::from_secs(10), || {
        (fs::read_to_string(&trace).unwrap() == all).then_some(())
    });

    // No other than a runtime of one's own, and its monitor runs none of them a second time.
    let own = node.pod("own");
    fs::remove_file(&trace).unwrap();
    let id = own.start(with_cdi(&["v.com/c=d"]));
    own.stop(&id, 0);
    eventually("all hooks to have run", Duration::from_secs(10), || {
        (fs::read_to_string(&trace).unwrap() == all).then_some(())
    });
}

#[test]
#[ignore = "needs root and the test images"]
fn a_hook_at_work_when_the_agent_is_killed_goes_with_its_container() {
    let node = describe_devices(Node::start());
    let pod = node.pod("killed");
    let before = node.baseline();
    let begun = node.dir().join("begun");
    let script = format!(": >{}; exec sleep 1000", begun.display());
    describe(&node, &json!([sh("createContainer", &script, "")]));
    std::thread::scope(|scope| {
        let create = scope.spawn(|| pod.try_create(with_cdi(&["v.com/c=d"])));
        eventually("the hook to begin", Duration::from_secs(10), || begun.exists().then_some(()));
        node.kill9();
        assert!(create.join().unwrap().is_err());
    });
    fs::remove_file(begun).unwrap();
    node.restart();
    node.assert_as_before(&before.with_agent_of(&node.snapshot()));
    fs::remove_file(node.dir().join("low/hooks.json")).unwrap();
    pod.start(shell("main", "exec sleep 1000"));
}
