//! Paths that images, volumes and requests name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use berth_cri_proto::v1::*;
use berth_e2e::requests::{container, shell, volume};
use berth_e2e::{Node, run};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use tempfile::TempDir;

use super::images::{Images, Layer, image};
use super::made;

/// How often a race is run.
const RACES: usize = 25;

/// Of the host's, and nothing for a container to see or to change.
struct Outside(TempDir);

impl Outside {
    fn new() -> Self {
        let outside = Self(TempDir::new().unwrap());
        fs::write(outside.0.path().join("secret"), "the host's").unwrap();
        outside
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path that leads there from wherever it is taken to begin.
    fn climbing(&self) -> PathBuf {
        Path::new("../../../../../../..").join(self.path().strip_prefix("/").unwrap())
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.path().join("secret")).unwrap(), "the host's");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.path().to_str().unwrap()), "{mounts}");
    }
}

/// CVE-2021-30465: a place to mount on is swapped for a link, by another container, between the look and the mount.
#[test]
#[ignore = "needs root and the test images"]
fn a_directory_that_becomes_a_link_leads_no_mount_out() {
    race(|node, outside| {
        let marker = made(node.dir().join("marker"));
        fs::write(marker.join("mounted"), "").unwrap();
        (marker, outside.path().join("in"))
    });
}

/// CVE-2024-45310: the same with a file, which used to be made on the host although nothing was mounted there.
#[test]
#[ignore = "needs root and the test images"]
fn a_directory_that_becomes_a_link_has_no_file_made_outside() {
    race(|node, outside| {
        let marker = node.dir().join("marker");
        fs::write(&marker, "").unwrap();
        (marker, outside.path().join("deep/er/file"))
    });
}

/// Somebody keeps exchanging a directory and a link in a volume, while containers are made that have the volume and, below
/// that directory, what `what` says: something of the host's, and its place, given as if the link were followed.
fn race(what: impl FnOnce(&Node, &Outside) -> (PathBuf, PathBuf)) {
    let (node, outside) = (Node::start(), Outside::new());
    let pod = node.pod("race");
    let shared = made(node.dir().join("shared"));
    let [place, link] = ["place", "link"].map(|name| shared.join(name));
    fs::create_dir(&place).unwrap();
    symlink(outside.path(), &link).unwrap();
    let (marker, target) = what(&node, &outside);
    let target = Path::new("/shared/place").join(target.strip_prefix(outside.path()).unwrap());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _end = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        let mut made = 0;
        for number in 0..RACES {
            let mut config = shell(&format!("raced-{number}"), "true");
            config.mounts = vec![volume(&shared, "/shared"), volume(&marker, target.to_str().unwrap())];
            // Where the link leads to, inside, is a place as good as another; one that changes too often is refused.
            made += usize::from(pod.try_create(config).is_ok());
            outside.assert_untouched();
        }
        assert!(made > 0, "nothing was tried in earnest");
    });
}

/// Does something whatever happens before.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// CVE-2022-23648: what an image calls a volume begins as a copy of what is there, which must be in the image.
#[test]
#[ignore = "needs root and the test images"]
fn volumes_of_an_image_copy_nothing_of_the_hosts() {
    let outside = Outside::new();
    let by_name = Layer::new();
    let by_link = Layer::new().symlink("data", outside.path());
    let climbing = format!("/{}", outside.climbing().display());
    let images = Images::new().with("climbs", by_name, &json!({"Volumes": {climbing: {}}})).with(
        "links",
        by_link,
        &json!({"Volumes": {"/data": {}}}),
    );
    let node = images.node();
    let pod = node.pod("volumes");
    for name in ["climbs", "links"] {
        let config = ContainerConfig { command: sleep(), ..container(name, &image(name)) };
        let id = pod.start(config);
        let own = node.dir().join("root/containers").join(&id).join("volumes");
        let copied = run(Command::new("find").arg(&own).args(["-type", "f"]));
        assert!(own.is_dir() && copied.is_empty(), "{name}: {copied}");
        outside.assert_untouched();
    }
}

