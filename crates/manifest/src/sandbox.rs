//! A pod becomes the config of its sandbox.
//!
//! Pure. Names, labels and directories are as the kubelet makes them, so that crictl and others show the pod well.
//! No cgroup parent is asked for: the runtime has one of its own for pods that no kubelet accounts for.

use std::{collections::HashMap, path::PathBuf};

use berth_cri_proto::v1::{
    LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use k8s_openapi::api::core::v1::ContainerPort;

use crate::{
    dns::{dns_config, hostname},
    error::FieldError,
    parse::{PodFacts, PodManifest, containers},
    security::sandbox_security,
};

/// Label of sandboxes and containers: the pod's name.
pub(crate) const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// Label of sandboxes and containers: the pod's namespace.
pub(crate) const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Label of sandboxes and containers: the pod's uid.
pub(crate) const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";

/// The config for RunPodSandbox. Errors: a field of the pod that has no such config.
pub(crate) fn sandbox_config(
    manifest: &PodManifest,
    facts: &PodFacts,
) -> Result<PodSandboxConfig, FieldError> {
    let spec = &manifest.spec;
    let host_network = spec.host_network == Some(true);
    let mut labels: HashMap<_, _> = manifest.labels.clone().into_iter().collect();
    labels.extend(pod_labels(manifest, facts));
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: manifest.name.clone(),
            uid: facts.uid.clone(),
            namespace: manifest.namespace.clone(),
            attempt: 0,
        }),
        hostname: if host_network { String::new() } else { hostname(manifest).to_owned() },
        log_directory: facts.log_dir.display().to_string(),
        dns_config: dns_config(manifest, &facts.host_dns)?,
        port_mappings: port_mappings(manifest)?,
        labels,
        annotations: manifest.annotations.clone().into_iter().collect(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(sandbox_security(spec)?),
            sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
            ..Default::default()
        }),
        windows: None,
    })
}

/// The labels that say whose a sandbox or container is.
pub(crate) fn pod_labels(manifest: &PodManifest, facts: &PodFacts) -> [(String, String); 3] {
    [
        (POD_NAME_LABEL.to_owned(), manifest.name.clone()),
        (POD_NAMESPACE_LABEL.to_owned(), manifest.namespace.clone()),
        (POD_UID_LABEL.to_owned(), facts.uid.clone()),
    ]
}

/// The kubelet's name for a pod's log directory.
pub(crate) fn log_dir_name(manifest: &PodManifest, uid: &str) -> PathBuf {
    format!("{}_{}_{uid}", manifest.namespace, manifest.name).into()
}

fn port_mappings(manifest: &PodManifest) -> Result<Vec<PortMapping>, FieldError> {
    let mut mappings = Vec::new();
    for (path, container) in containers(&manifest.spec) {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            mappings.push(port_mapping(manifest, port, &format!("{path}.ports[{i}]"))?);
        }
    }
    Ok(mappings)
}

fn port_mapping(manifest: &PodManifest, port: &ContainerPort, path: &str) -> Result<PortMapping, FieldError> {
    if !(1..=65_535).contains(&port.container_port) {
        let reason = format!("{} is not between 1 and 65535", port.container_port);
        return Err(FieldError::new(format!("{path}.containerPort"), reason));
    }
    let host_port = port.host_port.unwrap_or(0);
    let on_host = manifest.spec.host_network == Some(true) && host_port == port.container_port;
    if host_port != 0 && !on_host {
        let reason = format!("{host_port} is supported only on the host's network, equal to containerPort");
        return Err(FieldError::new(format!("{path}.hostPort"), reason));
    }
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => {
            return Err(FieldError::new(
                format!("{path}.protocol"),
                format!("{other:?} is not TCP, UDP or SCTP"),
            ));
        }
    };
    Ok(PortMapping { protocol: protocol.into(), container_port: port.container_port, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tests::{manifest, refused_path};

    #[test]
    fn a_sandbox_says_whose_it_is() {
        let manifest = manifest(
            "metadata: {name: p, namespace: ns, labels: {app: shop}, annotations: {note: x}}
spec:
  securityContext: {sysctls: [{name: net.core.somaxconn, value: '5'}]}
  containers: [{name: c, image: i, ports: [{containerPort: 53, protocol: UDP}]}]",
        );
        let facts = PodFacts { uid: "u".to_owned(), log_dir: "/logs/ns_p_u".into(), ..Default::default() };
        let config = sandbox_config(&manifest, &facts).unwrap();
        assert_eq!(config.hostname, "p");
        assert_eq!(config.log_directory, "/logs/ns_p_u");
        assert_eq!(config.labels["app"], "shop");
        assert_eq!(config.labels[POD_UID_LABEL], "u");
        assert_eq!(config.labels[POD_NAMESPACE_LABEL], "ns");
        assert_eq!(config.annotations["note"], "x");
        assert_eq!(config.dns_config, None);
        assert_eq!(config.linux.unwrap().sysctls["net.core.somaxconn"], "5");
        let port = &config.port_mappings[0];
        assert_eq!((port.protocol(), port.container_port, port.host_port), (Protocol::Udp, 53, 0));
    }

    #[test]
    fn ports_of_the_host_are_refused_except_on_its_own_network() {
        let spec = |rest: &str, port: &str| {
            format!("{{containers: [{{name: c, image: i, ports: [{{{port}}}]}}]{rest}}}")
        };
        for (rest, port, path) in [
            ("", "containerPort: 80, hostPort: 80", "spec.containers[0].ports[0].hostPort"),
            (
                ", hostNetwork: true",
                "containerPort: 80, hostPort: 81",
                "spec.containers[0].ports[0].hostPort",
            ),
            ("", "containerPort: 0", "spec.containers[0].ports[0].containerPort"),
            ("", "containerPort: 1, protocol: ICMP", "spec.containers[0].ports[0].protocol"),
        ] {
            assert_eq!(refused_path(&spec(rest, port)), path, "{rest} {port}");
        }
        let on_host = spec(", hostNetwork: true", "containerPort: 80, hostPort: 80");
        let manifest = manifest(&format!("metadata: {{name: p}}\nspec: {on_host}"));
        assert_eq!(sandbox_config(&manifest, &PodFacts::default()).unwrap().hostname, "");
    }
}
