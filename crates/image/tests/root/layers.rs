//! Layers as they are unpacked and mounted, also those that mean harm.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners, devices, capabilities"]
async fn a_layer_is_unpacked_as_it_was_packed() {
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let layer = Layer::new()
        .dir("./", 0o750)
        .dir("bin/", 0o755)
        .file("bin/su", 0o4755, b"su")
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("mtime", b"1000000000.5")])
        .file("bin/ping", 0o755, b"ping")
        .pax(&[("SCHILY.xattr.user.note", b"hi"), ("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
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
    assert_eq!(stat("%F %t:%T %a", &root.join("urandom")), "character special file 1:7 666");
    assert_eq!(stat("%F %a", &root.join("fifo")), "fifo 600");
    assert_eq!(stat("%s", &root.join(&long)), "9");
    assert_eq!(stat("%s %a", &root.join("twice")), "4 600");
    let attributes = |name: &str, path: &str| {
        let script = "import os,sys; print([os.getxattr(sys.argv[2], n).hex() for n in os.listxattr(sys.argv[2]) if n.startswith(sys.argv[1])])";
        run(Command::new("python3").args(["-c", script, name]).arg(root.join(path)))
    };
    assert_eq!(attributes("security.capability", "bin/ping"), format!("['{}']", hex(&capability)));
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
    let seen =
        run(Command::new("unshare").args(["-m", "sh", "-c", script, &lower.join(":")]).arg(target.path()));
    let expected =
        "file 600\nopaque 711\nopaque/new 644\nrenewed 755\nrenewed/new 644\ntmp 1777\ntmp/new 644";
    assert_eq!(seen, expected);
    assert_eq!(stat("%u:%g", &layers[0].join("tmp")), "1000:2000");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn as_many_layers_as_images_may_have_can_be_taken_in() {
    let layer = |number: usize| Layer::new().file(&format!("f{number}"), 0o644, b"x").finish();
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let layers: Vec<_> = (0..127).map(layer).collect();
    let lower = import_layers(&fixture, &layers).await.unwrap();
    assert_eq!(lower.len(), 127);
    assert!(lower[0].join("f126").exists() && lower[126].join("f0").exists());
    let layers: Vec<_> = (0..128).map(layer).collect();
    let error = import_layers(&fixture, &layers).await.unwrap_err();
    assert!(error.to_string().contains("127 layers"), "{error}");
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
        new().file(".", 0o644, b"x"),
        new().symlink("loop", "loop").file("loop/x", 0o644, b""),
        new().file(".wh...", 0o644, b"").file("x", 0o644, b""),
        new().entry(EntryType::new(b'Z'), "a", 0o644, "", b""),
        new().pax(&[("GNU.sparse.major", b"1")]).file("a", 0o644, b""),
        new().pax(&[("SCHILY.xattr.user.big", &[b'x'; 2 << 20])]).file("a", 0o644, b""),
        new()
            .file(&"a/".repeat(49), 0o644, b"")
            .pax(&[("path", "a/".repeat(300).as_bytes())])
            .dir("x", 0o755),
        new()
            .pax(&[("path", "a/".repeat(200).as_bytes())])
            .dir("x", 0o755)
            .pax(&[("linkpath", "a/".repeat(200).as_bytes())])
            .symlink("deep", "x")
            .pax(&[("path", format!("deep/{}", "b/".repeat(200)).as_bytes())])
            .dir("x", 0o755),
    ];
    for (number, layer) in refused.into_iter().enumerate() {
        let error = import_layers(&fixture, &[layer.finish()]).await.expect_err(&format!("layer {number}"));
        assert_ne!(error.kind(), ErrorKind::Exhausted, "{number}: {}", with_causes(&error));
        assert_eq!(fixture.leftovers(), "", "{number}: {}", with_causes(&error));
    }
    let confined = [
        new().file("/abs", 0o644, b"x"),
        new().symlink("a", to).file("a/victim", 0o644, b"x"),
        new().symlink("a", "../../../../..").dir("a/b", 0o755).file("a/b/c", 0o644, b"x"),
        new().symlink("victim", &up).file("victim", 0o644, b"x"),
        new().symlink("victim", &up).hardlink("also", "victim"),
        new().symlink("d", to).dir("d", 0o777).file("d/victim", 0o644, b"x"),
        new().symlink("d", to).file("d/.wh.victim", 0o644, b"x"),
    ];
    for (number, layer) in confined.into_iter().enumerate() {
        // A link to where nothing is can only be followed once the directories exist in the layer.
        let base = to.split('/').filter(|part| !part.is_empty()).scan(String::new(), |path, part| {
            path.push_str(&format!("{part}/"));
            Some(path.clone())
        });
        let parents = base.fold(Layer::new(), |layer, path| layer.dir(&path, 0o755)).finish();
        let joined = [&parents[..parents.len() - 1024], &layer.finish()].concat();
        import_layers(&fixture, &[joined])
            .await
            .unwrap_or_else(|error| panic!("layer {number}: {}", with_causes(&error)));
        fixture.images.prune().await.unwrap();
    }
    assert_eq!(run(Command::new("find").arg(&outside).args(["-mindepth", "1", "-printf", "%P"])), "victim");
    assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "untouched");
    assert_eq!(stat("%h", &outside.join("victim")), "1");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
