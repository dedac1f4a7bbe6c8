//! A layer's tar: nothing panics, and nothing outside the tree is touched.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|tar: &[u8]| {
    let around = tempfile::tempdir().unwrap();
    let (tree, record, witness) =
        (around.path().join("tree"), around.path().join("record"), around.path().join("witness"));
    fs::create_dir(&tree).unwrap();
    fs::write(&witness, "untouched").unwrap();
    berth_image::fuzzing::unpack_layer(tar, &tree, &record);
    assert_eq!(fs::read_to_string(&witness).unwrap(), "untouched");
    let mut names: Vec<_> = fs::read_dir(around.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["record", "tree", "witness"]);
});
