//! Files of operators that say where a registry's images are: nothing panics, and a file reads the same every time.
#![no_main]

use berth_image::check_hosts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let [first, second] = [check_hosts(text), check_hosts(text)].map(|read| read.map_err(|error| error.to_string()));
    assert_eq!(first, second);
});
