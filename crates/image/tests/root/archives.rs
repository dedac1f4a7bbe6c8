//! Images through files, and through restarts.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn an_export_is_the_same_image_again() {
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let image = TestImage::small("exported");
    let original = fixture.dir.path().join("original.tar");
    image.docker_archive(&original, Some("busybox:1"));
    let imported = fixture.images.import(&original).await.unwrap();
    assert_eq!(imported[0].image.id.to_string(), image.id());
    assert_eq!(imported[0].image.repo_tags, ["docker.io/library/busybox:1"]);
    // Each archive is answered with its own names, whatever else the image is called.
    let second = fixture.dir.path().join("second.tar");
    image.docker_archive(&second, Some("other:2"));
    let again = fixture.images.import(&second).await.unwrap();
    assert_eq!((again[0].names.len(), again[0].image.repo_tags.len()), (1, 2));
    assert_eq!(again[0].names, ["docker.io/library/other:2"]);
    for name in ["copy.tar", "copy.tar.gz", "copy.tar.zst"] {
        let path = fixture.dir.path().join(name);
        fixture.images.export(&["busybox:1".into()], &path).await.unwrap();
        let other = Fixture::new(RegistryConfig::default()).await;
        let copied = other.images.import(&path).await.unwrap();
        assert_eq!(copied[0].image.id.to_string(), image.id(), "{name}");
        assert_eq!(copied[0].image.repo_tags, ["docker.io/library/busybox:1"]);
        assert_eq!(copied[0].image.repo_digests.len(), 1);
        let stream = tokio::fs::File::open(&path).await.unwrap();
        assert_eq!(other.images.import_stream(stream).await.unwrap()[0].image.id, copied[0].image.id);
        let ingest = other.dir.path().join("images/ingest");
        assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
    }
    // As a directory, and as a docker-archive only.
    let directory = fixture.dir.path().join("layout");
    std::fs::create_dir(&directory).unwrap();
    run(Command::new("tar").arg("-xf").arg(fixture.dir.path().join("copy.tar")).arg("-C").arg(&directory));
    for index in ["index.json", "manifest.json"] {
        let other = Fixture::new(RegistryConfig::default()).await;
        assert_eq!(other.images.import(&directory).await.unwrap()[0].image.id.to_string(), image.id());
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
    std::fs::remove_dir_all(fixture.images.rootfs_layers(&broken[0].image)[0].parent().unwrap()).unwrap();
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
    assert_eq!((usage.used.bytes, usage.used.inodes), du(&usage.mountpoint));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners and devices; needs GNU tar"]
async fn what_another_tar_wrote_is_exported_byte_for_byte() {
    let fixture = Fixture::new(RegistryConfig::default()).await;
    let source = fixture.dir.path().join("source");
    let script = "mkdir -p $0/dir/sub && cd $0 && echo one > dir/one && ln dir/one two && ln -s dir/one link && \
        mkfifo fifo && mknod .wh.gone c 1 3 && touch dir/.wh..wh..opq && chmod 4711 dir/one && \
        truncate -s 3M sparse && echo end >> sparse && touch $(printf 'n%.0s' $(seq 150)) dir/sub/empty";
    run(Command::new("sh").args(["-c", script]).arg(&source));
    for format in ["--format=gnu", "--format=posix"] {
        let tar = fixture.dir.path().join("layer.tar");
        let sparse = if format.ends_with("gnu") { "--sparse" } else { "--no-xattrs" };
        run(Command::new("tar").args([format, sparse, "-C"]).arg(&source).arg("-cf").arg(&tar).arg("."));
        let layers = import_layers(&fixture, &[std::fs::read(&tar).unwrap()]).await.unwrap();
        let original = fixture.images.find("test:1").unwrap().unwrap();
        assert_eq!(stat("%s", &layers[0].join("sparse")), "3145732");
        if format.ends_with("gnu") {
            assert!(
                stat("%b", &layers[0].join("sparse")).parse::<u64>().unwrap() < 1024,
                "the hole was filled"
            );
        }
        assert_eq!(stat("%F %t:%T", &layers[0].join("gone")), "character special file 0:0");
        let path = fixture.dir.path().join("copy.tar");
        fixture.images.export(&["test:1".into()], &path).await.unwrap();
        let other = Fixture::new(RegistryConfig::default()).await;
        assert_eq!(other.images.import(&path).await.unwrap()[0].image.id, original.id, "{format}");
    }
}
