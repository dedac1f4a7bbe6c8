//! Small valid messages and values that tests change one thing of.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_cgroup::Limits;
use berth_cri_proto::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig, PodSandboxMetadata,
};
use berth_image::{Digest, ImageId};
use berth_monitor::id::{ContainerId, PodId};
use berth_monitor::protocol::ResolvedUser;
use berth_pod::spec::{PodResources, SandboxSpec};
use berth_pod::timeline::Timeline;
use berth_pod::view::{ContainerState, ContainerView, PodState, PodView};

use super::container::container_spec_from;
use super::sandbox::sandbox_spec_from;

pub(crate) fn pod_config() -> PodSandboxConfig {
    let metadata =
        PodSandboxMetadata { name: "web".into(), uid: "7".into(), namespace: "default".into(), attempt: 0 };
    PodSandboxConfig { metadata: Some(metadata), ..PodSandboxConfig::default() }
}

pub(crate) fn sandbox_spec() -> SandboxSpec {
    sandbox_spec_from(Some(pod_config()), String::new()).unwrap()
}

pub(crate) fn container_config() -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "server".into(), attempt: 1 }),
        image: Some(ImageSpec { image: "busybox".into(), ..ImageSpec::default() }),
        ..ContainerConfig::default()
    }
}

pub(crate) fn pod_view() -> PodView {
    let addresses = ["10.1.0.2", "fd00::2"].iter().map(|ip| ip.parse().unwrap()).collect();
    PodView {
        id: PodId::from_random([1; 32]),
        spec: Arc::new(sandbox_spec()),
        state: PodState::Ready,
        created_at_ns: 1_000,
        addresses,
        pause_pid: Some(42),
        monitor_pid: Some(41),
        cgroup: "/berth/x".into(),
        resources: PodResources::default(),
        host_interface: None,
        containers: BTreeMap::new(),
        timeline: Timeline::default(),
    }
}

pub(crate) fn container_view() -> ContainerView {
    let user = ResolvedUser { uid: 1000, gid: 1000, groups: vec![50000], home: None };
    ContainerView {
        id: ContainerId::from_random([2; 32]),
        pod: PodId::from_random([1; 32]),
        spec: Arc::new(container_spec_from(Some(container_config()), &sandbox_spec()).unwrap()),
        image: ImageId(Digest::of(b"config")),
        volume_images: BTreeMap::new(),
        state: ContainerState::Created,
        created_at_ns: 2_000,
        pid: None,
        user,
        log_path: None,
        stop_signal: 15,
        cgroup: "/berth/x/y".into(),
        limits: Limits::default(),
        oom_score_adj: None,
    }
}
