//! Devices of the host: what a container is given, and that it gets no further.

use std::fs;
use std::process::Command;

use berth_cri_proto::v1::{CdiDevice, ContainerConfig, Device, Int64Value};
use berth_e2e::requests::{privileged, sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod};

use crate::userns::users;

/// A container that waits, with these devices.
fn with_devices(devices: &[(&str, &str, &str)]) -> ContainerConfig {
    let device = |&(host_path, container_path, permissions): &(&str, &str, &str)| Device {
        host_path: host_path.into(),
        container_path: container_path.into(),
        permissions: permissions.into(),
    };
    ContainerConfig { devices: devices.iter().map(device).collect(), ..shell("main", "exec sleep 1000") }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_device_appears_where_it_was_asked_for_and_can_be_used_as_was_asked() {
    let node = Node::start();
    let pod = node.pod("devices");
    let id = pod.start(with_devices(&[
        ("/dev/zero", "/dev/deep/nothing", ""),
        ("/dev/kmsg", "/dev/log-of-the-kernel", "w"),
        ("/dev/zero", "/opt/outside", "r"),
    ]));
    assert_eq!(pod.exec(&id, "stat -c '%F %t:%T' /dev/deep/nothing"), "character special file 1:5");
    assert_eq!(pod.exec(&id, "cat /dev/deep/nothing /opt/outside | head -c 9 | wc -c"), "9");
    pod.exec(&id, ": >/dev/log-of-the-kernel");
    assert_eq!(pod.exec(&id, "(: </dev/log-of-the-kernel) 2>&1 | grep -c 'not permitted'"), "1");
    // Of what no rule speaks a node can be made, and not opened.
    assert_eq!(
        pod.exec(&id, "mknod /tmp/memory c 1 1 && (: </tmp/memory) 2>&1 | grep -c 'not permitted'"),
        "1"
    );
    assert_eq!(pod.exec(&id, "mknod /tmp/loop b 7 0 && (: </tmp/loop) 2>&1 | grep -c 'not permitted'"), "1");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_directory_brings_all_devices_in_it() {
    let node = Node::start();
    let pod = node.pod("directory");
    let directory = node.dir().join("devices");
    fs::create_dir_all(directory.join("deep")).unwrap();
    fs::write(directory.join("file"), "").unwrap();
    for (name, minor) in [("null", "3"), ("deep/zero", "5")] {
        let made = Command::new("mknod").arg(directory.join(name)).args(["c", "1", minor]).status().unwrap();
        assert!(made.success());
    }
    std::os::unix::fs::symlink("devices", node.dir().join("link")).unwrap();
    let link = node.dir().join("link");
    let id = pod.start(with_devices(&[(link.to_str().unwrap(), "/dev/ours", "rw")]));
    assert_eq!(pod.exec(&id, "cd /dev/ours && find . | sort"), ".\n./deep\n./deep/zero\n./null");
    assert_eq!(pod.exec(&id, "head -c 5 /dev/ours/deep/zero | wc -c"), "5");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_device_that_is_none_fails_the_create_by_name_and_leaves_nothing() {
    let node = Node::start();
    let pod = node.pod("missing");
    let before = node.baseline();
    for (path, want) in [("/dev/no-such-device", "No such file"), ("/etc/passwd", "neither a device nor")] {
        let error = pod.try_create(with_devices(&[(path, "/dev/x", "")])).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains(path) && error.message().contains(want), "{}", error.message());
    }
    node.assert_as_before(&before);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_privileged_container_sees_every_device_of_the_host() {
    let node = Node::start();
    let pod = Pod::privileged(&node, "privileged");
    let id = pod.start(privileged(shell("main", "exec sleep 1000")));
    let list =
        "cd /dev && find . \\( -type c -o -type b \\) ! -path './pts/*' ! -name console ! -name ptmx | sort";
    let host = Command::new("sh").args(["-c", list]).output().unwrap();
    assert_eq!(pod.exec(&id, list), String::from_utf8(host.stdout).unwrap().trim_end());
    assert_eq!(pod.exec(&id, ": >/dev/kmsg && readlink /dev/ptmx"), "pts/ptmx");
}

/// A node whose devices are described in two directories of its own, and belong to who asks for them.
fn with_specifications() -> Node {
    describe_devices(Node::start())
}

/// Makes a node look for descriptions of devices in two directories of its own, `low` and `high`.
pub(crate) fn describe_devices(node: Node) -> Node {
    let directories = ["low", "high"].map(|name| node.dir().join(name));
    directories.iter().for_each(|directory| fs::create_dir(directory).unwrap());
    let [low, high] = directories.map(|directory| directory.display().to_string());
    let settings = format!(
        "\n[devices]\ncdi_directories = ['{low}', '{high}']\nownership_from_security_context = true\n"
    );
    let config = node.dir().join("config.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + &settings).unwrap();
    node.stop();
    node.restart();
    node
}

/// A container that waits, with devices by their names.
pub(crate) fn with_cdi(names: &[&str]) -> ContainerConfig {
    let names = names.iter().map(|name| CdiDevice { name: (*name).into() });
    ContainerConfig { cdi_devices: names.collect(), ..shell("main", "exec sleep 1000") }
}

#[test]
#[ignore = "needs root and the test images"]
fn a_named_device_brings_all_that_its_specification_says() {
    let node = with_specifications();
    let pod = node.pod("cdi");
    let library = node.dir().join("library");
    fs::write(&library, "from the driver").unwrap();
    let specification = format!(
        "cdiVersion: 0.7.0\nkind: vendor.com/gpu\ncontainerEdits: {{env: [GPUS=some]}}\ndevices:\n\
         - name: \"0\"\n  containerEdits:\n    env: [GPU=0]\n    additionalGids: [4711]\n    deviceNodes:\n    \
         - {{path: /dev/gpu0, hostPath: /dev/kmsg, permissions: w, fileMode: 0640}}\n    mounts:\n    \
         - {{hostPath: {}, containerPath: /usr/lib/gpu, options: [ro, nosuid]}}\n",
        library.display()
    );
    fs::write(node.dir().join("low/gpu.yaml"), specification).unwrap();
    let other = r#"{"cdiVersion": "1.0.0", "kind": "vendor.com/net",
        "devices": [{"name": "a", "containerEdits": {"env": ["NET=a"]}}]}"#;
    fs::write(node.dir().join("low/net.json"), other).unwrap();

    let mut config = with_cdi(&["vendor.com/gpu=0"]);
    config.annotations =
        [("cdi.k8s.io/net".to_owned(), "vendor.com/net=a,vendor.com/gpu=0".to_owned())].into();
    let user = security(&mut config);
    (user.run_as_user, user.run_as_group) =
        (Some(Int64Value { value: 1000 }), Some(Int64Value { value: 50 }));
    let id = pod.start(config.clone());
    assert_eq!(pod.exec(&id, "echo $GPUS $GPU $NET; cat /usr/lib/gpu"), "some 0 a\nfrom the driver");
    assert_eq!(
        pod.exec(&id, "stat -c '%F %t:%T %u:%g %a' /dev/gpu0"),
        "character special file 1:b 1000:50 640"
    );
    assert!(pod.exec(&id, "id -G").split(' ').any(|group| group == "4711"));
    pod.exec(&id, ": >/dev/gpu0; ! echo x 2>/dev/null >/usr/lib/gpu");
    assert_eq!(pod.exec(&id, "(: </dev/gpu0) 2>&1 | grep -c 'not permitted'"), "1");

    // A later directory wins, and files are read as they are now.
    let newer = other.replace("NET=a", "NET=new");
    fs::write(node.dir().join("high/net.json"), newer).unwrap();
    config.metadata.as_mut().unwrap().name = "second".into();
    let second = pod.start(config);
    assert_eq!(pod.exec(&second, "echo $NET"), "new");
}

#[test]
#[ignore = "needs root and the test images"]
fn a_named_pipe_comes_with_its_device() {
    let node = describe_devices(Node::start_with("[handlers.runc]\npath = '/usr/sbin/runc'\n"));
    let fifo = node.dir().join("host-fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let edits = serde_json::json!({ "deviceNodes": [
        { "path": "/dev/deep/pipe", "type": "p", "fileMode": 0o620, "uid": 7, "gid": 8 },
        { "path": "/dev/found", "hostPath": fifo },
        { "path": "/dev/gpu", "hostPath": "/dev/zero" },
    ] });
    let text = serde_json::json!({
        "cdiVersion": "0.6.0", "kind": "v.com/c", "devices": [{ "name": "d", "containerEdits": edits }],
    });
    fs::write(node.dir().join("low/fifo.json"), text.to_string()).unwrap();
    let check = |pod: &Pod<'_>, config: ContainerConfig| {
        let id = pod.start(config);
        assert_eq!(
            pod.exec(&id, "stat -c '%F %a %u:%g' /dev/deep/pipe /dev/found"),
            "fifo 620 7:8\nfifo 666 0:0"
        );
        assert_eq!(pod.exec(&id, "(echo through >/dev/found &) && cat /dev/found"), "through");
        assert_eq!(pod.exec(&id, "stat -c %F /dev/gpu"), "character special file");
    };
    check(&node.pod("own"), with_cdi(&["v.com/c=d"]));
    check(&Pod::run_by(&node, node.sandbox("guest"), "runc"), with_cdi(&["v.com/c=d"]));

    let mut sandbox = node.sandbox("mapped");
    sandbox_namespaces(&mut sandbox).userns_options = Some(users());
    let options = sandbox_namespaces(&mut sandbox).clone();
    let mut config = with_cdi(&["v.com/c=d"]);
    security(&mut config).namespace_options = Some(options);
    check(&Pod::run(&node, sandbox), config);
}

