//! Version: the probe of every client. It waits for nothing.

use berth_cri_proto::v1::VersionResponse;

use crate::RUNTIME_NAME;

/// The version of the kubelet's own API; it has never been another.
const KUBE_API_VERSION: &str = "0.1.0";

pub(crate) fn handle() -> VersionResponse {
    VersionResponse {
        version: KUBE_API_VERSION.to_owned(),
        runtime_name: RUNTIME_NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}
