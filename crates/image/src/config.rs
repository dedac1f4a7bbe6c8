//! The `[registries]` section of the agent's settings, and what it means for one host. Pure.
//!
//! Plain HTTP is used for no host that is not configured so, not even for loopback.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Auth, Error, Result};

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
    /// Settings of single registries, by host and port as they stand in image references.
    pub hosts: BTreeMap<String, HostConfig>,
}

/// How to talk to one registry.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// User for pulls that bring no credentials.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<String>,
}

/// One address at which a repository may be found, in the order of trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The host in whose settings its TLS and credentials are.
    pub(crate) host: String,
    /// Scheme, host and port, without a slash at the end.
    pub(crate) base: String,
    /// Goes before the repository's name; empty, or ends with a slash.
    pub(crate) prefix: String,
    pub(crate) plain_http: bool,
    /// Whether this is the registry that the reference names, and not a mirror.
    pub(crate) is_origin: bool,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            parallel_layers: 4,
            connect_timeout_seconds: 15,
            stall_timeout_seconds: 60,
            max_layer_gib: 64,
            hosts: BTreeMap::new(),
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
        for (host, settings) in &self.hosts {
            if settings.password.is_some() && settings.username.is_none() {
                return Err(Error::Config {
                    host: host.clone(),
                    reason: "it has a password but no username".into(),
                });
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
        let plain_http = self.host(host).plain_http;
        let server = if host == "docker.io" { "registry-1.docker.io" } else { host };
        endpoints.push(Endpoint {
            host: host.to_owned(),
            base: format!("{}{server}", scheme(plain_http)),
            prefix: String::new(),
            plain_http,
            is_origin: true,
        });
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
        let (plain_http, rest) = match mirror.split_once("://") {
            Some(("http", rest)) => (Some(true), rest),
            Some(("https", rest)) => (Some(false), rest),
            Some(_) => return None,
            None => (None, mirror),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        let plain_http = plain_http.unwrap_or_else(|| self.host(host).plain_http);
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        (!host.is_empty() && !mirror.contains(['?', '#', '@', ' '])).then(|| Endpoint {
            host: host.to_owned(),
            base: format!("{}{host}", scheme(plain_http)),
            prefix,
            plain_http,
            is_origin: false,
        })
    }
}

impl HostConfig {
    /// The credentials for pulls that bring none.
    pub(crate) fn auth(&self) -> Option<Auth> {
        let username = self.username.clone()?;
        Some(Auth::Basic { username, password: self.password.clone().unwrap_or_default() })
    }
}

fn scheme(plain_http: bool) -> &'static str {
    if plain_http { "http://" } else { "https://" }
}

impl fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostConfig")
            .field("plain_http", &self.plain_http)
            .field("mirrors", &self.mirrors)
            .field("ca_file", &self.ca_file)
            .field("skip_verify", &self.skip_verify)
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
        let urls: Vec<_> = endpoints.iter().map(|e| format!("{} {}", e.base, e.prefix)).collect();
        assert_eq!(
            urls,
            ["http://m1:5000 ", "https://m2 cache/", "http://m3 ", "https://registry-1.docker.io "]
        );
        assert_eq!(endpoints.iter().filter(|e| e.is_origin).count(), 1);
    }

    #[test]
    fn loopback_is_https_unless_configured_otherwise() {
        assert_eq!(config(&[]).endpoints("127.0.0.1:5000").unwrap()[0].base, "https://127.0.0.1:5000");
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
        assert!(RegistryConfig { parallel_layers: 0, ..RegistryConfig::default() }.validate().is_err());
        RegistryConfig::default().validate().unwrap();
    }
}
