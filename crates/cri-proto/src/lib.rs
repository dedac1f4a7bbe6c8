//! The CRI v1 contract (package `runtime.v1`) as Rust types, with its gRPC server traits and clients.
//!
//! In: `proto/runtime/v1/api.proto`, compiled by `build.rs`. Out: [`v1`], which mirrors that file name for name, and
//! [`connect()`], which opens a client channel on a runtime's socket. Nothing here interprets a message: the agent's
//! edge does that for requests, and whoever drives a runtime does it for replies.
//!
//! The one hand-written type detail is the `Debug` of [`v1::AuthConfig`], which must not print credentials.

mod connect;

pub use connect::{ConnectError, connect};

/// The generated messages, server traits and clients of package `runtime.v1`.
#[allow(
    clippy::all,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub,
    reason = "generated code: its style is the generator's, its comments are those of the .proto file"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The compiled `FileDescriptorSet` of the contract, in protobuf's own encoding.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message that a client of this API is expected to take, in bytes: the kubelet's limit.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let redact = |secret: &str| if secret.is_empty() { "" } else { "(redacted)" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &redact(&self.password))
            .field("auth", &redact(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &redact(&self.identity_token))
            .field("registry_token", &redact(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::v1::{AuthConfig, PullImageRequest};

    #[test]
    fn debug_never_prints_credentials() {
        let secret = || "s3cret".to_owned();
        let auth = AuthConfig {
            username: "ann".to_owned(),
            password: secret(),
            auth: secret(),
            server_address: "registry.example".to_owned(),
            identity_token: secret(),
            registry_token: secret(),
        };
        let text = format!("{:?}", PullImageRequest { auth: Some(auth), ..Default::default() });
        assert!(text.contains("ann") && text.contains("registry.example"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
