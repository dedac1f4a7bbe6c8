//! Images by all of their names: pulled through a mirror, listed, found, kept and removed.

use std::time::Duration;

use berth_cri_proto::v1::*;
use berth_e2e::{Node, REGISTRY, requests, start_registry};
use rustix::process::Signal;
use tonic::Code;

const WEB: &str = "registry.test/berth/web";

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.into(), ..ImageSpec::default() })
}

fn pull(node: &Node, image: &str) -> String {
    let request = PullImageRequest {
        image: Some(ImageSpec { annotations: [("a".into(), "b".into())].into(), ..spec(image).unwrap() }),
        sandbox_config: Some(node.sandbox("puller")),
        ..PullImageRequest::default()
    };
    node.cri().pull_image(request).unwrap().image_ref
}

fn status(node: &Node, image: &str) -> Option<Image> {
    node.cri().image_status(ImageStatusRequest { image: spec(image), verbose: false }).unwrap().image
}

fn list(node: &Node, filter: &str) -> Vec<Image> {
    let filter = Some(ImageFilter { image: spec(filter) });
    node.cri().list_images(ListImagesRequest { filter }).unwrap().images
}

fn remove(node: &Node, image: &str) {
    node.cri().remove_image(RemoveImageRequest { image: spec(image) }).unwrap();
}

#[test]
#[ignore = "needs root and docker-registry"]
fn an_image_has_one_id_and_goes_by_any_of_its_names() {
    let node = Node::start_empty(&format!(
        "[images]\npinned = ['*/busybox:*']\n\
         [registries.hosts.'registry.test']\nmirrors = ['http://{REGISTRY}']\n\
         [registries.hosts.'other.test']\nmirrors = ['http://{REGISTRY}']"
    ));
    let mut registry = start_registry(&node);
    let id = pull(&node, &format!("{WEB}:latest"));
    assert!(node.journal().contains("served=\"http://127.0.0.1:5000/v2 ("), "{}", node.journal());
    let image = status(&node, &format!("{WEB}:latest")).unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, [format!("{WEB}:latest")]);
    assert_eq!(image.repo_digests.len(), 1);
    assert!(!image.pinned);
    let by_digest = image.repo_digests[0].clone();

    // By digest it gets a digest more, and no tag.
    remove(&node, &id);
    assert_eq!(status(&node, &by_digest), None);
    assert_eq!(pull(&node, &by_digest), id);
    let image = status(&node, &by_digest).unwrap();
    assert_eq!(
        (image.repo_tags.as_slice(), image.repo_digests.as_slice()),
        ([].as_slice(), [by_digest.clone()].as_slice())
    );

    let other = by_digest.replace("registry.test", "other.test");
    pull(&node, &format!("{WEB}:latest"));
    assert_eq!(pull(&node, "other.test/berth/web:latest"), id);
    let hex = id.strip_prefix("sha256:").unwrap();
    let tagged = format!("{WEB}:latest@{}", by_digest.split_once('@').unwrap().1);
    let names = [&id, hex, &hex[..10], &format!("{WEB}:latest"), WEB, &by_digest, &other, &tagged];
    let image = status(&node, &id).unwrap();
    for name in names {
        assert_eq!(status(&node, name).as_ref(), Some(&image), "{name}");
        assert_eq!(list(&node, name), std::slice::from_ref(&image), "{name}");
    }
    assert_eq!(list(&node, &format!("{WEB}:zstd")), []);
    let busybox = pull(&node, "registry.test/berth/busybox");
    assert_eq!(list(&node, "").len(), 2);
    assert!(status(&node, &busybox).unwrap().pinned);
    node.crictl(&["rmi", "--prune"]);
    assert_eq!(list(&node, "").len(), 1, "what is pinned stays");
    assert!(node.crictl(&["images", "-v", "--pinned"]).contains(&busybox));

    for name in names {
        for tag in ["registry.test/berth/web:latest", "other.test/berth/web:latest"] {
            assert_eq!(pull(&node, tag), id);
        }
        remove(&node, name);
        assert_eq!(status(&node, &id), None, "{name} removes the image");
        remove(&node, name);
    }
    remove(&node, &busybox);
    registry.signal(Signal::TERM);
    registry.wait(Duration::from_secs(10)).expect("the registry stops");
}

#[test]
#[ignore = "needs root and the test images"]
fn an_image_in_use_stays_and_is_the_same_everywhere() {
    let node = Node::start();
    let pod = node.pod("user");
    let id = pod.start(requests::container("web", requests::WEB));
    let image = status(&node, requests::WEB).unwrap();
    let container = pod.status(&id);
    assert_eq!((&container.image_id, &container.image_ref), (&image.id, &image.id));
    assert_eq!(node.cri().containers()[0].image_id, image.id);
    let refused = node.cri().remove_image(RemoveImageRequest { image: spec(&image.id) }).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains(&id), "{refused}");
    assert_eq!(status(&node, requests::WEB), Some(image));
    pod.take_down();
}
