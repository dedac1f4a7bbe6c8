//! The client side of the registry protocol: manifests as checked bytes, blobs as streams.
//!
//! A [`Session`] serves one pull of one repository. It tries the mirrors of the registry first, in order, and
//! the registry itself last; its tokens end with it. Credentials of the pull go to the registry that the
//! reference names and to nobody else; a mirror gets what is configured for it.
//!
//! Every wait has an end: connecting, and the time in which a server sends nothing. A blob whose connection
//! breaks is continued where it broke, as long as that makes progress.
//!
//! Source: OCI distribution specification v1.1, "Pull".

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use berth_store::with_causes;
use futures_util::{FutureExt, future::BoxFuture};
use reqwest::{Client, RequestBuilder, Response, StatusCode, header};
use tracing::{debug, warn};

use crate::{
    Auth, Capability, Digest, Error, Reference, RegistryConfig, Result,
    auth::{self, Challenge},
    blob::PipeWriter,
    client::Clients,
    endpoint::Endpoint,
    failures::Failures,
    hosts::find_hosts,
    manifest::{self, Descriptor, MAX_DOCUMENT_BYTES},
    progress::Counters,
};

/// Consecutive failures to get any further with a blob at one endpoint.
const MAX_STALLS: u32 = 3;

/// The ways to registries.
#[derive(Debug)]
pub(crate) struct Transport {
    config: RegistryConfig,
    clients: Clients,
}

/// One pull's view of the places where its repository is.
#[derive(Debug)]
pub(crate) struct Session {
    host: String,
    repository: String,
    places: Vec<Place>,
}

/// How much of one blob has come, and for which pull.
pub(crate) struct Delivery<'a> {
    counters: &'a Counters,
    bytes: AtomicU64,
}

/// An endpoint as one pull uses it.
#[derive(Debug)]
pub(crate) struct Place {
    endpoint: Endpoint,
    /// Where there is none, only who asks this endpoint fails.
    client: std::result::Result<Client, Arc<Error>>,
    auth: Option<Auth>,
    /// The header that the last challenge was answered with.
    authorization: Mutex<Option<String>>,
    /// Documents and blobs that came from here.
    served: AtomicU64,
}

impl Transport {
    pub(crate) fn new(config: RegistryConfig) -> Result<Self> {
        config.validate()?;
        // Ring, because it builds with a C compiler alone. A provider that is there already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { config, clients: Clients::default() })
    }

    /// Prepares a pull; nothing is sent yet. Blocks: reads what the operator says of the registry.
    pub(crate) fn session(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Session> {
        let mut places = Vec::new();
        for endpoint in self.endpoints(reference.host())? {
            let given = auth.filter(|_| endpoint.is_origin).cloned();
            let auth = given.or_else(|| self.config.host(&endpoint.host).auth());
            let (connect, stall) = (self.config.connect_timeout(), self.config.stall_timeout());
            let client = self.clients.client(&endpoint, connect, stall).map_err(Arc::new);
            let (authorization, served) = (Mutex::default(), AtomicU64::new(0));
            places.push(Place { endpoint, client, auth, authorization, served });
        }
        let (host, repository) = (reference.host().to_owned(), reference.repository().to_owned());
        Ok(Session { host, repository, places })
    }

    /// The settings' own table counts, else the directories.
    fn endpoints(&self, host: &str) -> Result<Vec<Endpoint>> {
        if !self.config.hosts.contains_key(host)
            && let Some(endpoints) = find_hosts(&self.config.hosts_directories, host)?
        {
            return Ok(endpoints);
        }
        self.config.endpoints(host)
    }
}

impl Session {
    /// Gets a manifest or index by tag or digest, whole.
    pub(crate) async fn manifest(&self, tag_or_digest: &str) -> Result<Vec<u8>> {
        let digest = Digest::parse(tag_or_digest);
        let need = if digest.is_some() { Capability::Pull } else { Capability::Resolve };
        self.document(format!("manifests/{tag_or_digest}"), digest, need).await
    }

    /// Gets a small blob, such as a config, whole.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        self.document(format!("blobs/{}", blob.digest), Some(blob.digest.clone()), Capability::Pull).await
    }

