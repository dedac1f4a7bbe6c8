//! Manifests, indexes and configs from registries and archives: nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| berth_image::fuzzing::read_documents(data));
