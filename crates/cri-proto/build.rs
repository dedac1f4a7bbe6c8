//! Compiles `proto/` to Rust: protox parses (so no protoc is needed), tonic writes the server, the client and the
//! messages, and the descriptors are kept beside them for the test that checks the contract against known facts.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTO_DIR: &str = "../../proto";
const PROTO_FILE: &str = "runtime/v1/api.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_DIR}");
    let descriptors = protox::compile([PROTO_FILE], [PROTO_DIR])?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Holds credentials: its Debug is written by hand, in lib.rs.
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
