//! Images as they come and go, seen with other tools: a real registry, a lying one, archives, hostile layers.
//!
//! Everything happens in temporary directories and on loopback. Root is needed for owners, devices and the
//! attributes of overlayfs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::HashMap, path::Path, process::Command};

use berth_image::{Auth, Error, HostConfig, ImageStore, PullRequest, RegistryConfig};
use berth_store::ErrorKind;
use support::{
    Fixture,
    image::{Compression, Layer, TestImage, manifest},
    liar::{Liar, Reply, blob_path},
    registry::{Registry, free_port, plain_http},
    run, stat,
};
use tar::EntryType;

async fn pull(images: &ImageStore, reference: &str) -> Result<String, Error> {
    let request = PullRequest {
        reference: reference.to_owned(),
        auth: None,
    };
    images.pull(&request).await.map(|id| id.to_string())
}

/// An error with all its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn du(path: &Path) -> (u64, u64) {
    let count = |arguments: &[&str]| -> u64 {
        let printed = run(Command::new("du").arg("-s").args(arguments).arg(path));
        printed.split_whitespace().next().unwrap().parse().unwrap()
    };
    (count(&["-B1"]), count(&["--inodes"]))
}

/// Imports one layer and gives the directory that it was unpacked to.
async fn import_layers(fixture: &Fixture, layers: &[Vec<u8>]) -> Result<Vec<std::path::PathBuf>, Error> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| (layer.clone(), Compression::Plain))
        .collect();
    let path = fixture.dir.path().join("archive.tar");
    TestImage::new(&layers).docker_archive(&path, Some("test:1"));
    let images = fixture.images.import(&path).await?;
    Ok(fixture.images.rootfs_layers(&images[0]))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry"]