    /// Who gave how much so far, for the log.
    pub(crate) fn served(&self) -> String {
        let counts =
            self.places.iter().map(|place| (&place.endpoint.api, place.served.load(Ordering::Relaxed)));
        let served: Vec<_> = counts.filter(|(_, n)| *n > 0).map(|(api, n)| format!("{api} ({n})")).collect();
        served.join(", ")
    }

    /// Those that blobs can be had from, in the order of trying.
    ///
    /// Errors: there are none.
    pub(crate) fn sources(&self) -> Result<Vec<&Place>> {
        let sources: Vec<_> = self.capable_of(Capability::Pull).collect();
        if sources.is_empty() { Err(self.incapable_of(Capability::Pull)) } else { Ok(sources) }
    }

    /// Sends a blob from one place into a pipe; the reading end verifies it. Ends early, without an error, when the
    /// reader has gone: then the reader knows why.
    pub(crate) async fn stream_blob(
        &self,
        place: &Place,
        blob: &Descriptor,
        pipe: PipeWriter,
        delivery: &Delivery<'_>,
    ) -> Result<()> {
        let path = format!("blobs/{}", blob.digest);
        let response = place.get(&self.repository, &path, None).await?;
        let mut response = checked_length(response, &path, blob.size)?;
        let (mut sent, mut stalls) = (0u64, 0);
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    sent += chunk.len() as u64;
                    stalls = 0;
                    delivery.add(chunk.len() as u64);
                    if pipe.send(chunk).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    stalls += 1;
                    if stalls >= MAX_STALLS || error.is_timeout() {
                        return Err(request_failed(&path, error));
                    }
                    debug!(path, sent, error = %error, "blob interrupted");
                    response = place.get(&self.repository, &path, Some(sent)).await?;
                    if response.status() != StatusCode::PARTIAL_CONTENT {
                        return Err(request_failed(&path, error));
                    }
                }
            }
        }
        pipe.finish().await;
        Ok(())
    }

    fn capable_of(&self, need: Capability) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |place| place.endpoint.capabilities.contains(&need))
    }

    fn incapable_of(&self, need: Capability) -> Error {
        let reason = format!("none of its endpoints has the capability to {need:?}").to_lowercase();
        Error::Config { host: self.host.clone(), reason }
    }

    /// A mirror that sends the wrong document is as bad as one that sends none.
    async fn document(&self, path: String, expected: Option<Digest>, need: Capability) -> Result<Vec<u8>> {
        let read = |response| {
            let (path, expected) = (path.clone(), expected.clone());
            async move {
                let bytes = read_body(response, &path).await?;
                expected.map_or(Ok(()), |expected| verify(&path, &bytes, &expected))?;
                Ok(bytes)
            }
            .boxed()
        };
        self.first_answer(&path, need, read).await
    }

    /// Asks each place that may be asked in turn; the first good answer counts.
    async fn first_answer<T>(
        &self,
        path: &str,
        need: Capability,
        read: impl Fn(Response) -> BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        let mut failures = Failures::default();
        for place in self.capable_of(need) {
            let answer = match place.get(&self.repository, path, None).await {
                Ok(response) => read(response).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => {
                    place.has_served(path);
                    return Ok(answer);
                }
                Err(error) => {
                    place.has_failed(path, &error);
                    failures.add(place.api(), error);
                }
            }
        }
        Err(failures.into_error().unwrap_or_else(|| self.incapable_of(need)))
    }
}

impl<'a> Delivery<'a> {
    /// Of nothing yet.
    pub(crate) fn new(counters: &'a Counters) -> Self {
        Self { counters, bytes: AtomicU64::new(0) }
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What came was worth nothing, and is not progress.
    pub(crate) fn take_back(self) {
        self.counters.bytes_done.fetch_sub(self.bytes.into_inner(), Ordering::Relaxed);
    }
}

impl Place {
    /// Its address.
    pub(crate) fn api(&self) -> &str {
        &self.endpoint.api
    }

    fn client(&self) -> Result<&Client> {
        let failed = |source: &Arc<Error>| Error::Client {
            api: self.endpoint.api.clone(),
            source: Arc::clone(source),
        };
        self.client.as_ref().map_err(failed)
    }

