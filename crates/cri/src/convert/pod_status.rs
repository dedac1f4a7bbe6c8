//! What is told of a pod's sandbox.

use std::collections::HashMap;

use berth_cri_proto::v1::{
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandbox, PodSandboxMetadata, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus,
};
use berth_pod::spec::PodIdentity;
use berth_pod::view::{PodState, PodView};
use serde_json::json;

use super::namespaces;

/// The short form, for lists.
pub(crate) fn sandbox_of(view: &PodView) -> PodSandbox {
    PodSandbox {
        id: view.id.to_string(),
        metadata: Some(metadata_of(&view.spec.identity)),
        state: state_of(view.state).into(),
        created_at: view.created_at_ns,
        labels: view.spec.labels.clone().into_iter().collect(),
        annotations: view.spec.annotations.clone().into_iter().collect(),
        runtime_handler: view.spec.runtime_handler.clone(),
    }
}

/// The long form.
pub(crate) fn sandbox_status_of(view: &PodView) -> PodSandboxStatus {
    let namespaces = Namespace { options: Some(namespaces::options_of(&view.spec)) };
    PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(metadata_of(&view.spec.identity)),
        state: state_of(view.state).into(),
        created_at: view.created_at_ns,
        network: Some(network_of(view)),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(namespaces) }),
        labels: view.spec.labels.clone().into_iter().collect(),
        annotations: view.spec.annotations.clone().into_iter().collect(),
        runtime_handler: view.spec.runtime_handler.clone(),
    }
}

/// The verbose answer: what crictl prints below `info`, and `berth ns` reads the process from.
pub(crate) fn sandbox_info_of(view: &PodView) -> HashMap<String, String> {
    let info = json!({
        "pid": view.pause_pid.unwrap_or(0),
        "monitorPid": view.monitor_pid.unwrap_or(0),
        "cgroup": view.cgroup,
        "hostInterface": view.host_interface,
        "timeline": view.timeline.steps().collect::<Vec<_>>(),
        "resources": view.resources,
        "config": *view.spec,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The API's word for a state.
pub(crate) fn state_of(state: PodState) -> PodSandboxState {
    match state {
        PodState::Ready => PodSandboxState::SandboxReady,
        PodState::NotReady => PodSandboxState::SandboxNotready,
    }
}

pub(super) fn metadata_of(identity: &PodIdentity) -> PodSandboxMetadata {
    PodSandboxMetadata {
        name: identity.name.clone(),
        uid: identity.uid.clone(),
        namespace: identity.namespace.clone(),
        attempt: identity.attempt,
    }
}

fn network_of(view: &PodView) -> PodSandboxNetworkStatus {
    let mut addresses = view.addresses.iter().map(|address| address.to_string());
    PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use berth_cri_proto::v1::NamespaceMode;

    use super::*;
    use crate::convert::testing::{pod_config, pod_view};

    #[test]
    fn status_tells_what_was_asked_for_and_what_came_of_it() {
        let view = pod_view();
        let status = sandbox_status_of(&view);
        assert_eq!(status.metadata, pod_config().metadata);
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        let network = status.network.unwrap();
        assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.1.0.2", "fd00::2"));
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(options.pid(), NamespaceMode::Pod);
        assert_eq!(sandbox_of(&view).created_at, status.created_at);
    }

    #[test]
    fn verbose_info_is_json_with_the_process() {
        let info: serde_json::Value = serde_json::from_str(&sandbox_info_of(&pod_view())["info"]).unwrap();
        assert_eq!(info["pid"], 42);
        assert_eq!(info["config"]["identity"]["name"], "web");
    }
}
