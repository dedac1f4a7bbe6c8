//! Mirrors that files beside the settings name, as containerd has them: read for each pull, tried in their order.

use super::*;
use support::image::TestImage;

const REFERENCE: &str = "registry.example/app:v1";

/// A directory of such files, and settings that name no other.
struct HostsDirectory(tempfile::TempDir);

impl HostsDirectory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, host: &str, text: &str) {
        let directory = self.0.path().join(host);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    fn config(&self) -> RegistryConfig {
        RegistryConfig { hosts_directories: vec![self.0.path().to_owned()], ..plain_http(&[]) }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry"]
async fn the_first_mirror_that_has_the_image_serves_it_under_the_registrys_name() {
    let (empty, full) = (Registry::start().await, Registry::start().await);
    let image = TestImage::small("mirrored");
    full.push("app", "v1", &image).await;
    let dead = format!("127.0.0.1:{}", free_port());
    let hosts = HostsDirectory::new();
    let list =
        |names: &[&str]| names.iter().map(|name| format!("[host.'http://{name}']\n")).collect::<String>();
    hosts.write("registry.example", &list(&[&dead, &empty.host, &full.host]));
    let fixture = Fixture::new(hosts.config()).await;
    assert_eq!(pull(&fixture.images, REFERENCE).await.unwrap(), image.id());
    let pulled = fixture.images.find(REFERENCE).unwrap().unwrap();
    assert_eq!(pulled.repo_tags, [REFERENCE]);
    assert_eq!(pulled.repo_digests, [format!("registry.example/app@{}", image.digest())]);

    // A change counts from the next pull on; the registry itself, which does not exist, is asked last.
    let newer = TestImage::small("newer");
    empty.push("app", "v1", &newer).await;
    assert_eq!(pull(&fixture.images, REFERENCE).await.unwrap(), newer.id());
    hosts.write("registry.example", &list(&[&full.host]));
    assert_eq!(pull(&fixture.images, REFERENCE).await.unwrap(), image.id());
    hosts.write("registry.example", &list(&[&dead]));
    let error = pull(&fixture.images, REFERENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("https://registry.example/v2/app/manifests/v1"), "{error}");

    hosts.write("registry.example", "[host.'http://x']\ncapabilites = ['pull']\n");
    let error = pull(&fixture.images, REFERENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("registry.example/hosts.toml line 2: capabilites"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn a_mirror_is_asked_only_for_what_it_is_capable_of() {
    let (mirror, server) = (Liar::start().await, Liar::start().await);
    let image = TestImage::small("split");
    mirror.serve("app", "v1", &image);
    server.serve("app", "v1", &image);
    let hosts = HostsDirectory::new();
    let text = |more: &str| {
        let (server, mirror) = (&server.host, &mirror.host);
        format!("server = 'http://{server}'\n[host.'http://{mirror}']\ncapabilities = ['pull']\n{more}")
    };
    hosts.write("registry.example", &text(""));
    let fixture = Fixture::new(hosts.config()).await;
    pull(&fixture.images, REFERENCE).await.unwrap();
    assert_eq!(server.requests(), ["/v2/app/manifests/v1?ns=registry.example"]);
    let blobs = mirror.requests();
    assert_eq!(blobs.len(), 1 + image.layers.len());
    assert!(
        blobs.iter().all(|path| path.starts_with("/v2/app/blobs/") && path.ends_with("?ns=registry.example"))
    );

    fixture.images.remove(REFERENCE).await.unwrap();
    pull(&fixture.images, &format!("registry.example/app@{}", image.digest())).await.unwrap();
    assert_eq!(server.requests().len(), 1, "a digest can be asked of the mirror");
    hosts.write("registry.example", &format!("capabilities = ['pull']\n{}", text("")));
    let error = pull(&fixture.images, REFERENCE).await.unwrap_err().to_string();
    assert!(error.contains("registry.example") && error.contains("resolve"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn a_mirror_that_breaks_off_or_lies_in_a_layer_is_passed_over() {
    let (mirror, server) = (Liar::start().await, Liar::start().await);
    let (image, other) = (TestImage::small("true"), TestImage::small("false"));
    let layer = &image.layers[1];
    mirror.serve("app", "v1", &image);
    server.serve("app", "v1", &image);
    let hosts = HostsDirectory::new();
    let text = format!("server = 'http://{}'\n[host.'http://{}']", server.host, mirror.host);
    hosts.write("registry.example", &text);
    let mut wrong = layer.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let replies = [
        Reply::Hang(layer.clone(), 10),
        Reply::Body(wrong),
        Reply::Body(other.layers[1].clone()),
        Reply::Silent,
    ];
    for reply in replies {
        mirror.reply(&blob_path("app", layer), reply);
        let asked = server.requests().len();
        let fixture = Fixture::new(hosts.config()).await;
        assert_eq!(pull(&fixture.images, REFERENCE).await.unwrap(), image.id());
        assert_eq!(server.requests().len(), asked + 1, "only the layer came from the registry");
        fixture.images.remove(REFERENCE).await.unwrap();
        assert_eq!(fixture.leftovers(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn a_path_of_its_own_and_headers_go_with_every_request() {
    let mirror = Liar::start().await;
    let image = TestImage::small("headers");
    let guard = |body: &[u8]| Reply::Guarded {
        challenge: "Basic".into(),
        authorization: "Bearer from-the-file".into(),
        body: body.to_vec(),
    };
    mirror.reply("/api/proxy/app/manifests/v1", guard(&image.manifest));
    for blob in image.layers.iter().chain([&image.config]) {
        mirror.reply(&blob_path("app", blob).replace("/v2/", "/api/proxy/"), guard(blob));
    }
    let hosts = HostsDirectory::new();
    let (host, path) = (&mirror.host, "api/proxy");
    let header = format!("[host.'http://{host}/{path}'.header]\nauthorization = 'Bearer from-the-file'");
    hosts.write("_default", &format!("[host.'http://{host}/{path}']\noverride_path = true\n{header}\n"));
    let fixture = Fixture::new(hosts.config()).await;
    assert_eq!(pull(&fixture.images, REFERENCE).await.unwrap(), image.id());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry and openssl"]
async fn a_client_certificate_opens_a_registry_that_asks_for_one() {
    // The clients' provider of cryptography is installed by the first image store.
    let hosts = HostsDirectory::new();
    let fixture = Fixture::new(hosts.config()).await;
    let (registry, files) = Registry::start_for_certified_clients().await;
    let image = TestImage::small("certified");
    registry.push("app", "v1", &image).await;
    for name in ["ca.pem", "client.pem", "client.key"] {
        hosts.write("registry.example", "");
        std::fs::copy(files.join(name), hosts.0.path().join("registry.example").join(name)).unwrap();
    }
    let mirror = format!("[host.'https://{}']\nca = 'ca.pem'\n", registry.host);
    hosts.write("registry.example", &mirror);
    pull(&fixture.images, REFERENCE).await.unwrap_err();
    hosts.write("registry.example", &format!("{mirror}client = [['client.pem', 'client.key']]\n"));
    assert_eq!(pull(&fixture.images, REFERENCE).await.unwrap(), image.id());
    hosts.write("registry.example", &format!("{mirror}client = [['client.pem', 'lost.key']]\n"));
    let error = pull(&fixture.images, REFERENCE).await.unwrap_err();
    assert!(error.to_string().contains("registry.example/lost.key"), "{error}");

    // As Docker has such files, and as the settings have them.
    let docker = hosts.0.path().join(&registry.host);
    std::fs::create_dir(&docker).unwrap();
    for (from, to) in [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")] {
        std::fs::copy(files.join(from), docker.join(to)).unwrap();
    }
    let direct = format!("{}/app:v1", registry.host);
    assert_eq!(pull(&fixture.images, &direct).await.unwrap(), image.id());
    let settings = HostConfig {
        ca_file: Some(files.join("ca.pem")),
        client_cert: Some(files.join("client.pem")),
        client_key: Some(files.join("client.key")),
        ..HostConfig::default()
    };
    let config = RegistryConfig { hosts: [(registry.host.clone(), settings)].into(), ..plain_http(&[]) };
    let fixture = Fixture::new(config).await;
    assert_eq!(pull(&fixture.images, &direct).await.unwrap(), image.id());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners"]
async fn what_the_operator_wants_to_keep_is_spared() {
    let liar = Liar::start().await;
    let (kept, other) = (TestImage::small("kept"), TestImage::small("other"));
    liar.serve("pause", "3.9", &kept);
    liar.serve("app", "v1", &other);
    let fixture = Fixture::new(plain_http(&[&liar.host])).await;
    fixture.images.keep(berth_image::KeptImages::new(&[format!("{}/pause:*", liar.host)]));
    pull(&fixture.images, &format!("{}/pause:3.9", liar.host)).await.unwrap();
    pull(&fixture.images, &format!("{}/app:v1", liar.host)).await.unwrap();
    assert_eq!(fixture.images.prune().await.unwrap().len(), 1);
    let left: Vec<_> = fixture.images.list().iter().map(|image| image.id.to_string()).collect();
    assert_eq!(left, [kept.id()]);
    assert!(fixture.images.is_kept(&fixture.images.list()[0]));
    fixture.images.remove(&kept.id()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks owners; needs docker-registry"]
async fn an_endpoint_that_cannot_be_asked_harms_no_other_and_every_failure_is_told() {
    let registry = Registry::start().await;
    let image = TestImage::small("spared");
    registry.push("app", "v1", &image).await;
    let dead = format!("127.0.0.1:{}", free_port());
    let hosts = HostsDirectory::new();
    let broken = "[host.'https://broken.example']\nca = 'lost.pem'\n";
    // As the registry's own, whose place is the last.
    let server = "server = 'https://registry.example'\nca = 'lost.pem'\n";
    let fixture = Fixture::new(hosts.config()).await;
    hosts.write("registry.example", &format!("{server}{broken}[host.'http://{}']\n", registry.host));
    assert_eq!(pull(&fixture.images, REFERENCE).await.unwrap(), image.id());

    // A registry that speaks plain HTTP where TLS is expected.
    let mirrors = format!("{broken}[host.'http://{dead}']\n[host.'https://{}']\n", registry.host);
    hosts.write("registry.example", &format!("{server}{mirrors}"));
    let error = pull(&fixture.images, REFERENCE).await.unwrap_err().to_string();
    let told = [
        "https://broken.example/v2: prepare to ask",
        &format!("http://{dead}/v2: request"),
        &format!("https://{}/v2/app/manifests/v1: the registry seems to speak plain HTTP", registry.host),
        "https://registry.example/v2: prepare to ask",
        "lost.pem",
    ];
    let mut rest = &error[..];
    for words in told {
        let at = rest.find(words).unwrap_or_else(|| panic!("{words} is not in order in {error}"));
        rest = &rest[at..];
    }
}
