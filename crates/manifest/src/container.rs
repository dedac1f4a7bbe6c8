//! A container of a pod becomes the config of a CRI container.
//!
//! Pure. What only the run knows is filled in by the runner: the attempt (and the log path that goes with it) and the
//! image's reference, once it has been pulled.

use berth_cri_proto::v1::{ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig};
use k8s_openapi::api::core::v1::Container;

use crate::{
    env::{container_env, expand},
    error::FieldError,
    parse::{PodFacts, PodManifest},
    resources::{container_resources, qos},
    sandbox::pod_labels,
    security::container_security,
    volumes::{mounts, volumes},
};

/// Label of containers: the container's name.
pub(crate) const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";

/// The config of `container`, which stands at `path`, for its first attempt. Errors: a field that has no such config.
pub(crate) fn container_config(
    manifest: &PodManifest,
    container: &Container,
    path: &str,
    facts: &PodFacts,
) -> Result<ContainerConfig, FieldError> {
    let env = container_env(manifest, container, path, facts)?;
    let expand_all =
        |words: &Option<Vec<String>>| words.iter().flatten().map(|word| expand(word, &env)).collect();
    let image = container.image.clone().unwrap_or_default();
    let qos = qos(&manifest.spec)?;
    let mut config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: 0 }),
        image: Some(ImageSpec { image: image.clone(), user_specified_image: image, ..Default::default() }),
        command: expand_all(&container.command),
        args: expand_all(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: mounts(&volumes(manifest, facts)?, container, path, facts)?,
        labels: pod_labels(manifest, facts).into_iter().collect(),
        log_path: log_path(&container.name, 0),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(container_resources(container, path, qos, facts.machine_memory_bytes)?),
            security_context: Some(container_security(&manifest.spec, container, path)?),
        }),
        ..Default::default()
    };
    config.envs = env.into_iter().map(|(key, value)| KeyValue { key, value: value.into_bytes() }).collect();
    config.labels.insert(CONTAINER_NAME_LABEL.to_owned(), container.name.clone());
    Ok(config)
}

/// The kubelet's name for the log of an attempt, relative to the pod's log directory.
pub(crate) fn log_path(container_name: &str, attempt: u32) -> String {
    format!("{container_name}/{attempt}.log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tests::manifest;

    #[test]
    fn a_container_becomes_its_config() {
        let manifest = manifest(
            "metadata: {name: p}
spec:
  containers:
  - name: web
    image: example/web:1
    command: [/bin/web, --name=$(NAME)]
    args: ['$$(NAME)', $(NONE)]
    workingDir: /srv
    tty: true
    env: [{name: NAME, value: x}]
    resources: {limits: {memory: 64Mi}}",
        );
        let facts = PodFacts { uid: "u".to_owned(), dir: "/pods/u".into(), ..Default::default() };
        let config = container_config(&manifest, &manifest.spec.containers[0], "c", &facts).unwrap();
        assert_eq!(config.command, ["/bin/web", "--name=x"]);
        assert_eq!(config.args, ["$(NAME)", "$(NONE)"]);
        assert_eq!(config.working_dir, "/srv");
        assert_eq!((config.stdin, config.tty), (false, true));
        assert_eq!(config.envs, [KeyValue { key: "NAME".to_owned(), value: b"x".to_vec() }]);
        assert_eq!(config.labels[CONTAINER_NAME_LABEL], "web");
        assert_eq!(config.labels["io.kubernetes.pod.name"], "p");
        assert_eq!(config.log_path, "web/0.log");
        assert_eq!(config.image.unwrap().user_specified_image, "example/web:1");
        assert_eq!(config.linux.unwrap().resources.unwrap().memory_limit_in_bytes, 64 << 20);
    }
}
