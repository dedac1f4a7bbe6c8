//! Pulls and imports that must fail, or nearly do, and what they leave: nothing.

use super::*;

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
        let text = with_causes(&error);
        assert!(text.contains(expected), "{expected}: {text}");
        assert_eq!(error.kind(), kind, "{text}");
        assert!(fixture.images.list().is_empty());
        assert_eq!(fixture.leftovers(), "", "{text}");
    };
    let mut wrong = layer.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    check(&path, Reply::Body(wrong), "expected sha256:", ErrorKind::Unavailable).await;
    check(&path, Reply::Body(other.layers[1].clone()), "expected", ErrorKind::Unavailable).await;
    check(&path, Reply::Body(layer[1..].to_vec()), "bytes, got", ErrorKind::Unavailable).await;
    check(&path, Reply::Body([&layer[..], b"x"].concat()), "bytes, got", ErrorKind::Unavailable).await;
    check("/v2/app/manifests/latest", Reply::Silent, "request", ErrorKind::DeadlineExceeded).await;
    check(&path, Reply::Hang(layer.clone(), 10), "unpack layer", ErrorKind::DeadlineExceeded).await;
    check(
        &blob_path("app", &image.config),
        Reply::Body(other.config.clone()),
        "expected",
        ErrorKind::Unavailable,
    )
    .await;
    check("/v2/app/manifests/latest", Reply::Body(vec![b' '; 5 << 20]), "limit", ErrorKind::Invalid).await;
    check("/v2/app/manifests/latest", Reply::Body(b"<html>".to_vec()), "parse", ErrorKind::Invalid).await;
    // A config that promises another tar than the one that is there.
    let lying = TestImage {
        manifest: manifest(&image.config, &[image.layers[0].clone(), other.layers[1].clone()]),
        config: image.config.clone(),
        layers: vec![image.layers[0].clone(), other.layers[1].clone()],
    };
    liar.serve("lying", "latest", &lying);
    let error = pull(&fixture.images, &format!("{}/lying", liar.host)).await.unwrap_err();
    assert!(with_causes(&error).contains("verify unpacked layer"), "{}", with_causes(&error));
    let error = pull(&fixture.images, &format!("{}/absent", liar.host)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no such thing"), "{error}");
    assert_eq!(fixture.leftovers(), "");

    let fixture = Fixture::new(RegistryConfig { connect_timeout_seconds: 1, ..plain_http(&[]) }).await;
    let error = pull(&fixture.images, &format!("127.0.0.1:{}/app", free_port())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn an_interrupted_blob_is_continued_where_it_broke() {
    let liar = Liar::start().await;
    let noise: Vec<u8> = (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = TestImage::new(&[(Layer::new().file("noise", 0o644, &noise).finish(), Compression::Plain)]);
    liar.serve("app", "latest", &image);
    let path = blob_path("app", &image.layers[0]);
    liar.reply(&path, Reply::Cut(image.layers[0].clone(), 300_000));
    let fixture = Fixture::new(plain_http(&[&liar.host])).await;
    pull(&fixture.images, &format!("{}/app", liar.host)).await.unwrap();
    assert!(liar.requests().iter().filter(|request| **request == path).count() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a small filesystem"]
async fn a_full_disk_is_said_and_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk));
    let _mounted = Mounted(disk.clone());
    let store = berth_store::Store::open(dir.path()).await.unwrap();
    let images =
        ImageStore::open(&disk.join("images"), store.clone(), RegistryConfig::default()).await.unwrap();
    let path = dir.path().join("big.tar");
    let big = Layer::new().file("big", 0o644, &vec![b'x'; 4 << 20]).finish();
    TestImage::new(&[(big, Compression::Plain)]).docker_archive(&path, None);
    let error = images.import(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{}", with_causes(&error));
    assert_eq!(run(Command::new("find").arg(&disk).args(["-mindepth", "3"])), "");
    store.close().await;
}

pub(crate) struct Mounted(pub(crate) std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
