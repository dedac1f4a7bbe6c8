//! Compiles `proto/berth` to Rust with protox, so that no protoc is needed.

use std::error::Error;

const PROTO_DIR: &str = "../../proto";
const PROTO_FILE: &str = "berth/v1/admin.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_DIR}/{PROTO_FILE}");
    let descriptors = protox::compile([PROTO_FILE], [PROTO_DIR])?;
    tonic_prost_build::configure()
        // Its Debug is written by hand, in lib.rs.
        .skip_debug(["berth.v1.Credentials"])
        .compile_fds(descriptors)?;
    Ok(())
}
