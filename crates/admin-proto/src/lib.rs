//! The service `berth.v1.Admin` as Rust types: what berth offers beside CRI, on the same socket. In: `proto/berth/v1`,
//! compiled by `build.rs`. Out: [`v1`], which mirrors that file name for name. Nothing is written by hand here; the agent's
//! edge serves it, and the subcommands of berth call it.

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
