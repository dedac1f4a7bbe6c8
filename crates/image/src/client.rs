//! The HTTP clients, one for each way of securing a connection.
//!
//! The files of certificates are read for each pull, so that a renewed one is used without a restart; clients whose
//! files have not changed are kept, with their connections.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Certificate, Client, ClientBuilder, Identity};

use crate::bounded;
use crate::{
    Error, Result,
    endpoint::{ClientFiles, Endpoint},
};

/// More than there are registries; it only bounds what renewed certificates leave behind.
const MAX_CLIENTS: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<Identification, Client>>);

/// What two endpoints with one client have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identification {
    plain_http: bool,
    skip_verify: bool,
    /// In PEM.
    authorities: Vec<u8>,
    /// In PEM: the client's certificate and key.
    client: Option<Secret>,
    connect_timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Secret(Vec<u8>);

impl Clients {
    /// The client for an endpoint. Blocks: reads files, also the machine's certificates.
    pub(crate) fn client(&self, endpoint: &Endpoint, connect: Duration, stall: Duration) -> Result<Client> {
        let tls = &endpoint.tls;
        let mut authorities = Vec::new();
        for path in &tls.ca_files {
            authorities.extend(read_pem("read CA file", path)?);
        }
        let wanted = Identification {
            plain_http: tls.plain_http,
            skip_verify: tls.skip_verify,
            authorities,
            client: tls.client.as_ref().map(client_pem).transpose()?,
            connect_timeout: endpoint.connect_timeout.unwrap_or(connect),
        };
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&wanted) {
            return Ok(client.clone());
        }
        let client = build(endpoint, &wanted, stall)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(wanted, client.clone());
        Ok(client)
    }
}

fn build(endpoint: &Endpoint, wanted: &Identification, stall: Duration) -> Result<Client> {
    let failed = |reason: String| Error::Config { host: endpoint.host.clone(), reason };
    let shown = |what: &str, error: reqwest::Error| failed(format!("{what}: {error:?}"));
    let builder = || -> Result<ClientBuilder> {
        let builder = Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(wanted.connect_timeout)
            .read_timeout(stall)
            .https_only(!wanted.plain_http)
            .tls_danger_accept_invalid_certs(wanted.skip_verify);
        let Some(Secret(pem)) = &wanted.client else {
            return Ok(builder);
        };
        let identity =
            Identity::from_pem(pem).map_err(|error| shown("its client certificate is not usable", error))?;
        Ok(builder.identity(identity))
    };
    if !wanted.authorities.is_empty() {
        let certificates = Certificate::from_pem_bundle(&wanted.authorities)
            .map_err(|error| shown("its CA files have no PEM certificates", error))?;
        return builder()?.tls_certs_merge(certificates).build().map_err(|error| shown("set up TLS", error));
    }
    // A machine without any CA certificates can still use registries over plain HTTP.
    match builder()?.build() {
        Err(_) if wanted.plain_http => {
            builder()?.tls_certs_only([]).build().map_err(|error| shown("set up HTTP", error))
        }
        built => built.map_err(|error| shown("set up TLS", error)),
    }
}

fn client_pem(files: &ClientFiles) -> Result<Secret> {
    let mut pem = read_pem("read client certificate", &files.certificate)?;
    if let Some(key) = &files.key {
        pem.push(b'\n');
        pem.extend(read_pem("read client key", key)?);
    }
    Ok(Secret(pem))
}

fn read_pem(action: &'static str, path: &Path) -> Result<Vec<u8>> {
    bounded::read(path).map_err(Error::io(action, path))
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
