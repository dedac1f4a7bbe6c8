//! One address at which a repository may be found, and how to talk to it. Pure; the secrets in it are never shown.

use std::{fmt, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::reference::is_host;

/// Where Docker's registry, `docker.io`, really is.
const DOCKER_SERVER: &str = "registry-1.docker.io";

/// An endpoint in the order of trying.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port; the settings hold its credentials under this name.
    pub(crate) host: String,
    /// Scheme, host and port, and the path of the API, without a slash at the end.
    pub(crate) api: String,
    /// Goes before the repository's name; empty, or ends with a slash.
    pub(crate) prefix: String,
    /// The registry that it stands in for, told to it as `ns` where several may be meant.
    pub(crate) upstream: Option<String>,
    /// Whether this is the registry that the reference names, and not a mirror.
    pub(crate) is_origin: bool,
    /// What it may be asked.
    pub(crate) capabilities: Vec<Capability>,
    /// How the connection is secured.
    pub(crate) tls: Tls,
    /// Sent with every request.
    pub(crate) headers: Vec<(String, String)>,
    /// How long it may take to accept a connection, where that is not the general patience.
    pub(crate) connect_timeout: Option<Duration>,
}

/// How a connection is secured, by files that are read when it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) plain_http: bool,
    pub(crate) skip_verify: bool,
    /// Certificates to trust besides the system's.
    pub(crate) ca_files: Vec<PathBuf>,
    pub(crate) client: Option<ClientFiles>,
}

/// What a client proves itself with to a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClientFiles {
    /// The certificate and those between it and its authority.
    pub(crate) certificate: PathBuf,
    /// Its key, if that is not in the same file.
    pub(crate) key: Option<PathBuf>,
}

/// What a registry may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// For content by its digest.
    Pull,
    /// For what a tag means.
    Resolve,
    /// To take content; nothing is pushed from here.
    Push,
}

/// A scheme, where one is given, a host with an optional port, and a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address<'a> {
    pub(crate) plain_http: Option<bool>,
    pub(crate) host: &'a str,
    /// Without slashes at its ends.
    pub(crate) path: &'a str,
}

impl Endpoint {
    /// The registry itself, under its own name.
    pub(crate) fn origin(host: &str, tls: Tls) -> Self {
        let server = if host == "docker.io" { DOCKER_SERVER } else { host };
        Self {
            host: host.to_owned(),
            api: format!("{}{server}/v2", scheme(tls.plain_http)),
            prefix: String::new(),
            upstream: None,
            is_origin: true,
            capabilities: vec![Capability::Pull, Capability::Resolve],
            tls,
            headers: Vec::new(),
            connect_timeout: None,
        }
    }
}

/// Whether a server's address is another way to write the registry that references call `host`.
pub(crate) fn is_same_host(server: &str, host: &str) -> bool {
    server == host || (host == "docker.io" && [DOCKER_SERVER, "index.docker.io"].contains(&server))
}

impl<'a> Address<'a> {
    /// Reads `[http://|https://]HOST[:PORT][/PATH]`.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (plain_http, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some(true), rest),
            Some(("https", rest)) => (Some(false), rest),
            Some(_) => return None,
            None => (None, text),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |c: char| c.is_ascii_graphic() && !['?', '#', '@', '"', '\\'].contains(&c);
        (is_host(host) && path.chars().all(fits)).then(|| Self {
            plain_http,
            host,
            path: path.trim_matches('/'),
        })
    }
}

/// `http://` or `https://`.
pub(crate) fn scheme(plain_http: bool) -> &'static str {
    if plain_http { "http://" } else { "https://" }
}

/// Whether a header can have this name and value.
pub(crate) fn is_header(name: &str, value: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty()
        && name.bytes().all(token)
        && value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("api", &self.api)
            .field("prefix", &self.prefix)
            .field("is_origin", &self.is_origin)
            .field("capabilities", &self.capabilities)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_scheme_a_host_and_a_path() {
        let check = |text: &str, expected: Option<(Option<bool>, &'static str, &'static str)>| {
            let expected = expected.map(|(plain_http, host, path)| Address { plain_http, host, path });
            assert_eq!(Address::parse(text), expected, "{text:?}");
        };
        check("m1:5000", Some((None, "m1:5000", "")));
        check("http://m3", Some((Some(true), "m3", "")));
        check("https://m2/cache/v2/", Some((Some(false), "m2", "cache/v2")));
        check("https://[::1]:5000/x", Some((Some(false), "[::1]:5000", "x")));
        for nonsense in ["", "https://", "ftp://x", "https://u:p@x", "x/a?b", "x/#", "x/a b", "x y", "x:port"]
        {
            check(nonsense, None);
        }
    }
}
