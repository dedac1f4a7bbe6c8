//! Images as volumes, and the volumes that images ask for.

use std::fs;

use berth_cri_proto::v1::*;
use berth_e2e::requests::{BUSYBOX, VOLUMES, WEB, container, sandbox_namespaces, security, shell};
use berth_e2e::{Node, Pod, repository};
use tonic::Code;

#[test]
#[ignore = "needs root and the test images"]
fn an_image_is_mounted_read_only_and_its_status_says_which() {
    let node = Node::start();
    let pod = node.pod("image");
    let mut config = shell("main", "exec sleep 1000");
    config.mounts = vec![image(WEB, "/web", ""), image(WEB, "/www", "www"), image(BUSYBOX, "/box", "bin/.")];
    let id = pod.start(config);
    assert_eq!(pod.exec(&id, "cat /web/www/index.html /www/index.html"), "hello from web\nhello from web");
    // Of several layers, what an upper one removed is gone; of a single one, programs run.
    pod.exec(&id, "test -e /web/bin/sh && ! test -e /web/etc/motd && /box/busybox true");
    pod.exec(&id, "! touch /web/x && ! touch /www/index.html && ! mkdir /box/x");

    let id_of = |image: &str| {
        let image = Some(ImageSpec { image: image.into(), ..ImageSpec::default() });
        node.cri().image_status(ImageStatusRequest { image, verbose: false }).unwrap().image.unwrap().id
    };
    let mounts = pod.status(&id).mounts;
    let refs: Vec<&str> =
        mounts.iter().map(|mount| mount.image.as_ref().unwrap().image_ref.as_str()).collect();
    assert_eq!(refs, [id_of(WEB), id_of(WEB), id_of(BUSYBOX)]);
    assert_eq!(
        (mounts[1].image_sub_path.as_str(), mounts[1].readonly, mounts[1].host_path.as_str()),
        ("www", true, "")
    );

    // It is kept while a container has it, also by an agent that comes later.
    let remove = || {
        let image = Some(ImageSpec { image: WEB.into(), ..ImageSpec::default() });
        node.cri().remove_image(RemoveImageRequest { image })
    };
    assert_eq!(remove().unwrap_err().code(), Code::FailedPrecondition);
    node.kill9();
    node.restart();
    assert_eq!(remove().unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(pod.status(&id).mounts, mounts);
    node.cri().remove_container(RemoveContainerRequest { container_id: id }).unwrap();
    remove().unwrap();
    import_web(&node);
}

#[test]
#[ignore = "needs root and the test images"]
fn image_volumes_that_can_not_be_had_are_told_to_the_kubelet() {
    let node = Node::start();
    let pod = node.pod("refused");
    let check = |mount: Mount, code, want: &str| {
        let config = ContainerConfig { mounts: vec![mount], ..shell("refused", "true") };
        let refused = pod.try_create(config).unwrap_err();
        assert!(refused.message().contains(want), "{refused}");
        assert_eq!(refused.code(), code, "{refused}");
    };
    check(image("localhost/berth/none:1", "/x", ""), Code::NotFound, "ImageVolumeMountFailed: ");
    check(image(WEB, "/x", "not/there"), Code::InvalidArgument, "ImageVolumeMountFailed: ");
    check(
        image(WEB, "/x", "www/index.html"),
        Code::InvalidArgument,
        "www/index.html of the image: Not a directory",
    );
    check(image(WEB, "/x", "../etc"), Code::InvalidArgument, "image_sub_path: \"../etc\" leads upwards");
    check(Mount { readonly: false, ..image(WEB, "/x", "") }, Code::InvalidArgument, "mounted read-only");
    check(
        Mount { host_path: "/etc".into(), ..image(WEB, "/x", "") },
        Code::InvalidArgument,
        "together with an image",
    );
    // Nothing is held for what was refused.
    let web = Some(ImageSpec { image: WEB.into(), ..ImageSpec::default() });
    node.cri().remove_image(RemoveImageRequest { image: web }).unwrap();
    import_web(&node);
}

#[test]
#[ignore = "needs root and the test images"]
fn volumes_of_an_image_begin_as_what_it_has_there() {
    let node = Node::start();
    let pod = node.pod("volumes");
    let request =
        |name: &str| ContainerConfig { command: command("exec sleep 1000"), ..container(name, VOLUMES) };
    let id = pod.start(request("main"));
    let facts = "stat -c '%n %u %a' /data /home/web /www /www/index.html; readlink /www/start.html; cat /www/start.html";
    let want =
        "/data 0 755\n/home/web 1000 755\n/www 0 755\n/www/index.html 0 644\nindex.html\nhello from web";
    assert_eq!(pod.exec(&id, facts), want);
    assert_eq!(pod.exec(&id, "grep -c -E ' /(data|home/web|www) ' /proc/mounts"), "3");

    // They are the container's own: writable where its root is not, outside of its layer, and gone with it.
    let mut read_only = request("read-only");
    security(&mut read_only).readonly_rootfs = true;
    let other = pod.start(read_only);
    pod.exec(&other, "echo changed >/www/index.html; ! touch /etc/x");
    assert_eq!(pod.exec(&id, "cat /www/index.html"), "hello from web");
    let directory = node.dir().join("root/containers").join(&other);
    assert!(!directory.join("upper/www/index.html").exists());
    node.cri().remove_container(RemoveContainerRequest { container_id: other }).unwrap();
    assert!(!directory.exists());

    // What the request mounts there comes first.
    let host = node.dir().join("www");
    fs::create_dir(&host).unwrap();
    let mut covered = request("covered");
    covered.mounts = vec![Mount {
        host_path: host.to_str().unwrap().into(),
        container_path: "/www/".into(),
        ..Mount::default()
    }];
    let covered = pod.start(covered);
    assert_eq!(pod.exec(&covered, "ls /www; touch /www/new; grep -c ' /www ' /proc/mounts"), "1");
    assert!(host.join("new").exists());
}

#[test]
#[ignore = "needs root and the test images"]
fn volumes_of_an_image_can_be_done_without() {
    let node = Node::start_with_images("ignore_volumes = true");
    let pod = node.pod("none");
    let id = pod.start(ContainerConfig { command: command("exec sleep 1000"), ..container("main", VOLUMES) });
    pod.exec(&id, "! test -e /data && ! grep ' /www ' /proc/mounts && cat /www/index.html");
}

#[test]
#[ignore = "needs root and the test images"]
fn both_are_roots_in_a_user_namespace() {
    let node = Node::start();
    let mapping = vec![IdMapping { container_id: 0, host_id: 200_000, length: 65_536 }];
    let mut config = node.sandbox("mapped");
    let options = sandbox_namespaces(&mut config);
    options.userns_options =
        Some(UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping.clone(), gids: mapping });
    let options = options.clone();
    let pod = Pod::run(&node, config);
    let mut config = ContainerConfig { command: command("exec sleep 1000"), ..container("main", VOLUMES) };
    security(&mut config).namespace_options = Some(options);
    config.mounts = vec![image(WEB, "/image", ""), image(BUSYBOX, "/box", "etc")];
    let id = pod.start(config);
    let facts = "stat -c %u /image/www/index.html /box/passwd /home/web /www/index.html /data";
    assert_eq!(pod.exec(&id, facts), "0\n0\n1000\n0\n0");
    pod.exec(&id, "touch /www/x /home/web/x /data/x; ! touch /image/x");
}

fn image(image: &str, target: &str, sub_path: &str) -> Mount {
    Mount {
        container_path: target.into(),
        readonly: true,
        image: Some(ImageSpec { image: image.into(), ..ImageSpec::default() }),
        image_sub_path: sub_path.into(),
        ..Mount::default()
    }
}

/// Brings back what a test has removed: a node ends as it began.
fn import_web(node: &Node) {
    let layout = repository().join("hack/images/out/web");
    assert!(node.berth(&["image", "import", layout.to_str().unwrap()]).status().unwrap().success());
}

fn command(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).into()
}
