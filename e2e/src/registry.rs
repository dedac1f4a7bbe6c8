//! A registry that has all of the test images.

use std::time::Duration;

use crate::node::Node;
use crate::tools::{Running, eventually, repository, spawn};

/// Where it answers, without TLS.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Starts one on the node's loopback. A test stops it before the node goes, or it is one of the things left behind.
#[track_caller]
pub fn start_registry(node: &Node) -> Running {
    let script = |name: &str| repository().join("hack/images").join(name);
    let log = node.dir().join("registry.log");
    let mut command = node.site().command(script("registry"));
    let mut registry = spawn(command.arg("5000"), &log);
    eventually("the registry", Duration::from_secs(30), || {
        assert_eq!(registry.ended(), None, "{}", registry.output());
        registry.output().contains("http://").then_some(())
    });
    let push = script("push");
    node.site().run(push.to_str().unwrap(), &[&format!("http://{REGISTRY}")]);
    registry
}
