//! The `[streaming]` section of the agent's settings.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::places::Bounds;

/// The server that exec, attach and port-forward go through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamingConfig {
    /// Address to listen on. The kubelet connects to it; nobody else has to.
    pub address: IpAddr,
    /// Port to listen on; 0 lets the kernel choose one.
    pub port: u16,
    /// PEM file of the server's certificate and those between it and its authority. When not set: no TLS.
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub tls_key_file: Option<PathBuf>,
    /// How long a connection may carry no data before it is closed.
    pub idle_timeout_seconds: u64,
    /// How long a client may take to open all streams of a session.
    pub stream_creation_timeout_seconds: u64,
    /// How long one forwarded connection whose port takes nothing may keep the others of the same client waiting. Then
    /// it is reset. One that is alone may wait for ever.
    pub stalled_stream_timeout_seconds: u64,
    /// How many sessions there may be at once; those count, too, whose client is still to come.
    pub max_sessions: usize,
    /// How many of them one container may have for exec and attach, and one pod for port-forward.
    pub max_sessions_per_container: usize,
}

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            tls_cert_file: None,
            tls_key_file: None,
            idle_timeout_seconds: 4 * 60 * 60,
            stream_creation_timeout_seconds: 30,
            stalled_stream_timeout_seconds: 30,
            max_sessions: 1000,
            max_sessions_per_container: 100,
        }
    }
}

impl StreamingConfig {
    /// Finds faults that the types allow: half a pair of TLS files, no time at all, no sessions.
    ///
    /// # Errors
    /// Which key is wrong, and why.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |key, reason| Err(Error::Config { key, reason });
        match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(_), None) => return wrong("tls_key_file", "must be set with tls_cert_file"),
            (None, Some(_)) => return wrong("tls_cert_file", "must be set with tls_key_file"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        let at_least_one = [
            (self.idle_timeout_seconds == 0, "idle_timeout_seconds"),
            (self.stream_creation_timeout_seconds == 0, "stream_creation_timeout_seconds"),
            (self.stalled_stream_timeout_seconds == 0, "stalled_stream_timeout_seconds"),
            (self.max_sessions == 0, "max_sessions"),
            (self.max_sessions_per_container == 0, "max_sessions_per_container"),
        ];
        match at_least_one.iter().find(|(is_zero, _)| *is_zero) {
            Some((_, key)) => wrong(key, "must be at least 1"),
            None => Ok(()),
        }
    }

    /// Whether sessions can be read on a network: it listens beyond loopback, and without TLS.
    pub fn is_open_to_others(&self) -> bool {
        self.tls_cert_file.is_none() && !self.address.to_canonical().is_loopback()
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { all: self.max_sessions, of_one: self.max_sessions_per_container }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            idle: Duration::from_secs(self.idle_timeout_seconds),
            stream_creation: Duration::from_secs(self.stream_creation_timeout_seconds),
            stalled_stream: Duration::from_secs(self.stalled_stream_timeout_seconds),
        }
    }
}

/// The times that one connection is bound by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) idle: Duration,
    pub(crate) stream_creation: Duration,
    pub(crate) stalled_stream: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_by_their_key() {
        let good = StreamingConfig::default();
        let path = || Some(PathBuf::from("/x"));
        let cases = [
            (good.clone(), None),
            (StreamingConfig { tls_cert_file: path(), ..good.clone() }, Some("tls_key_file")),
            (StreamingConfig { tls_key_file: path(), ..good.clone() }, Some("tls_cert_file")),
            (StreamingConfig { idle_timeout_seconds: 0, ..good.clone() }, Some("idle_timeout_seconds")),
            (
                StreamingConfig { stream_creation_timeout_seconds: 0, ..good.clone() },
                Some("stream_creation_timeout_seconds"),
            ),
            (
                StreamingConfig { stalled_stream_timeout_seconds: 0, ..good.clone() },
                Some("stalled_stream_timeout_seconds"),
            ),
            (StreamingConfig { max_sessions: 0, ..good.clone() }, Some("max_sessions")),
            (StreamingConfig { max_sessions_per_container: 0, ..good }, Some("max_sessions_per_container")),
        ];
        for (config, expected) in cases {
            let found = match config.validate() {
                Ok(()) => None,
                Err(Error::Config { key, .. }) => Some(key),
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{config:?}");
        }
    }

    #[test]
    fn only_what_others_can_reach_needs_tls() {
        let cases = [
            ("127.0.0.1", false, false),
            ("127.8.0.1", false, false),
            ("::1", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("0.0.0.0", false, true),
            ("::", false, true),
            ("192.0.2.1", false, true),
            ("192.0.2.1", true, false),
        ];
        for (address, has_tls, expected) in cases {
            let tls_cert_file = has_tls.then(|| PathBuf::from("/x"));
            let address = address.parse().unwrap();
            let config = StreamingConfig { address, tls_cert_file, ..Default::default() };
            assert_eq!(config.is_open_to_others(), expected, "{config:?}");
        }
    }
}