#[test]
#[ignore = "needs root and the test images"]
fn a_named_device_that_cannot_be_had_fails_the_create_and_says_why() {
    let node = with_specifications();
    let pod = node.pod("broken");
    let before = node.baseline();
    let check = |name: &str, words: &[&str]| {
        let error = pod.try_create(with_cdi(&[name])).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        for word in words {
            assert!(error.message().contains(word), "{}", error.message());
        }
    };
    check(
        "vendor.com/gpu=0",
        &["CDI device vendor.com/gpu=0: no specification in ", "/low, ", "/high describes it"],
    );
    let place = |name: &str| node.dir().join("low").join(name);
    std::os::unix::fs::symlink("loop.json", place("loop.json")).unwrap();
    check("vendor.com/gpu=0", &["loop.json", "symbolic links"]);
    fs::remove_file(place("loop.json")).unwrap();
    fs::write(place("a.json"), "{\"cdiVersion\": \"0.5.0\", \"kind\": 7}").unwrap();
    check("vendor.com/gpu=0", &["a.json", "invalid type: integer `7`"]);
    fs::remove_file(place("a.json")).unwrap();
    let device = |edits: &str| {
        format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "v.com/c", "devices": [{{"name": "d", "containerEdits": {edits}}}]}}"#
        )
    };
    for (edits, words) in [
        (r#"{"deviceNodes": [{"path": "/dev/no-such"}]}"#, ["/dev/no-such", "No such file"]),
        (
            r#"{"mounts": [{"hostPath": "/no-such", "containerPath": "/x"}]}"#,
            ["CDI mount of /no-such", "No such file"],
        ),
        (r#"{"intelRdt": {"closID": "x"}}"#, ["c.json asks for intelRdt", "not supported"]),
    ] {
        fs::write(place("c.json"), device(edits)).unwrap();
        check("v.com/c=d", &words);
    }
    fs::write(place("d.json"), device("{}")).unwrap();
    check("v.com/c=d", &["CDI device v.com/c=d: both ", "c.json and ", "d.json describe it"]);
    node.assert_as_before(&before);
}
