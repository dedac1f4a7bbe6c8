//! Pulls that go well: names, platforms, credentials, mirrors, and pulls that are one.

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry"]
async fn an_image_is_pulled_by_tag_and_by_digest_and_is_gone_after_removal() {
    let registry = Registry::start().await;
    let image = TestImage::small("hello\n");
    registry.push("app", "v1", &image).await;
    let fixture = Fixture::new(registry.config()).await;
    let empty = fixture.images.fs_info();
    let name = format!("{}/app", registry.host);

    assert_eq!(pull(&fixture.images, &format!("{name}@{}", image.digest())).await.unwrap(), image.id());
    let pulled = fixture.images.find(&image.id()).unwrap().unwrap();
    assert_eq!(pulled.repo_digests, [format!("{name}@{}", image.digest())]);
    assert!(pulled.repo_tags.is_empty());
    assert_eq!(pull(&fixture.images, &format!("{name}:v1")).await.unwrap(), image.id());
    let pulled = fixture.images.find(&format!("{name}:v1")).unwrap().unwrap();
    assert_eq!(pulled.repo_tags, [format!("{name}:v1")]);
    assert_eq!(pulled.config.user, "web:www");
    let layers = fixture.images.rootfs_layers(&pulled);
    assert_eq!(
        run(Command::new("cat").arg(layers[0].join("hello")).arg(layers[1].join("etc/motd"))),
        "hello\nbase"
    );
    assert_eq!(stat("%u:%g %a %Y", &layers[0].join("hello")), "1000:2000 755 1000000000");

    let usage = fixture.images.fs_info();
    assert_eq!((usage.used.bytes, usage.used.inodes), du(&usage.mountpoint));
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
    assert_eq!(fixture.images.fs_info().used.inodes, empty.used.inodes);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry"]
async fn an_index_is_followed_to_this_machine_and_a_tag_moves() {
    let registry = Registry::start().await;
    let (ours, theirs, newer) =
        (TestImage::small("ours"), TestImage::small("theirs"), TestImage::small("newer"));
    let machine = berth_image::Platform::of_this_machine().architecture;
    let index = registry.push_index("app", "latest", &[("s390x", &theirs), (&machine, &ours)]).await;
    let fixture = Fixture::new(registry.config()).await;
    let name = format!("{}/app", registry.host);
    assert_eq!(pull(&fixture.images, &name).await.unwrap(), ours.id());
    let pulled = fixture.images.find(&name).unwrap().unwrap();
    assert_eq!(pulled.repo_digests, [format!("{name}@{index}")]);

    registry.push("app", "latest", &newer).await;
    assert_eq!(pull(&fixture.images, &name).await.unwrap(), newer.id());
    assert_eq!(fixture.images.find(&name).unwrap().unwrap().id.to_string(), newer.id());
    let older = fixture.images.find(&ours.id()).unwrap().unwrap();
    assert!(older.repo_tags.is_empty());
    // The two share their base, which goes with the second of them.
    fixture.images.remove(&ours.id()).await.unwrap();
    let kept = fixture.images.find(&name).unwrap().unwrap();
    assert!(fixture.images.rootfs_layers(&kept).iter().all(|layer| layer.exists()));
    let usage = fixture.images.fs_info();
    assert_eq!((usage.used.bytes, usage.used.inodes), du(&usage.mountpoint));
    fixture.images.pin(&kept.id, "holder").unwrap();
    assert_eq!(fixture.images.prune().await.unwrap(), []);
    fixture.images.unpin("holder");
    assert_eq!(fixture.images.prune().await.unwrap(), std::slice::from_ref(&kept.id));
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
    let basic = |password: &str| Auth::Basic { username: "user".into(), password: password.into() };
    let request = |auth| PullRequest { reference: reference.clone(), auth };
    assert!(
        fixture.images.pull(&request(None)).await.unwrap_err().to_string().contains("a user and a password")
    );
    let error = fixture.images.pull(&request(Some(basic("wrong")))).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(fixture.leftovers(), "");
    fixture.images.pull(&request(Some(basic("secret")))).await.unwrap();

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
    pull(&fixture.images, &format!("{}/app", liar.host)).await.unwrap();
    let tokens: Vec<_> = liar.requests().into_iter().filter(|path| path.starts_with("/token")).collect();
    assert_eq!(tokens, ["/token?service=s&scope=repository%3Aapp%3Apull"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn mirrors_come_first_and_the_registry_when_they_fail() {
    let (dead, liar, good, origin) =
        (format!("127.0.0.1:{}", free_port()), Liar::start().await, Liar::start().await, Liar::start().await);
    let (image, other) = (TestImage::small("mirrored"), TestImage::small("other"));
    good.serve("cache/app", "latest", &image);
    let path = format!("/v2/app/manifests/{}", image.digest());
    liar.reply(&path, Reply::Body(other.manifest.clone()));
    let mirrors = vec![dead.clone(), liar.host.clone(), format!("http://{}/cache", good.host)];
    let mut config = plain_http(&[&dead, &liar.host, &origin.host]);
    config.hosts.get_mut(&origin.host).unwrap().mirrors = mirrors;
    let fixture = Fixture::new(config).await;
    let reference = format!("{}/app", origin.host);
    assert_eq!(pull(&fixture.images, &reference).await.unwrap(), image.id());
    assert!(origin.requests().is_empty());
    assert!(fixture.images.find(&reference).unwrap().is_some());

    origin.serve("direct", "latest", &other);
    assert_eq!(pull(&fixture.images, &format!("{}/direct", origin.host)).await.unwrap(), other.id());
    // A mirror may hold old tags, but it cannot pass anything off under a digest.
    good.serve("cache/app", "latest", &other);
    good.reply(&path.replace("app", "cache/app"), Reply::Body(other.manifest.clone()));
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
        *counts.entry(request.rsplit('/').next().unwrap().to_owned()).or_default() += 1;
    }
    for layer in image.layers.iter().chain(&sibling.layers) {
        assert_eq!(counts[berth_image::Digest::of(layer).as_str()], 1, "a layer was fetched twice");
    }
    assert_eq!(fixture.images.list().len(), 2);
    assert!(fixture.images.progress().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn progress_counts_the_bytes_that_have_to_come_and_all_layers() {
    let liar = Liar::start().await;
    let (image, sibling) = (TestImage::small("a"), TestImage::small("b"));
    liar.serve("app", "latest", &image);
    liar.serve("sibling", "latest", &sibling);
    let top = sibling.layers.last().unwrap();
    liar.reply(&blob_path("sibling", top), Reply::Hang(top.clone(), 10));
    let fixture = Fixture::new(plain_http(&[&liar.host])).await;
    pull(&fixture.images, &format!("{}/app", liar.host)).await.unwrap();

    let reference = format!("{}/sibling", liar.host);
    let expected = PullProgress {
        reference: format!("{reference}:latest"),
        layers_done: 1,
        layers: 2,
        bytes_done: 10,
        bytes: top.len() as u64,
    };
    let come = async {
        while fixture.images.progress() != [expected.clone()] {
            tokio::task::yield_now().await;
        }
    };
    let come = tokio::time::timeout(Duration::from_secs(10), come);
    tokio::select! {
        outcome = pull(&fixture.images, &reference) => panic!("the pull ended: {outcome:?}"),
        come = come => come.unwrap_or_else(|_| panic!("{:?}", fixture.images.progress())),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens an image store"]
async fn settings_that_make_no_sense_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = berth_store::Store::open(dir.path()).await.unwrap();
    let settings = HostConfig { mirrors: vec!["gopher://x".into()], ..HostConfig::default() };
    let config = RegistryConfig { hosts: [("r".to_owned(), settings)].into(), ..RegistryConfig::default() };
    let error = ImageStore::open(&dir.path().join("images"), store, config).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry and openssl"]
async fn a_certificate_is_trusted_only_where_the_settings_say_so() {
    // The clients' provider of cryptography is installed by the first image store.
    let stranger = Fixture::new(plain_http(&[])).await;
    let (registry, authority) = Registry::start_with_tls().await;
    let image = TestImage::small("tls");
    registry.push("app", "latest", &image).await;
    let reference = format!("{}/app", registry.host);
    let error = pull(&stranger.images, &reference).await.unwrap_err();
    assert!(with_causes(&error).contains("certificate"), "{}", with_causes(&error));
    let trusting = HostConfig { ca_file: Some(authority), ..HostConfig::default() };
    let careless = HostConfig { skip_verify: true, ..HostConfig::default() };
    for settings in [trusting, careless] {
        let hosts = [(registry.host.clone(), settings)].into();
        let fixture = Fixture::new(RegistryConfig { hosts, ..RegistryConfig::default() }).await;
        assert_eq!(pull(&fixture.images, &reference).await.unwrap(), image.id());
    }
    let fixture = Fixture::new(registry.config()).await;
    let error = pull(&fixture.images, &reference).await.unwrap_err();
    assert!(error.to_string().contains("400"), "plain HTTP to a TLS port: {error}");
}
