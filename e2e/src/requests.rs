//! Requests as a kubelet would make them for the simplest of pods; a test changes what it is about.

use std::path::Path;

use berth_cri_proto::v1::*;

/// The image of most containers here.
pub const BUSYBOX: &str = "localhost/berth/busybox:latest";

/// The image with a web server on port 8080.
pub const WEB: &str = "localhost/berth/web:latest";

/// The same with paths that its image calls volumes.
pub const VOLUMES: &str = "localhost/berth/web:zstd";

/// A pod with its own network and IPC namespace, whose containers have pid namespaces of their own.
pub fn sandbox(name: &str, logs: &Path) -> PodSandboxConfig {
    let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
    let security = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let linux = LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
    let metadata = PodSandboxMetadata {
        name: name.into(),
        uid: format!("uid-of-{name}"),
        namespace: "e2e".into(),
        attempt: 0,
    };
    PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.into(),
        log_directory: logs.join(name).to_str().unwrap().into(),
        linux: Some(linux),
        ..Default::default()
    }
}

/// A container that runs a shell script.
pub fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig { command: vec!["sh".into(), "-c".into(), script.into()], ..container(name, BUSYBOX) }
}

/// A container that runs what its image says.
pub fn container(name: &str, image: &str) -> ContainerConfig {
    let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
    let security = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
    let linux = LinuxContainerConfig { security_context: Some(security), ..Default::default() };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: image.into(), ..Default::default() }),
        log_path: format!("{name}.log"),
        linux: Some(linux),
        ..Default::default()
    }
}

/// A directory or file of the host's, shown to a container there.
pub fn volume(source: &Path, target: &str) -> Mount {
    Mount { host_path: source.to_str().unwrap().into(), container_path: target.into(), ..Mount::default() }
}

/// The same container, privileged.
pub fn privileged(mut config: ContainerConfig) -> ContainerConfig {
    security(&mut config).privileged = true;
    config
}

/// The part of a sandbox's request that says how its namespaces are.
pub fn sandbox_namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    sandbox_security(config).namespace_options.as_mut().unwrap()
}

/// The part of a sandbox's request about its rights.
pub fn sandbox_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

/// The part of a container's request about its rights.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

/// The part of a container's request about its limits.
pub fn limits(config: &mut ContainerConfig) -> &mut LinuxContainerResources {
    config.linux.as_mut().unwrap().resources.get_or_insert_default()
}
