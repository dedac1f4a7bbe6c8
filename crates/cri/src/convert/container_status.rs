//! What is told of a container.

use std::collections::HashMap;

use berth_cri_proto::v1::{
    Container, ContainerMetadata, ContainerResources, ContainerState as State, ContainerStatus,
    ContainerUser, ImageSpec, LinuxContainerUser,
};
use berth_pod::view::{ContainerState, ContainerView, PodView};
use serde_json::json;

use super::{mounts, resources, signals};

/// The short form, for lists.
pub(crate) fn container_of(view: &ContainerView) -> Container {
    Container {
        id: view.id.to_string(),
        pod_sandbox_id: view.pod.to_string(),
        metadata: Some(metadata_of(view)),
        image: Some(image_of(view)),
        image_ref: view.image.to_string(),
        state: state_of(&view.state).into(),
        created_at: view.created_at_ns,
        labels: view.spec.labels.clone().into_iter().collect(),
        annotations: view.spec.annotations.clone().into_iter().collect(),
        image_id: view.image.to_string(),
    }
}

/// The long form.
pub(crate) fn container_status_of(view: &ContainerView) -> ContainerStatus {
    let spec = &view.spec;
    let status = ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(metadata_of(view)),
        state: state_of(&view.state).into(),
        created_at: view.created_at_ns,
        image: Some(shown_image_of(view)),
        image_ref: view.image.to_string(),
        labels: spec.labels.clone().into_iter().collect(),
        annotations: spec.annotations.clone().into_iter().collect(),
        mounts: (spec.mounts.iter())
            .map(|volume| mounts::mount_of(volume, view.volume_images.get(&volume.container_path)))
            .collect(),
        log_path: view.log_path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        resources: Some(ContainerResources {
            linux: Some(resources::resources_of(&view.limits, view.oom_score_adj)),
            windows: None,
        }),
        image_id: view.image.to_string(),
        user: Some(ContainerUser { linux: Some(user_of(view)) }),
        stop_signal: signals::name_of(view.stop_signal).into(),
        ..ContainerStatus::default()
    };
    with_times(status, &view.state)
}

/// All containers of a pod, the oldest first.
pub(crate) fn container_statuses_of(pod: &PodView) -> Vec<ContainerStatus> {
    let mut containers: Vec<_> = pod.containers.values().collect();
    containers.sort_by_key(|container| container.created_at_ns);
    containers.into_iter().map(|container| container_status_of(container)).collect()
}

/// The verbose answer: what crictl prints below `info`, and `berth ns` reads the process from.
pub(crate) fn container_info_of(view: &ContainerView) -> HashMap<String, String> {
    let info = json!({
        "pid": view.pid.unwrap_or(0),
        "sandboxID": view.pod,
        "cgroup": view.cgroup,
        "config": *view.spec,
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The API's word for a state.
pub(crate) fn state_of(state: &ContainerState) -> State {
    match state {
        ContainerState::Created => State::ContainerCreated,
        ContainerState::Running { .. } => State::ContainerRunning,
        ContainerState::Exited(_) => State::ContainerExited,
    }
}

fn with_times(status: ContainerStatus, state: &ContainerState) -> ContainerStatus {
    match state {
        ContainerState::Created => status,
        ContainerState::Running { started_at_ns } => ContainerStatus { started_at: *started_at_ns, ..status },
        ContainerState::Exited(ended) => ContainerStatus {
            started_at: ended.started_at_ns.unwrap_or(0),
            finished_at: ended.finished_at_ns,
            exit_code: ended.exit_code,
            reason: ended.reason.as_str().to_owned(),
            message: ended.message.clone(),
            ..status
        },
    }
}

pub(super) fn metadata_of(view: &ContainerView) -> ContainerMetadata {
    ContainerMetadata { name: view.spec.name.clone(), attempt: view.spec.attempt }
}

fn image_of(view: &ContainerView) -> ImageSpec {
    ImageSpec {
        image: view.spec.image.clone(),
        user_specified_image: view.spec.user_specified_image.clone(),
        ..ImageSpec::default()
    }
}

/// A kubelet creates containers by image id, and shows users what stands here: they want the name that they wrote.
fn shown_image_of(view: &ContainerView) -> ImageSpec {
    let image = image_of(view);
    match image.user_specified_image.as_str() {
        "" => image,
        name => ImageSpec { image: name.to_owned(), ..image },
    }
}

fn user_of(view: &ContainerView) -> LinuxContainerUser {
    LinuxContainerUser {
        uid: view.user.uid.into(),
        gid: view.user.gid.into(),
        supplemental_groups: view.user.groups.iter().map(|group| i64::from(*group)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use berth_pod::view::{Ended, Reason};

    use super::*;
    use crate::convert::testing::container_view;

    #[test]
    fn the_image_is_one_string_everywhere() {
        let view = container_view();
        let (short, long) = (container_of(&view), container_status_of(&view));
        assert!(long.image_id.starts_with("sha256:"));
        for id in [&short.image_id, &short.image_ref, &long.image_ref] {
            assert_eq!(*id, long.image_id);
        }
    }

    #[test]
    fn each_state_has_its_times_and_words() {
        let check = |state, want: (State, i64, i64, i32, &str)| {
            let status = container_status_of(&ContainerView { state, ..container_view() });
            let found = (
                status.state(),
                status.started_at,
                status.finished_at,
                status.exit_code,
                status.reason.as_str(),
            );
            assert_eq!(found, want);
        };
        check(ContainerState::Created, (State::ContainerCreated, 0, 0, 0, ""));
        check(ContainerState::Running { started_at_ns: 5 }, (State::ContainerRunning, 5, 0, 0, ""));
        let ended = Ended {
            started_at_ns: None,
            finished_at_ns: 9,
            exit_code: 137,
            reason: Reason::OomKilled,
            message: String::new(),
            lost_log_bytes: 0,
        };
        check(ContainerState::Exited(ended), (State::ContainerExited, 0, 9, 137, "OOMKilled"));
    }

    #[test]
    fn users_see_the_name_that_they_wrote() {
        let mut view = container_view();
        assert_eq!(container_status_of(&view).image.unwrap().image, "busybox");
        let mut spec = (*view.spec).clone();
        spec.user_specified_image = "docker.io/busybox:1".into();
        view.spec = spec.into();
        assert_eq!(container_status_of(&view).image.unwrap().image, "docker.io/busybox:1");
        assert_eq!(container_of(&view).image.unwrap().image, "busybox");
    }

    #[test]
    fn the_signal_and_the_user_are_told() {
        let status = container_status_of(&container_view());
        assert_eq!(status.stop_signal, 23, "SIGTERM");
        let user = status.user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1000, vec![50000]));
    }
}
