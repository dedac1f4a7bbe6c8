//! A registry that has all of the test images, or others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::node::Node;
use crate::site::Site;
use crate::tools::{Running, eventually, repository, run, spawn};

/// Where it answers, without TLS.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Starts one on the node's loopback. A test stops it before the node goes, or it is one of the things left behind.
#[track_caller]
pub fn start_registry(node: &Node) -> Running {
    serve_images(node.site(), &node.dir().join("registry.log"), &[])
}

/// Starts one on a loopback, with the images of these OCI layouts, or with the test images if none is named.
#[track_caller]
pub fn serve_images(site: &Site, log: &Path, layouts: &[PathBuf]) -> Running {
    let script = |name: &str| repository().join("hack/images").join(name);
    let mut registry = spawn(site.command(script("registry")).arg("5000"), log);
    eventually("the registry", Duration::from_secs(30), || {
        assert_eq!(registry.ended(), None, "{}", registry.output());
        registry.output().contains("http://").then_some(())
    });
    run(site.command(script("push")).arg(format!("http://{REGISTRY}")).args(layouts));
    registry
}
