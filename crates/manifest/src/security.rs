//! Security contexts: a container's own settings win over its pod's, and become the CRI's.
//!
//! Pure. Besides the merge this knows the kubelet's defaults: no seccomp unless asked for, the masked and read-only
//! paths of /proc and /sys, which namespaces are the host's.
//! Source: Kubernetes 1.37, pkg/securitycontext, pkg/kubelet/kuberuntime/security_context.go.

use berth_cri_proto::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile, SecurityContext,
};

use std::path::{Component, Path};

use crate::{
    error::FieldError,
    parse::{check_choice, containers},
};

const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Where a kubelet looks for the node's own profiles.
const SECCOMP_PROFILES: &str = "/var/lib/kubelet/seccomp";

const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Which namespaces the pod shares among its containers or with the host.
pub(crate) fn namespaces(spec: &PodSpec) -> Result<NamespaceOption, FieldError> {
    let node_if = |host: Option<bool>| {
        if host == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod }
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), Some(true)) => {
            return Err(FieldError::new("spec.shareProcessNamespace", "can't be combined with hostPID"));
        }
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    Ok(NamespaceOption {
        network: node_if(spec.host_network).into(),
        pid: pid.into(),
        ipc: node_if(spec.host_ipc).into(),
        ..Default::default()
    })
}

/// What the sandbox itself may do; it is privileged when a container of it is.
pub(crate) fn sandbox_security(spec: &PodSpec) -> Result<LinuxSandboxSecurityContext, FieldError> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let privileged = |container: &Container| {
        container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
    };
    Ok(LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(spec)?),
        selinux_options: pod.se_linux_options.as_ref().map(selinux),
        run_as_user: pod.run_as_user.map(number),
        // A group without a user is an error to a runtime; the containers still get theirs.
        run_as_group: pod.run_as_group.filter(|_| pod.run_as_user.is_some()).map(number),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod)?.into(),
        privileged: containers(spec).iter().any(|(_, container)| privileged(container)),
        seccomp: Some(profile(ProfileType::RuntimeDefault, "")),
        ..Default::default()
    })
}

/// What `container`, which stands at `path`, may do.
pub(crate) fn container_security(
    spec: &PodSpec,
    container: &Container,
    path: &str,
) -> Result<LinuxContainerSecurityContext, FieldError> {
    let own = container.security_context.clone().unwrap_or_default();
    let pod = spec.security_context.clone().unwrap_or_default();
    let path = format!("{path}.securityContext");
    let privileged = own.privileged == Some(true);
    if privileged && own.allow_privilege_escalation == Some(false) {
        let reason = "can't be false for a privileged container";
        return Err(FieldError::new(format!("{path}.allowPrivilegeEscalation"), reason));
    }
    let unmasked = is_unmasked(&own, &path)? || privileged;
    let paths = |list: &[&str]| list.iter().filter(|_| !unmasked).map(|&path| path.to_owned()).collect();
    let capabilities = own.capabilities.clone().unwrap_or_default();
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(spec)?),
        selinux_options: own.se_linux_options.as_ref().or(pod.se_linux_options.as_ref()).map(selinux),
        run_as_user: run_as_user(spec, container).map(number),
        run_as_group: own.run_as_group.or(pod.run_as_group).map(number),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod)?.into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        seccomp: Some(if privileged {
            profile(ProfileType::Unconfined, "")
        } else {
            seccomp(&own, &pod, &path)?
        }),
        apparmor: apparmor(&own, &pod, &path)?,
        ..Default::default()
    })
}

/// The user that the manifest asks for; None leaves it to the image.
pub(crate) fn run_as_user(spec: &PodSpec, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or_else(|| spec.security_context.as_ref()?.run_as_user)
}

/// Whether the manifest forbids that the container runs as root.
pub(crate) fn run_as_non_root(spec: &PodSpec, container: &Container) -> bool {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_non_root);
    own.or_else(|| spec.security_context.as_ref()?.run_as_non_root) == Some(true)
}

fn number(value: i64) -> Int64Value {
    Int64Value { value }
}

fn is_unmasked(own: &SecurityContext, path: &str) -> Result<bool, FieldError> {
    check_choice(&format!("{path}.procMount"), &own.proc_mount, &["Default", "Unmasked"])?;
    Ok(own.proc_mount.as_deref() == Some("Unmasked"))
}

fn groups(pod: &PodSecurityContext) -> Vec<i64> {
    pod.supplemental_groups.iter().flatten().copied().chain(pod.fs_group).collect()
}

fn groups_policy(pod: &PodSecurityContext) -> Result<SupplementalGroupsPolicy, FieldError> {
    let path = "spec.securityContext.supplementalGroupsPolicy";
    check_choice(path, &pod.supplemental_groups_policy, &["Merge", "Strict"])?;
    Ok(match pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    })
}

fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn profile(kind: ProfileType, localhost_ref: &str) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.to_owned() }
}

fn seccomp(
    own: &SecurityContext,
    pod: &PodSecurityContext,
    path: &str,
) -> Result<SecurityProfile, FieldError> {
    let (chosen, path): (Option<&SeccompProfile>, _) = match &own.seccomp_profile {
        Some(own) => (Some(own), path),
        None => (pod.seccomp_profile.as_ref(), "spec.securityContext"),
    };
    let Some(chosen) = chosen else { return Ok(profile(ProfileType::Unconfined, "")) };
    match (chosen.type_.as_str(), chosen.localhost_profile.as_deref()) {
        ("Unconfined", None) => Ok(profile(ProfileType::Unconfined, "")),
        ("RuntimeDefault", None) => Ok(profile(ProfileType::RuntimeDefault, "")),
        ("Localhost", Some(name)) => {
            let below = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            if name.is_empty() || !below {
                let reason = format!("{name:?} is no path below {SECCOMP_PROFILES}");
                return Err(FieldError::new(format!("{path}.seccompProfile.localhostProfile"), reason));
            }
            Ok(profile(ProfileType::Localhost, &format!("{SECCOMP_PROFILES}/{name}")))
        }
        (kind, _) => {
            let reason = format!("type {kind:?} and localhostProfile don't go together");
            Err(FieldError::new(format!("{path}.seccompProfile"), reason))
        }
    }
}

