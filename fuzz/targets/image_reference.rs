//! Image references from requests: nothing panics, and what was read reads the same when it is written out.
#![no_main]

use berth_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    let again = Reference::parse(&reference.to_string());
    assert_eq!(again.ok().as_ref(), Some(&reference), "{reference}");
    assert!(!reference.host().is_empty() && !reference.repository().is_empty());
    let _ = (reference.name(), reference.repo_tag(), reference.digest());
});