async fn an_image_is_pulled_by_tag_and_by_digest_and_is_gone_after_removal() {
    let registry = Registry::start().await;
    let image = TestImage::small("hello\n");
    registry.push("app", "v1", &image).await;
    let fixture = Fixture::new(registry.config()).await;
    let empty = fixture.images.fs_info();
    let name = format!("{}/app", registry.host);

    assert_eq!(
        pull(&fixture.images, &format!("{name}@{}", image.digest()))
            .await
            .unwrap(),
        image.id()
    );
    let pulled = fixture.images.find(&image.id()).unwrap().unwrap();
    assert_eq!(pulled.repo_digests, [format!("{name}@{}", image.digest())]);
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(
        pull(&fixture.images, &format!("{name}:v1")).await.unwrap(),
        image.id()
    );
    let pulled = fixture.images.find(&format!("{name}:v1")).unwrap().unwrap();
    assert_eq!(pulled.repo_tags, [format!("{name}:v1")]);
    assert_eq!(pulled.config.user, "web:www");
    let layers = fixture.images.rootfs_layers(&pulled);
    assert_eq!(
        run(Command::new("cat")
            .arg(layers[0].join("hello"))
            .arg(layers[1].join("etc/motd"))),
        "hello\nbase"
    );
    assert_eq!(
        stat("%u:%g %a %Y", &layers[0].join("hello")),
        "1000:2000 755 1000000000"
    );

    let usage = fixture.images.fs_info();
    assert_eq!((usage.used_bytes, usage.inodes_used), du(&usage.mountpoint));
    let fixture = fixture.restarted().await;
    assert_eq!(fixture.images.fs_info(), usage);
    let pulled = fixture.images.find(&format!("{name}:v1")).unwrap().unwrap();

    fixture.images.pin(&pulled.id, "container-1").unwrap();
    let error = fixture.images.remove(&format!("{name}:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert!(error.to_string().contains("container-1"));
    fixture.images.unpin("container-1");
    fixture.images.remove(&format!("{name}:v1")).await.unwrap();
    fixture.images.remove(&format!("{name}:v1")).await.unwrap();
    assert!(fixture.images.list().is_empty());
    assert_eq!(fixture.leftovers(), "");
    assert_eq!(fixture.images.fs_info().inodes_used, empty.inodes_used);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry"]
async fn an_index_is_followed_to_this_machine_and_a_tag_moves() {
    let registry = Registry::start().await;
    let (ours, theirs, newer) = (
        TestImage::small("ours"),
        TestImage::small("theirs"),
        TestImage::small("newer"),
    );
    let machine = berth_image::Platform::of_this_machine().architecture;
    let index = registry
        .push_index("app", "latest", &[("s390x", &theirs), (&machine, &ours)])
        .await;
    let fixture = Fixture::new(registry.config()).await;
    let name = format!("{}/app", registry.host);
    assert_eq!(pull(&fixture.images, &name).await.unwrap(), ours.id());
    let pulled = fixture.images.find(&name).unwrap().unwrap();
    assert_eq!(pulled.repo_digests, [format!("{name}@{index}")]);

    registry.push("app", "latest", &newer).await;
    assert_eq!(pull(&fixture.images, &name).await.unwrap(), newer.id());
    assert_eq!(
        fixture.images.find(&name).unwrap().unwrap().id.to_string(),
        newer.id()
    );
    let older = fixture.images.find(&ours.id()).unwrap().unwrap();
    assert!(older.repo_tags.is_empty());
    // The two share their base, which goes with the second of them.
    fixture.images.remove(&ours.id()).await.unwrap();
    let kept = fixture.images.find(&name).unwrap().unwrap();
    assert!(
        fixture
            .images
            .rootfs_layers(&kept)
            .iter()
            .all(|layer| layer.exists())
    );
    let usage = fixture.images.fs_info();
    assert_eq!((usage.used_bytes, usage.inodes_used), du(&usage.mountpoint));
    assert_eq!(fixture.images.prune().await.unwrap().len(), 1);
    assert_eq!(fixture.leftovers(), "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry"]
async fn credentials_are_wanted_taken_and_refused() {
    let registry = Registry::start_protected().await;
    let image = TestImage::small("secret");
    registry.push("app", "latest", &image).await;
    let fixture = Fixture::new(registry.config()).await;
    let reference = format!("{}/app", registry.host);
    let basic = |password: &str| Auth::Basic {
        username: "user".into(),
        password: password.into(),
    };
    let request = |auth| PullRequest {
        reference: reference.clone(),
        auth,
    };
    assert!(
        fixture
            .images
            .pull(&request(None))
            .await
            .unwrap_err()
            .to_string()
            .contains("a user and a password")
    );
    let error = fixture
        .images
        .pull(&request(Some(basic("wrong"))))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(fixture.leftovers(), "");
    fixture
        .images
        .pull(&request(Some(basic("secret"))))
        .await
        .unwrap();

    let mut config = registry.config();
    let settings = config.hosts.get_mut(&registry.host).unwrap();
    (settings.username, settings.password) = (Some("user".into()), Some("secret".into()));
    let fixture = Fixture::new(config).await;
    pull(&fixture.images, &reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn a_token_is_fetched_for_the_scope_and_used() {
    let liar = Liar::start().await;
    let image = TestImage::small("token");
    liar.serve("app", "latest", &image);
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", liar.host);
    let guard = |body: &[u8]| Reply::Guarded {
        challenge: challenge.clone(),
        authorization: "Bearer T".into(),
        body: body.to_vec(),
    };
    liar.reply("/v2/app/manifests/latest", guard(&image.manifest));
    for blob in image.layers.iter().chain([&image.config]) {
        liar.reply(&blob_path("app", blob), guard(blob));
    }
    liar.reply("/token", Reply::Body(br#"{"token":"T"}"#.to_vec()));
    let fixture = Fixture::new(plain_http(&[&liar.host])).await;
    pull(&fixture.images, &format!("{}/app", liar.host))
        .await
        .unwrap();
    let tokens: Vec<_> = liar
        .requests()
        .into_iter()
        .filter(|path| path.starts_with("/token"))
        .collect();
    assert_eq!(tokens, ["/token?service=s&scope=repository%3Aapp%3Apull"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn a_registry_that_lies_leaves_nothing_behind() {
    let liar = Liar::start().await;
    let image = TestImage::small("true");
    let (layer, path) = (&image.layers[1], blob_path("app", &image.layers[1]));
    let other = TestImage::small("lie");
    let fixture = Fixture::new(plain_http(&[&liar.host])).await;
    let reference = format!("{}/app", liar.host);
    let check = async |path: &str, reply: Reply, expected: &str, kind: ErrorKind| {
        liar.serve("app", "latest", &image);
        liar.reply(path, reply);
        let error = pull(&fixture.images, &reference).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains(expected), "{expected}: {text}");
        assert_eq!(error.kind(), kind, "{text}");
        assert!(fixture.images.list().is_empty());
        assert_eq!(fixture.leftovers(), "", "{text}");
    };
    let mut wrong = layer.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    check(
        &path,
        Reply::Body(wrong),
        "expected sha256:",
        ErrorKind::Unavailable,
    )
    .await;
    check(
        &path,
        Reply::Body(other.layers[1].clone()),
        "expected",
        ErrorKind::Unavailable,
    )
    .await;
    check(
        &path,
        Reply::Body(layer[1..].to_vec()),
        "bytes, got",
        ErrorKind::Unavailable,
    )
    .await;
    check(
        &path,
        Reply::Body([&layer[..], b"x"].concat()),
        "bytes, got",
        ErrorKind::Unavailable,
    )
    .await;
    check(
        &path,
        Reply::Hang(layer.clone(), 10),
        "unpack layer",
        ErrorKind::DeadlineExceeded,
    )
    .await;
    check(
        &blob_path("app", &image.config),
        Reply::Body(other.config.clone()),
        "expected",
        ErrorKind::Unavailable,
    )
    .await;
    check(
        "/v2/app/manifests/latest",
        Reply::Body(vec![b' '; 5 << 20]),
        "limit",
        ErrorKind::Invalid,
    )
    .await;
    check(
        "/v2/app/manifests/latest",
        Reply::Body(b"<html>".to_vec()),
        "parse",
        ErrorKind::Invalid,
    )
    .await;
    // A config that promises another tar than the one that is there.
    let lying = TestImage {
        manifest: manifest(&image.config, &[image.layers[0].clone(), other.layers[1].clone()]),
        config: image.config.clone(),
        layers: vec![image.layers[0].clone(), other.layers[1].clone()],
    };
    liar.serve("lying", "latest", &lying);
    let error = pull(&fixture.images, &format!("{}/lying", liar.host))
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("verify unpacked layer"),
        "{}",
        chain(&error)
    );
    let error = pull(&fixture.images, &format!("{}/absent", liar.host))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no such thing"), "{error}");
    assert_eq!(fixture.leftovers(), "");

    let fixture = Fixture::new(RegistryConfig {
        connect_timeout_seconds: 1,
        ..plain_http(&[])
    })
    .await;
    let error = pull(&fixture.images, &format!("127.0.0.1:{}/app", free_port()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn an_interrupted_blob_is_continued_where_it_broke() {
    let liar = Liar::start().await;
    let noise: Vec<u8> = (0..200_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let image = TestImage::new(&[(
        Layer::new().file("noise", 0o644, &noise).finish(),
        Compression::Plain,
    )]);
    liar.serve("app", "latest", &image);
    let path = blob_path("app", &image.layers[0]);
    liar.reply(&path, Reply::Cut(image.layers[0].clone(), 300_000));
    let fixture = Fixture::new(plain_http(&[&liar.host])).await;
    pull(&fixture.images, &format!("{}/app", liar.host))
        .await
        .unwrap();
    assert!(liar.requests().iter().filter(|request| **request == path).count() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn mirrors_come_first_and_the_registry_when_they_fail() {
    let (dead, liar, good, origin) = (
        format!("127.0.0.1:{}", free_port()),
        Liar::start().await,
        Liar::start().await,
        Liar::start().await,
    );
    let (image, other) = (TestImage::small("mirrored"), TestImage::small("other"));
    good.serve("cache/app", "latest", &image);
    let path = format!("/v2/app/manifests/{}", image.digest());
    liar.reply(&path, Reply::Body(other.manifest.clone()));
    let mirrors = vec![
        dead.clone(),
        liar.host.clone(),
        format!("http://{}/cache", good.host),
    ];
    let mut config = plain_http(&[&dead, &liar.host, &origin.host]);
    config.hosts.get_mut(&origin.host).unwrap().mirrors = mirrors;
    let fixture = Fixture::new(config).await;
    let reference = format!("{}/app", origin.host);
    assert_eq!(pull(&fixture.images, &reference).await.unwrap(), image.id());
    assert!(origin.requests().is_empty());
    assert!(fixture.images.find(&reference).unwrap().is_some());

    origin.serve("direct", "latest", &other);
    assert_eq!(
        pull(&fixture.images, &format!("{}/direct", origin.host))
            .await
            .unwrap(),
        other.id()
    );
    // A mirror may hold old tags, but it cannot pass anything off under a digest.
    good.serve("cache/app", "latest", &other);
    good.reply(
        &path.replace("app", "cache/app"),
        Reply::Body(other.manifest.clone()),
    );
    origin.serve("app", "latest", &image);
    let by_digest = format!("{reference}@{}", image.digest());
    assert_eq!(pull(&fixture.images, &by_digest).await.unwrap(), image.id());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn equal_pulls_are_one_and_nobody_who_hangs_up_ends_them() {
    let liar = Liar::start().await;
    let (image, sibling) = (TestImage::small("a"), TestImage::small("b"));
    liar.serve("app", "latest", &image);
    liar.serve("sibling", "latest", &sibling);
    let fixture = Fixture::new(plain_http(&[&liar.host])).await;
    let (app, other) = (format!("{}/app", liar.host), format!("{}/sibling", liar.host));
    {
        let mut abandoned = Box::pin(pull(&fixture.images, &app));
        assert!(futures_util::poll!(&mut abandoned).is_pending());
    }
    let pulls = [&app, &app, &app, &other, &other].map(|reference| pull(&fixture.images, reference));
    for pulled in futures_util::future::join_all(pulls).await {
        pulled.unwrap();
    }
    let mut counts = HashMap::<String, u32>::new();
    for request in liar.requests() {
        *counts
            .entry(request.rsplit('/').next().unwrap().to_owned())
            .or_default() += 1;
    }
    for layer in image.layers.iter().chain(&sibling.layers) {
        assert_eq!(
            counts[berth_image::Digest::of(layer).as_str()],
            1,
            "a layer was fetched twice"
        );
    }
    assert_eq!(fixture.images.list().len(), 2);
    assert!(fixture.images.progress().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners, devices, capabilities"]
async fn a_layer_is_unpacked_as_it_was_packed() {
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let layer = Layer::new()
        .dir("./", 0o750)
        .dir("bin/", 0o755)
        .file("bin/su", 0o4755, b"su")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("mtime", b"1000000000.5"),
        ])
        .file("bin/ping", 0o755, b"ping")
        .pax(&[
            ("SCHILY.xattr.user.note", b"hi"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("noted", 0o644, b"")
        .hardlink("bin/ping6", "bin/ping")
        .symlink("bin/sh", "/bin/ping")
        .entry(EntryType::Char, "urandom", 0o666, "", b"")
        .entry(EntryType::Fifo, "fifo", 0o600, "", b"")
        .pax(&[("path", long.as_bytes())])
        .file("short", 0o644, b"long name")
        .file("twice", 0o644, b"first")
        .file("twice", 0o600, b"last")
        .finish();
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let root = &import_layers(&fixture, &[layer]).await.unwrap()[0];
    assert_eq!(stat("%a %u:%g %Y", root), "750 1000:2000 1000000000");
    assert_eq!(stat("%a %u:%g", &root.join("bin/su")), "4755 1000:2000");
    assert_eq!(stat("%Y", &root.join("bin")), "1000000000");
    assert_eq!(stat("%h %.1Y", &root.join("bin/ping6")), "2 1000000000.5");
    assert_eq!(
        stat("%N", &root.join("bin/sh")),
        format!("'{}' -> '/bin/ping'", root.join("bin/sh").display())
    );
    assert_eq!(
        stat("%F %t:%T %a", &root.join("urandom")),
        "character special file 1:7 666"
    );
    assert_eq!(stat("%F %a", &root.join("fifo")), "fifo 600");
    assert_eq!(stat("%s", &root.join(&long)), "9");
    assert_eq!(stat("%s %a", &root.join("twice")), "4 600");
    let attributes = |name: &str, path: &str| {
        let script = "import os,sys; print([os.getxattr(sys.argv[2], n).hex() for n in os.listxattr(sys.argv[2]) if n.startswith(sys.argv[1])])";
        run(Command::new("python3")
            .args(["-c", script, name])
            .arg(root.join(path)))
    };
    assert_eq!(
        attributes("security.capability", "bin/ping"),
        format!("['{}']", hex(&capability))
    );
    assert_eq!(attributes("user.note", "noted"), "['6869']");
    assert_eq!(attributes("trusted.overlay", "noted"), "[]");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts an overlay in a mount namespace of its own"]
async fn layers_hide_replace_and_complete_each_other_when_they_are_mounted() {
    let base = Layer::new()
        .dir("tmp", 0o1777)
        .dir("gone", 0o755)
        .file("gone/a", 0o644, b"")
        .dir("opaque", 0o700)
        .file("opaque/old", 0o644, b"")
        .dir("renewed", 0o755)
        .file("renewed/old", 0o644, b"")
        .file("file", 0o644, b"")
        .finish();
    let top = Layer::new()
        .file("tmp/new", 0o644, b"")
        .file(".wh.gone", 0o644, b"")
        .dir("opaque", 0o711)
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/new", 0o644, b"")
        .file(".wh.renewed", 0o644, b"")
        .dir("renewed", 0o755)
        .file("renewed/new", 0o644, b"")
        .file(".wh..wh.plnk", 0o644, b"")
        .file(".wh.file", 0o644, b"")
        .file("file", 0o600, b"new")
        .finish();
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let layers = import_layers(&fixture, &[base, top]).await.unwrap();
    let lower: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
    let script =
        "mount -t overlay overlay -o lowerdir=$0 $1 && cd $1 && find . -mindepth 1 -printf '%P %m\\n' | sort";
    let target = tempfile::tempdir().unwrap();
    let seen = run(Command::new("unshare")
        .args(["-m", "sh", "-c", script, &lower.join(":")])
        .arg(target.path()));
    let expected =
        "file 600\nopaque 711\nopaque/new 644\nrenewed 755\nrenewed/new 644\ntmp 1777\ntmp/new 644";
    assert_eq!(seen, expected);
    assert_eq!(stat("%u:%g", &layers[0].join("tmp")), "1000:2000");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn no_layer_reaches_out_of_its_directory() {
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let outside = fixture.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let to = outside.to_str().unwrap();
    let up = format!("../../../../{to}/victim");
    let new = Layer::new;
    let refused = [
        new().file("../victim", 0o644, b"x"),
        new().file("a/../../victim", 0o644, b"x"),
        new().hardlink("a", &up),
        new().hardlink("a", &format!("{to}/victim")),
        new().symlink("a", to).hardlink("b", "a/victim"),
        new().symlink("a", to).file("a/victim/x", 0o644, b"x"),
        new().file("a", 0o644, b"").file("a/b", 0o644, b"x"),
        new().file("./", 0o644, b"x"),
        new().symlink("loop", "loop").file("loop/x", 0o644, b""),
        new().file(".wh...", 0o644, b"").file("x", 0o644, b""),
        new().entry(EntryType::new(b'Z'), "a", 0o644, "", b""),
        new().pax(&[("GNU.sparse.major", b"1")]).file("a", 0o644, b""),
        new()
            .pax(&[("SCHILY.xattr.user.big", &[b'x'; 2 << 20])])
            .file("a", 0o644, b""),
        new()
            .file(&"a/".repeat(49), 0o644, b"")
            .pax(&[("path", "a/".repeat(300).as_bytes())])
            .dir("x", 0o755),
    ];
    for (number, layer) in refused.into_iter().enumerate() {
        let error = import_layers(&fixture, &[layer.finish()])
            .await
            .expect_err(&format!("layer {number}"));
        assert_ne!(error.kind(), ErrorKind::Exhausted, "{number}: {}", chain(&error));
        assert_eq!(fixture.leftovers(), "", "{number}: {}", chain(&error));
    }
    let confined = [
        new().file("/abs", 0o644, b"x"),
        new().symlink("a", to).file(&format!("a/victim"), 0o644, b"x"),
        new()
            .symlink("a", "../../../../..")
            .dir("a/b", 0o755)
            .file("a/b/c", 0o644, b"x"),
        new().symlink("victim", &up).file("victim", 0o644, b"x"),
        new().symlink("victim", &up).hardlink("also", "victim"),
        new()
            .symlink("d", to)
            .dir("d", 0o777)
            .file("d/victim", 0o644, b"x"),
        new().symlink("d", to).file("d/.wh.victim", 0o644, b"x"),
    ];
    for (number, layer) in confined.into_iter().enumerate() {
        // A link to where nothing is can only be followed once the directories exist in the layer.
        let base = to
            .split('/')
            .filter(|part| !part.is_empty())
            .scan(String::new(), |path, part| {
                path.push_str(&format!("{part}/"));
                Some(path.clone())
            });
        let parents = base
            .fold(Layer::new(), |layer, path| layer.dir(&path, 0o755))
            .finish();
        let joined = [&parents[..parents.len() - 1024], &layer.finish()].concat();
        import_layers(&fixture, &[joined])
            .await
            .unwrap_or_else(|error| panic!("layer {number}: {}", chain(&error)));
        fixture.images.prune().await.unwrap();
    }
    assert_eq!(
        run(Command::new("find")
            .arg(&outside)
            .args(["-mindepth", "1", "-printf", "%P"])),
        "victim"
    );
    assert_eq!(
        std::fs::read_to_string(outside.join("victim")).unwrap(),
        "untouched"
    );
    assert_eq!(stat("%h", &outside.join("victim")), "1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn an_export_is_the_same_image_again() {
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let image = TestImage::small("exported");
    let original = fixture.dir.path().join("original.tar");
    image.docker_archive(&original, Some("busybox:1"));
    let imported = fixture.images.import(&original).await.unwrap();
    assert_eq!(imported[0].id.to_string(), image.id());
    assert_eq!(imported[0].repo_tags, ["docker.io/library/busybox:1"]);
    for name in ["copy.tar", "copy.tar.gz", "copy.tar.zst"] {
        let path = fixture.dir.path().join(name);
        fixture.images.export(&["busybox:1".into()], &path).await.unwrap();
        let other = Fixture::new(RegistryConfig::default()).await;
        let copied = other.images.import(&path).await.unwrap();
        assert_eq!(copied[0].id.to_string(), image.id(), "{name}");
        assert_eq!(copied[0].repo_tags, ["docker.io/library/busybox:1"]);
        assert_eq!(copied[0].repo_digests.len(), 1);
        let stream = tokio::fs::File::open(&path).await.unwrap();
        assert_eq!(
            other.images.import_stream(stream).await.unwrap()[0].id,
            copied[0].id
        );
        let ingest = other.dir.path().join("images/ingest");
        assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
    }
    // As a directory, and as a docker-archive only.
    let directory = fixture.dir.path().join("layout");
    std::fs::create_dir(&directory).unwrap();
    run(Command::new("tar")
        .arg("-xf")
        .arg(fixture.dir.path().join("copy.tar"))
        .arg("-C")
        .arg(&directory));
    for index in ["index.json", "manifest.json"] {
        let other = Fixture::new(RegistryConfig::default()).await;
        assert_eq!(
            other.images.import(&directory).await.unwrap()[0].id.to_string(),
            image.id()
        );
        std::fs::remove_file(directory.join(index)).unwrap();
    }
    let error = fixture.images.import(&directory).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn a_start_removes_what_a_crash_left_and_forgets_what_is_incomplete() {
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let layer = |name: &str| Layer::new().file(name, 0o644, b"x").finish();
    import_layers(&fixture, &[layer("kept")]).await.unwrap();
    let path = fixture.dir.path().join("broken.tar");
    TestImage::new(&[(layer("broken"), Compression::Gzip)]).docker_archive(&path, Some("broken"));
    let broken = fixture.images.import(&path).await.unwrap();
    std::fs::remove_dir_all(fixture.images.rootfs_layers(&broken[0])[0].parent().unwrap()).unwrap();
    let root = fixture.dir.path().join("images");
    for leftover in ["layers/0123/fs/etc", "ingest/.tmp1/fs/etc"] {
        std::fs::create_dir_all(root.join(leftover)).unwrap();
    }
    std::fs::write(root.join("blobs/0123"), "x").unwrap();
    let fixture = fixture.restarted().await;
    let images = fixture.images.list();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].repo_tags, ["docker.io/library/test:1"]);
    // One layer, its config and its manifest.
    assert_eq!(fixture.leftovers().lines().count(), 3);
    let usage = fixture.images.fs_info();
    assert_eq!((usage.used_bytes, usage.inodes_used), du(&usage.mountpoint));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a small filesystem"]
async fn a_full_disk_is_said_and_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&disk));
    let _mounted = Mounted(disk.clone());
    let store = berth_store::Store::open(dir.path()).await.unwrap();
    let images = ImageStore::open(&disk.join("images"), store.clone(), RegistryConfig::default())
        .await
        .unwrap();
    let path = dir.path().join("big.tar");
    let big = Layer::new().file("big", 0o644, &vec![b'x'; 4 << 20]).finish();
    TestImage::new(&[(big, Compression::Plain)]).docker_archive(&path, None);
    let error = images.import(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{}", chain(&error));
    assert_eq!(run(Command::new("find").arg(&disk).args(["-mindepth", "3"])), "");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens an image store"]
async fn settings_that_make_no_sense_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = berth_store::Store::open(dir.path()).await.unwrap();
    let settings = HostConfig {
        mirrors: vec!["gopher://x".into()],
        ..HostConfig::default()
    };
    let config = RegistryConfig {
        hosts: [("r".to_owned(), settings)].into(),
        ..RegistryConfig::default()
    };
    let error = ImageStore::open(&dir.path().join("images"), store, config)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
