//! Who a container runs as, which an image has a say in.

use std::fs;
use std::time::{Duration, Instant};

use berth_e2e::requests::{container, security};
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;

use super::images::{Images, Layer, image};

/// CVE-2024-40635: numbers that are no user's must not become a smaller one, which may be root's.
#[test]
#[ignore = "needs root and the test images"]
fn a_number_too_large_for_a_user_is_not_root() {
    let numbers = [
        ("round", "4294967296"),
        ("round-group", "1000:4294967296"),
        ("no-change", "4294967295"),
        ("no-change-group", "1000:4294967295"),
        ("far", "18446744073709551616"),
        ("negative", "-1"),
    ];
    let images = numbers
        .iter()
        .fold(Images::new(), |images, (name, user)| images.with(name, Layer::new(), &json!({"User": user})));
    let images = images.with("large", Layer::new(), &json!({"User": "2147483648:4294967294"}));
    let node = images.node();
    let pod = node.pod("numbers");
    for (name, user) in numbers {
        let refused = pod.try_create(container(name, &image(name))).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(user), "{refused}");
    }
    // Those that the kernel has are users as any other, and nobody's.
    let mut config = container("large", &image("large"));
    config.command = ["sleep", "1000"].map(str::to_owned).into();
    let id = pod.start(config);
    assert_eq!(pod.exec(&id, "id -u; id -g"), "2147483648\n4294967294");
}

/// The files that users are looked up in belong to the image: a link in their place leads to its own files, and what is
/// no file or does not end is refused.
#[test]
#[ignore = "needs root and the test images"]
fn users_are_those_of_the_image_whatever_it_has_in_place_of_its_files() {
    let outside = TempDir::new().unwrap();
    let hosts = outside.path().join("passwd");
    fs::write(&hosts, "spy:x:4242:4242::/:/bin/sh\n").unwrap();
    let huge = "web:x:1000:1000::/:/bin/sh\n".repeat(200_000);
    let layers = [
        ("link", Layer::new().symlink("etc/passwd", &hosts), "no user \"spy\""),
        ("fifo", Layer::new().fifo("etc/passwd"), "read the image's /etc/passwd"),
        ("device", Layer::new().zero("etc/passwd"), "read the image's /etc/passwd"),
        ("directory", Layer::new().directory("etc/passwd"), "read the image's /etc/passwd"),
        ("huge", Layer::new().file("etc/passwd", huge.as_bytes()), "read the image's /etc/passwd"),
        ("group", Layer::new().zero("etc/group"), "read the image's /etc/group"),
    ];
    let (mut images, mut cases) = (Images::new(), Vec::new());
    for (name, layer, words) in layers {
        images = images.with(name, layer, &json!({}));
        cases.push((name, words));
    }
    let node = images.node();
    let pod = node.pod("users");
    for (name, words) in cases {
        let begun = Instant::now();
        let mut config = container(name, &image(name));
        security(&mut config).run_as_username = "spy".into();
        let refused = pod.try_create(config).unwrap_err();
        assert!(refused.message().contains(words), "{name}: {refused}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{name} was waited for");
    }
}
