//! The service `berth.v1.Admin` as Rust types: what berth offers beside CRI, on the same socket. In: `proto/berth/v1`,
//! compiled by `build.rs`. Out: [`v1`], which mirrors that file name for name. The agent's edge serves it, and the
//! subcommands of berth call it. By hand there is only the `Debug` of [`v1::Credentials`], which must not print them.

/// The generated messages, server trait and client of package `berth.v1`.
#[allow(
    clippy::all,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub,
    reason = "generated code: its style is the generator's, its comments are those of the .proto file"
)]
pub mod v1 {
    tonic::include_proto!("berth.v1");
}

impl std::fmt::Debug for v1::Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::v1::{Credentials, PullImageRequest};

    #[test]
    fn debug_never_prints_the_password() {
        let credentials = Credentials { username: "ann".to_owned(), password: "s3cret".to_owned() };
        let request =
            PullImageRequest { reference: "r.example/x".to_owned(), credentials: Some(credentials) };
        let text = format!("{request:?}");
        assert!(text.contains("ann") && !text.contains("s3cret"), "{text}");
    }
}
