//! Trees that resist their removal.

use std::fs;

use berth_image::remove_tree;

use super::lies::Mounted;
use super::*;

#[test]
#[ignore = "needs root: makes files immutable"]
fn what_a_container_has_made_immutable_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let inner = tree.join("fixed/deeper");
    fs::create_dir_all(&inner).unwrap();
    for (name, flag) in
        [("file", "+i"), ("log", "+a"), ("plain", "+A"), (".", "+a"), ("..", "+i"), ("../..", "+i")]
    {
        let path = inner.join(name);
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        run(Command::new("chattr").arg(flag).arg(&path));
    }
    std::os::unix::fs::symlink("/nowhere", inner.join("link")).unwrap();
    assert!(fs::remove_dir_all(&tree).is_err());
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
#[ignore = "needs root: mounts a file"]
fn a_file_on_which_another_is_mounted_is_told_as_a_mount_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, precious) = (dir.path().join("tree"), dir.path().join("precious"));
    fs::create_dir(&tree).unwrap();
    let point = tree.join("point");
    for path in [&point, &precious] {
        fs::write(path, "precious").unwrap();
    }
    run(Command::new("mount").arg("--bind").arg(&precious).arg(&point));
    let mounted = Mounted(point.clone());
    let error = remove_tree(&tree).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices);
    drop(mounted);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    remove_tree(&tree).unwrap();
}
