//! The `[registries]` section of the agent's settings, and what it means for one host. Pure.
//!
//! Plain HTTP is used for no host that is not configured so, not even for loopback.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Auth, Capability, Error, Result,
    endpoint::{Address, ClientFiles, Endpoint, Tls, is_header, scheme},
};

/// Where images are pulled from, and with what patience.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// How many layers are downloaded and unpacked at once, over all pulls.
    pub parallel_layers: usize,
    /// How long a registry may take to accept a connection.
    pub connect_timeout_seconds: u64,
    /// How long a registry may send nothing before the request is given up.
    pub stall_timeout_seconds: u64,
    /// The largest layer that is accepted, unpacked, in GiB.
    pub max_layer_gib: u64,
    /// Directories with what containerd's `certs.d` has: HOST/hosts.toml names the mirrors of a registry, `_default`
    /// those of all others. The first directory that has something counts. They are read anew for each pull, and not
    /// asked about registries that `hosts` has a table for.
    pub hosts_directories: Vec<PathBuf>,
    /// Settings of single registries, by host and port as they stand in image references.
    pub hosts: BTreeMap<String, HostConfig>,
}

/// How to talk to one registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Use HTTP without TLS.
    pub plain_http: bool,
    /// Endpoints to try before the registry itself, in this order: `host[:port]`, or a URL whose path goes before
    /// the repository's name. They are used with the settings that `hosts` has for their own host.
    pub mirrors: Vec<String>,
    /// A file of PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate.
    pub skip_verify: bool,
    /// A file with the PEM certificate that proves this machine to the registry.
    pub client_cert: Option<PathBuf>,
    /// A file with its key. When not set: in the same file.
    pub client_key: Option<PathBuf>,
    /// What it may be asked: "pull" for content by digest, "resolve" for what a tag means.
    pub capabilities: Vec<Capability>,
    /// Headers to send with every request.
    pub headers: BTreeMap<String, String>,
    /// User for pulls that bring no credentials.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            parallel_layers: 4,
            connect_timeout_seconds: 15,
            stall_timeout_seconds: 60,
            max_layer_gib: 64,
            hosts_directories: vec!["/etc/berth/certs.d".into()],
            hosts: BTreeMap::new(),
        }
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            plain_http: false,
            mirrors: Vec::new(),
            ca_file: None,
            skip_verify: false,
            client_cert: None,
            client_key: None,
            capabilities: vec![Capability::Pull, Capability::Resolve],
            headers: BTreeMap::new(),
            username: None,
            password: None,
        }
    }
}

impl RegistryConfig {
    /// Finds faults that the types allow: no parallel layers, unreadable mirrors, half a credential.
    pub fn validate(&self) -> Result<()> {
        let zero = [
            (self.parallel_layers == 0, "parallel_layers"),
            (self.connect_timeout_seconds == 0, "connect_timeout_seconds"),
            (self.stall_timeout_seconds == 0, "stall_timeout_seconds"),
            (self.max_layer_gib == 0, "max_layer_gib"),
        ];
        if let Some((_, key)) = zero.iter().find(|(is_zero, _)| *is_zero) {
            return Err(Error::Config { host: "(all)".into(), reason: format!("{key} must be at least 1") });
        }
        if let Some(directory) = self.hosts_directories.iter().find(|directory| !directory.is_absolute()) {
            let reason = format!("{directory:?} in hosts_directories must be an absolute path");
            return Err(Error::Config { host: "(all)".into(), reason });
        }
        for (host, settings) in &self.hosts {
            let faults = [
                (
                    settings.password.is_some() && settings.username.is_none(),
                    "it has a password but no username",
                ),
                (
                    settings.client_key.is_some() && settings.client_cert.is_none(),
                    "it has a client_key but no client_cert",
                ),
                (settings.capabilities.is_empty(), "its capabilities are none"),
            ];
            if let Some((_, reason)) = faults.iter().find(|(is_fault, _)| *is_fault) {
                return Err(Error::Config { host: host.clone(), reason: (*reason).into() });
            }
            if let Some((name, _)) = settings.headers.iter().find(|(name, value)| !is_header(name, value)) {
                let reason = format!("{name:?} can't be a header with such a value");
                return Err(Error::Config { host: host.clone(), reason });
            }
            self.endpoints(host)?;
        }
        Ok(())
    }

    /// The settings of a host; the defaults if it has none.
    pub(crate) fn host(&self, host: &str) -> HostConfig {
        self.hosts.get(host).cloned().unwrap_or_default()
    }

