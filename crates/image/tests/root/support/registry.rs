//! Debian's registry server on a loopback port, and a client that pushes to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use berth_image::{Digest, HostConfig, RegistryConfig};
use serde_json::json;
use tempfile::TempDir;

use super::{image::TestImage, run};

/// A running registry; ends when dropped.
pub(crate) struct Registry {
    process: Child,
    pub(crate) host: String,
    auth: Option<(&'static str, &'static str)>,
    dir: TempDir,
}

/// `user` and `secret`, as htpasswd writes them.
const HTPASSWD: &str = "user:$2b$04$jK8eb9FO2vyCKl4ABonV0Ok4KaUChvByxe95l3JZs3whffSzJBWVe\n";

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With basic authentication for `user` and `secret`.
    pub(crate) async fn start_protected() -> Self {
        Self::start_with(Some(("user", "secret"))).await
    }

    /// With TLS, under a certificate authority whose certificate is in the file that comes second.
    pub(crate) async fn start_with_tls() -> (Self, PathBuf) {
        let dir = TempDir::new().unwrap();
        let script = "cd $0 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj /CN=ca -keyout ca.key -out ca.pem && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -subj /CN=registry -keyout tls.key -out tls.csr && echo subjectAltName=IP:127.0.0.1 > san && \
            openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out tls.pem";
        run(Command::new("sh").args(["-c", script]).arg(dir.path()));
        let authority = dir.path().join("ca.pem");
        (Self::start_in(dir, None).await, authority)
    }

    /// With TLS, and only for clients with a certificate of its authority. In the directory that comes second are
    /// `ca.pem`, `client.pem` and `client.key`.
    pub(crate) async fn start_for_certified_clients() -> (Self, PathBuf) {
        let (stopped, authority) = Self::start_with_tls().await;
        let dir = stopped.into_dir();
        let script = "cd $0 && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node \
            -keyout client.key -out client.csr && openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key \
            -CAcreateserial -days 2 -extfile san -out client.pem";
        run(Command::new("sh").args(["-c", script]).arg(dir.path()));
        (Self::start_in(dir, None).await, authority.parent().unwrap().to_owned())
    }

    fn into_dir(mut self) -> TempDir {
        std::mem::replace(&mut self.dir, TempDir::new().unwrap())
    }

    async fn start_with(auth: Option<(&'static str, &'static str)>) -> Self {
        Self::start_in(TempDir::new().unwrap(), auth).await
    }

    async fn start_in(dir: TempDir, auth: Option<(&'static str, &'static str)>) -> Self {
        let host = format!("127.0.0.1:{}", free_port());
        let config = dir.path().join("config.yml");
        std::fs::write(&config, settings(dir.path(), &host, auth.is_some())).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { process, host, auth, dir };
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let ready = async {
            while tokio::net::TcpStream::connect(&registry.host).await.is_err() {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("the registry listens");
        registry
    }

    /// Settings under which this registry is reached without TLS.
    pub(crate) fn config(&self) -> RegistryConfig {
        plain_http(&[&self.host])
    }

    pub(crate) async fn push(&self, repository: &str, tag: &str, image: &TestImage) {
        let blobs = image.layers.iter().chain([&image.config]);
        for blob in blobs {
            let url = format!("{}/v2/{repository}/blobs/uploads/", self.base());
            let begun = self.send(reqwest::Method::POST, &url, "", Vec::new()).await;
            let location = begun.headers()["location"].to_str().unwrap();
            let url = format!("{location}&digest={}", Digest::of(blob));
            self.send(reqwest::Method::PUT, &url, "application/octet-stream", blob.clone()).await;
        }
        self.put_manifest(repository, tag, "application/vnd.oci.image.manifest.v1+json", &image.manifest)
            .await;
    }

    /// Pushes images and an index of them.
    pub(crate) async fn push_index(
        &self,
        repository: &str,
        tag: &str,
        images: &[(&str, &TestImage)],
    ) -> Digest {
        let mut entries = Vec::new();
        for (architecture, image) in images {
            self.push(repository, architecture, image).await;
            entries.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest(),
                "size": image.manifest.len(), "platform": {"os": "linux", "architecture": architecture},
            }));
        }
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string();
        self.put_manifest(repository, tag, media_type, index.as_bytes()).await;
        Digest::of(index.as_bytes())
    }

    fn base(&self) -> String {
        let scheme = if self.dir.path().join("tls.pem").exists() { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }

    async fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: &[u8]) {
        let url = format!("{}/v2/{repository}/manifests/{tag}", self.base());
        self.send(reqwest::Method::PUT, &url, media_type, manifest.to_vec()).await;
    }

    async fn send(
        &self,
        method: reqwest::Method,
        url: &str,
        media_type: &str,
        body: Vec<u8>,
    ) -> reqwest::Response {
        let mut builder =
            reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).tls_certs_only([]);
        if let Ok(mut pem) = std::fs::read(self.dir.path().join("client.pem")) {
            pem.extend(std::fs::read(self.dir.path().join("client.key")).unwrap());
            builder = builder.identity(reqwest::Identity::from_pem(&pem).unwrap());
        }
        let client = builder.build().unwrap();
        let mut request = client.request(method, url).header("content-type", media_type).body(body);
        if let Some((user, password)) = self.auth {
            request = request.basic_auth(user, Some(password));
        }
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{url}: {}", response.status());
        response
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Settings with plain HTTP for some hosts, and little patience.
pub(crate) fn plain_http(hosts: &[&str]) -> RegistryConfig {
    let settings = HostConfig { plain_http: true, ..HostConfig::default() };
    let hosts: BTreeMap<_, _> = hosts.iter().map(|host| ((*host).to_owned(), settings.clone())).collect();
    RegistryConfig {
        hosts,
        connect_timeout_seconds: 2,
        stall_timeout_seconds: 1,
        ..RegistryConfig::default()
    }
}

/// A port that nobody listens on at the moment.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn settings(dir: &Path, host: &str, protected: bool) -> String {
    let storage = dir.join("storage");
    let mut settings = json!({
        "version": 0.1, "log": {"level": "error"}, "http": {"addr": host},
        "storage": {"filesystem": {"rootdirectory": storage}},
    });
    if protected {
        let htpasswd = dir.join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        settings["auth"] = json!({"htpasswd": {"realm": "test", "path": htpasswd}});
    }
    if dir.join("tls.pem").exists() {
        settings["http"]["tls"] = json!({"certificate": dir.join("tls.pem"), "key": dir.join("tls.key")});
    }
    if dir.join("client.pem").exists() {
        settings["http"]["tls"]["clientcas"] = json!([dir.join("ca.pem")]);
    }
    // JSON is YAML, but for the version, which is a string in one and a number in the other.
    settings.to_string()
}