/// What a part of an image is shown as a volume is found in that image, whatever its links say.
#[test]
#[ignore = "needs root and the test images"]
fn a_directory_of_an_image_is_not_one_of_the_hosts() {
    let outside = Outside::new();
    let layer = Layer::new().symlink("absolute", outside.path()).symlink("climbing", &outside.climbing());
    let images = Images::new().with("links", layer, &json!({}));
    let node = images.node();
    let pod = node.pod("parts");
    for link in ["absolute", "climbing"] {
        let mut config = shell(link, "exec sleep 1000");
        let shown = ImageSpec { image: image("links"), ..ImageSpec::default() };
        config.mounts = vec![Mount {
            container_path: "/shown".into(),
            readonly: true,
            image: Some(shown),
            image_sub_path: link.into(),
            ..Mount::default()
        }];
        let refused = pod.try_create(config).unwrap_err();
        assert!(refused.message().contains("No such file or directory"), "{refused}");
    }
}

/// Layers that name what is outside of them, in every way that a tar has: refused, or kept inside. More of these are in
/// the image crate's own tests.
#[test]
#[ignore = "needs root and the test images"]
fn layers_make_and_change_nothing_outside() {
    let outside = Outside::new();
    let secret = outside.path().join("secret");
    let (away, climbing) = (outside.path(), outside.climbing());
    let inside = |name: &str| format!("link/{name}");
    let layers = [
        ("dots", Layer::new().file("../../../../../../../../tmp/berth-escaped", b"x"), false),
        ("absolute", Layer::new().file("/berth-escaped", b"x"), true),
        ("link", Layer::new().symlink("link", away).file(&inside("secret"), b"x"), false),
        ("hard-link", Layer::new().hard_link("got", &secret), false),
        ("hard-link-up", Layer::new().hard_link("got", &climbing.join("secret")), false),
        ("over-link", Layer::new().symlink("got", &secret).file("got", b"x"), true),
        ("whiteout", Layer::new().symlink("link", away).file(&inside(".wh.secret"), b""), false),
        ("opaque", Layer::new().symlink("link", &climbing).file(&inside(".wh..wh..opq"), b""), false),
    ];
    let mut images = Images::new();
    let mut wanted = Vec::new();
    for (name, layer, is_kept) in layers {
        images = images.with(name, layer, &json!({}));
        wanted.push((name, is_kept));
    }
    let node = images.node();
    for (name, is_kept) in wanted {
        let image = Some(ImageSpec { image: image(name), ..ImageSpec::default() });
        let status = node.cri().image_status(ImageStatusRequest { image, verbose: false }).unwrap();
        assert_eq!(status.image.is_some(), is_kept, "{name}");
    }
    assert!(["/berth-escaped", "/tmp/berth-escaped"].iter().all(|path| !Path::new(path).exists()));
    outside.assert_untouched();
}

/// A container that can write where its pod's logs are plants a link in place of another's log, or of the directory for
/// it, or names such a path itself.
#[test]
#[ignore = "needs root and the test images"]
fn logs_are_written_where_their_pod_has_them() {
    let (node, outside) = (Node::start(), Outside::new());
    let pod = node.pod("logs");
    let logs = PathBuf::from(&pod.config.log_directory);
    let mut planter = shell("planter", "exec sleep 1000");
    planter.mounts = vec![volume(&logs, "/logs")];
    let planter = pod.start(planter);
    let away = outside.path().display();
    pod.exec(&planter, &format!("ln -s {away} /logs/away; ln -s {away}/secret /logs/file.log"));
    pod.exec(&planter, "mkdir /logs/deep; ln -s ../away /logs/deep/er");
    for path in ["file.log", "away/0.log", "away/deep/0.log", "deep/er/0.log"] {
        let mut config = shell("victim", "echo written");
        config.log_path = path.into();
        let refused = pod.try_create(config).unwrap_err();
        assert!(refused.message().contains("log"), "{path}: {refused}");
        outside.assert_untouched();
    }
    // Also when it is planted later, and the log is opened anew.
    let mut config = shell("later", "exec sleep 1000");
    config.log_path = "later/0.log".into();
    let later = pod.start(config);
    pod.exec(&planter, "mv /logs/later /logs/former; ln -s away /logs/later");
    let reopened = node.cri().reopen_container_log(ReopenContainerLogRequest { container_id: later });
    assert!(reopened.is_err());
    outside.assert_untouched();
}

fn sleep() -> Vec<String> {
    ["sleep", "1000"].map(str::to_owned).into()
}