    /// Where to look for the images of a registry: its mirrors, then itself.
    pub(crate) fn endpoints(&self, host: &str) -> Result<Vec<Endpoint>> {
        let mut endpoints = Vec::new();
        for mirror in &self.host(host).mirrors {
            endpoints.push(self.mirror(mirror).ok_or_else(|| Error::Config {
                host: host.to_owned(),
                reason: format!("mirror {mirror:?} is neither host[:port] nor an http or https URL"),
            })?);
        }
        endpoints.push(self.host(host).furnish(Endpoint::origin(host, self.host(host).tls())));
        Ok(endpoints)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_seconds)
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout_seconds)
    }

    pub(crate) fn max_layer_bytes(&self) -> u64 {
        self.max_layer_gib.saturating_mul(1 << 30)
    }

    fn mirror(&self, mirror: &str) -> Option<Endpoint> {
        let Address { plain_http, host, path } = Address::parse(mirror)?;
        let settings = self.host(host);
        let plain_http = plain_http.unwrap_or(settings.plain_http);
        let endpoint = Endpoint {
            api: format!("{}{host}/v2", scheme(plain_http)),
            prefix: if path.is_empty() { String::new() } else { format!("{path}/") },
            is_origin: false,
            ..Endpoint::origin(host, Tls { plain_http, ..settings.tls() })
        };
        Some(settings.furnish(endpoint))
    }
}

impl HostConfig {
    /// The credentials for pulls that bring none.
    pub(crate) fn auth(&self) -> Option<Auth> {
        let username = self.username.clone()?;
        Some(Auth::Basic { username, password: self.password.clone().unwrap_or_default() })
    }

    fn tls(&self) -> Tls {
        let key = self.client_key.clone();
        Tls {
            plain_http: self.plain_http,
            skip_verify: self.skip_verify,
            ca_files: self.ca_file.clone().into_iter().collect(),
            client: self.client_cert.clone().map(|certificate| ClientFiles { certificate, key }),
        }
    }

    fn furnish(&self, mut endpoint: Endpoint) -> Endpoint {
        endpoint.capabilities.clone_from(&self.capabilities);
        endpoint.headers = self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        endpoint
    }
}

impl fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConfig")
            .field("plain_http", &self.plain_http)
            .field("mirrors", &self.mirrors)
            .field("ca_file", &self.ca_file)
            .field("skip_verify", &self.skip_verify)
            .field("client_cert", &self.client_cert)
            .field("capabilities", &self.capabilities)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hosts: &[(&str, HostConfig)]) -> RegistryConfig {
        let hosts = hosts.iter().map(|(host, settings)| ((*host).to_owned(), settings.clone())).collect();
        RegistryConfig { hosts, ..RegistryConfig::default() }
    }

    #[test]
    fn mirrors_come_before_the_registry_with_their_own_settings() {
        let mirrors = vec!["m1:5000".into(), "https://m2/cache/".into(), "http://m3".into()];
        let config = config(&[
            ("docker.io", HostConfig { mirrors, ..HostConfig::default() }),
            ("m1:5000", HostConfig { plain_http: true, ..HostConfig::default() }),
        ]);
        let endpoints = config.endpoints("docker.io").unwrap();
        let urls: Vec<_> = endpoints.iter().map(|e| format!("{} {}", e.api, e.prefix)).collect();
        assert_eq!(
            urls,
            [
                "http://m1:5000/v2 ",
                "https://m2/v2 cache/",
                "http://m3/v2 ",
                "https://registry-1.docker.io/v2 "
            ]
        );
        assert_eq!(endpoints.iter().filter(|e| e.is_origin).count(), 1);
    }

    #[test]
    fn loopback_is_https_unless_configured_otherwise() {
        assert_eq!(config(&[]).endpoints("127.0.0.1:5000").unwrap()[0].api, "https://127.0.0.1:5000/v2");
    }

    #[test]
    fn faults_are_found_before_the_first_pull() {
        let check = |settings: HostConfig, expected: &str| {
            let error = config(&[("r", settings)]).validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(HostConfig { mirrors: vec!["ftp://x".into()], ..HostConfig::default() }, "ftp://x");
        check(HostConfig { mirrors: vec!["https://u:p@x".into()], ..HostConfig::default() }, "mirror");
        check(HostConfig { password: Some("x".into()), ..HostConfig::default() }, "no username");
        check(HostConfig { client_key: Some("x".into()), ..HostConfig::default() }, "no client_cert");
        check(HostConfig { capabilities: Vec::new(), ..HostConfig::default() }, "capabilities");
        let headers = [("x".to_owned(), "a\nb".to_owned())].into();
        check(HostConfig { headers, ..HostConfig::default() }, "\"x\" can't be a header");
        let relative =
            RegistryConfig { hosts_directories: vec!["certs.d".into()], ..RegistryConfig::default() };
        assert!(relative.validate().unwrap_err().to_string().contains("certs.d"));
        assert!(RegistryConfig { parallel_layers: 0, ..RegistryConfig::default() }.validate().is_err());
        RegistryConfig::default().validate().unwrap();
    }
}