fn apparmor(
    own: &SecurityContext,
    pod: &PodSecurityContext,
    path: &str,
) -> Result<Option<SecurityProfile>, FieldError> {
    let (chosen, path): (Option<&AppArmorProfile>, _) = match &own.app_armor_profile {
        Some(own) => (Some(own), path),
        None => (pod.app_armor_profile.as_ref(), "spec.securityContext"),
    };
    let Some(chosen) = chosen else { return Ok(None) };
    match (chosen.type_.as_str(), chosen.localhost_profile.as_deref()) {
        ("RuntimeDefault", None) => Ok(Some(profile(ProfileType::RuntimeDefault, ""))),
        ("Unconfined", None) => Ok(Some(profile(ProfileType::Unconfined, ""))),
        ("Localhost", Some(name)) => Ok(Some(profile(ProfileType::Localhost, name))),
        (kind, _) => {
            let reason = format!("type {kind:?} and localhostProfile don't go together");
            Err(FieldError::new(format!("{path}.appArmorProfile"), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tests::{manifest, refused_path};

    fn spec(pod: &str, own: &str) -> PodSpec {
        let container = format!("{{name: c, image: i, securityContext: {{{own}}}}}");
        manifest(&format!("metadata: {{name: p}}\nspec: {{containers: [{container}], {pod}}}")).spec
    }

    fn convert(pod: &str, own: &str) -> LinuxContainerSecurityContext {
        let spec = spec(pod, own);
        container_security(&spec, &spec.containers[0], "c").unwrap()
    }

    #[test]
    fn namespaces_are_the_pods_unless_asked_otherwise() {
        use NamespaceMode::{Container, Node, Pod};
        for (pod, network, pid, ipc) in [
            ("", Pod, Container, Pod),
            ("hostNetwork: true", Node, Container, Pod),
            ("hostPID: true, hostIPC: true", Pod, Node, Node),
            ("shareProcessNamespace: true", Pod, Pod, Pod),
        ] {
            let actual = namespaces(&spec(pod, "")).unwrap();
            assert_eq!((actual.network(), actual.pid(), actual.ipc()), (network, pid, ipc), "{pod}");
        }
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        let pod = "securityContext: {runAsUser: 1, runAsGroup: 2, fsGroup: 4, supplementalGroups: [3], \
                   seccompProfile: {type: RuntimeDefault}}";
        let merged = convert(pod, "runAsUser: 10");
        assert_eq!((merged.run_as_user, merged.run_as_group), (Some(number(10)), Some(number(2))));
        assert_eq!(merged.supplemental_groups, [3, 4]);
        assert_eq!(merged.seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
        let own = convert(pod, "seccompProfile: {type: Unconfined}");
        assert_eq!(own.seccomp.unwrap().profile_type(), ProfileType::Unconfined);
        let nodes = convert(pod, "seccompProfile: {type: Localhost, localhostProfile: web/x.json}");
        assert_eq!(nodes.seccomp.unwrap().localhost_ref, "/var/lib/kubelet/seccomp/web/x.json");
    }

    #[test]
    fn proc_is_masked_unless_asked_otherwise() {
        for (own, masked) in [
            ("", true),
            ("procMount: Default", true),
            ("privileged: true", false),
            ("procMount: Unmasked", false),
        ] {
            let context = convert("", own);
            assert_eq!(context.masked_paths.contains(&"/proc/kcore".to_owned()), masked, "{own}");
            assert_eq!(context.readonly_paths.contains(&"/proc/sys".to_owned()), masked, "{own}");
        }
    }

    #[test]
    fn a_privileged_container_makes_the_sandbox_privileged() {
        assert!(!sandbox_security(&spec("", "")).unwrap().privileged);
        assert!(sandbox_security(&spec("", "privileged: true")).unwrap().privileged);
    }

    #[test]
    fn contradictions_are_refused_by_path() {
        for (pod, own, path) in [
            ("hostPID: true, shareProcessNamespace: true", "", "spec.shareProcessNamespace"),
            ("", "procMount: Odd", "spec.containers[0].securityContext.procMount"),
            ("", "seccompProfile: {type: Localhost}", "spec.containers[0].securityContext.seccompProfile"),
            (
                "",
                "seccompProfile: {type: Localhost, localhostProfile: ../x}",
                "spec.containers[0].securityContext.seccompProfile.localhostProfile",
            ),
            ("securityContext: {seccompProfile: {type: X}}", "", "spec.securityContext.seccompProfile"),
            ("", "appArmorProfile: {type: Localhost}", "spec.containers[0].securityContext.appArmorProfile"),
            (
                "",
                "privileged: true, allowPrivilegeEscalation: false",
                "spec.containers[0].securityContext.allowPrivilegeEscalation",
            ),
        ] {
            let yaml = format!("{{containers: [{{name: c, image: i, securityContext: {{{own}}}}}], {pod}}}");
            assert_eq!(refused_path(&yaml), path, "{pod} {own}");
        }
    }
}