    /// Counts what came from here, for the log.
    pub(crate) fn has_served(&self, path: &str) {
        debug!(endpoint = self.endpoint.api, path, "registry answered");
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// Another place may do better; the registry's own failure is the caller's to report.
    pub(crate) fn has_failed(&self, path: &str, error: &Error) {
        if !self.endpoint.is_origin {
            warn!(endpoint = self.endpoint.api, path, error = with_causes(error), "mirror failed");
        }
    }

    /// Sends one GET, answering a challenge once. Any status but success is an error.
    async fn get(&self, repository: &str, path: &str, from: Option<u64>) -> Result<Response> {
        let Endpoint { api, prefix, .. } = &self.endpoint;
        let url = format!("{api}/{prefix}{repository}/{path}");
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let response = self.send(&url, from, authorization.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return successful(response, &url).await;
        }
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
        let Some(challenge) =
            challenges.iter().filter_map(|value| Challenge::parse(value.to_str().ok()?)).next()
        else {
            return successful(response, &url).await;
        };
        let repository = format!("{prefix}{repository}");
        let header = auth::answer(self.client()?, &url, &challenge, self.auth.as_ref(), &repository).await?;
        let response = self.send(&url, from, Some(&header)).await?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
        successful(response, &url).await
    }

    async fn send(&self, url: &str, from: Option<u64>, authorization: Option<&str>) -> Result<Response> {
        let types =
            [manifest::OCI_INDEX, manifest::OCI_MANIFEST, manifest::DOCKER_LIST, manifest::DOCKER_MANIFEST];
        let mut request =
            self.client()?.get(url).header(header::ACCEPT, format!("{}, */*", types.join(", ")));
        // How one mirror of many registries tells which is meant; containerd and its mirrors call it so.
        if let Some(upstream) = &self.endpoint.upstream {
            request = request.query(&[("ns", upstream)]);
        }
        for (name, value) in &self.endpoint.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|error| request_failed(url, error))
    }
}

/// Sends a request whose answer is a small document, and reads it.
pub(crate) async fn read_document(request: RequestBuilder, url: &str) -> Result<Vec<u8>> {
    let response = request.send().await.map_err(|error| request_failed(url, error))?;
    read_body(successful(response, url).await?, url).await
}

async fn read_body(mut response: Response, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| request_failed(what, error))? {
        if (bytes.len() + chunk.len()) as u64 > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                what: what.to_owned(),
                limit: format!("{MAX_DOCUMENT_BYTES} bytes"),
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Passes a good answer on, and takes the registry's explanation out of a bad one.
async fn successful(response: Response, url: &str) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read_body(response, url).await.unwrap_or_default();
    let detail = registry_message(&body).map(|message| format!(": {message}")).unwrap_or_default();
    Err(Error::Refused { url: url.to_owned(), status, detail })
}

/// The first message of a registry's error document, cut to one short line.
fn registry_message(body: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = document.get("errors")?.get(0)?;
    let text = error.get("message").or_else(|| error.get("code"))?.as_str()?;
    Some(text.chars().filter(|c| !c.is_control()).take(200).collect())
}

fn checked_length(response: Response, what: &str, expected_bytes: u64) -> Result<Response> {
    match response.content_length() {
        Some(actual) if actual != expected_bytes => {
            Err(Error::Size { what: what.to_owned(), expected_bytes, actual: actual.to_string() })
        }
        _ => Ok(response),
    }
}

/// Compares a document with the digest that it should have.
pub(crate) fn verify(what: &str, bytes: &[u8], expected: &Digest) -> Result<()> {
    let actual = Digest::of(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(Error::Mismatch { what: what.to_owned(), expected: expected.clone(), actual })
}

/// The query can hold a token of a blob store, so no address is shown with it.
fn request_failed(url: &str, error: reqwest::Error) -> Error {
    let url = url.to_owned();
    if is_no_tls(&error) {
        Error::PlainHttp { url }
    } else {
        Error::Request { url, source: error.without_url() }
    }
}

/// Whether the server's first bytes were no TLS, as those of an HTTP server that was greeted in TLS.
fn is_no_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return *error == rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    }
    // An io::Error does not give what it wraps as its source.
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => is_no_tls(wrapped),
        None => error.source().is_some_and(is_no_tls),
    }
}
