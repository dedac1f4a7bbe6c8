//! Namespace options. Mind the API's zero value, POD: absent options ask for a pid namespace that the pod shares.

use berth_container::spec::PidSpec;
use berth_cri_proto::v1::{NamespaceMode, NamespaceOption};
use berth_monitor::idmap::IdMaps;
use berth_monitor::plan::Sharing;
use berth_pod::spec::{PodPid, SandboxSpec};

use super::{Refusal, Result, check, user_namespaces};

/// A pod's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodNamespaces {
    pub(crate) net: Sharing,
    pub(crate) ipc: Sharing,
    pub(crate) pid: PodPid,
    pub(crate) user: Option<IdMaps>,
}

/// Reads a sandbox's options.
pub(crate) fn pod_namespaces_from(options: &NamespaceOption) -> Result<PodNamespaces> {
    let pid = match check::enumeration("pid", options.pid)? {
        NamespaceMode::Pod => PodPid::Pod,
        NamespaceMode::Container => PodPid::Container,
        NamespaceMode::Node => PodPid::Node,
        NamespaceMode::Target => {
            return Err(Refusal::invalid(
                "pid",
                NamespaceMode::Target,
                "is for containers, not for a sandbox",
            ));
        }
    };
    Ok(PodNamespaces {
        net: sharing("network", options.network)?,
        ipc: sharing("ipc", options.ipc)?,
        pid,
        user: user_namespaces::pod_user_namespace_from(options, pid)?,
    })
}

/// Reads a container's options. Network and ipc are the sandbox's, whatever stands here, as with the peers; only
/// modes that do not exist for them are refused.
pub(crate) fn container_pid_from(options: &NamespaceOption) -> Result<PidSpec> {
    sharing("network", options.network)?;
    sharing("ipc", options.ipc)?;
    match check::enumeration("pid", options.pid)? {
        NamespaceMode::Pod => Ok(PidSpec::Pod),
        NamespaceMode::Container => Ok(PidSpec::Container),
        NamespaceMode::Node => Ok(PidSpec::Node),
        NamespaceMode::Target if options.target_id.is_empty() => Err(Refusal::missing("target_id")),
        NamespaceMode::Target => Ok(PidSpec::Target(options.target_id.clone())),
    }
}

/// What a sandbox's status answers.
pub(crate) fn options_of(spec: &SandboxSpec) -> NamespaceOption {
    let mode = |sharing| match sharing {
        Sharing::Own => NamespaceMode::Pod,
        Sharing::Host => NamespaceMode::Node,
    };
    let pid = match spec.pid {
        PodPid::Pod => NamespaceMode::Pod,
        PodPid::Container => NamespaceMode::Container,
        PodPid::Node => NamespaceMode::Node,
    };
    NamespaceOption {
        network: mode(spec.net).into(),
        ipc: mode(spec.ipc).into(),
        pid: pid.into(),
        userns_options: spec.user_namespace.as_ref().map(user_namespaces::options_of),
        ..NamespaceOption::default()
    }
}

fn sharing(field: &str, mode: i32) -> Result<Sharing> {
    match check::enumeration(field, mode)? {
        NamespaceMode::Pod => Ok(Sharing::Own),
        NamespaceMode::Node => Ok(Sharing::Host),
        other @ (NamespaceMode::Container | NamespaceMode::Target) => {
            Err(Refusal::invalid(field, other, "is not one of Pod and Node"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(network: i32, pid: i32, ipc: i32) -> NamespaceOption {
        NamespaceOption { network, pid, ipc, ..NamespaceOption::default() }
    }

    #[test]
    fn modes_become_namespaces() {
        let check = |given, net, pid, ipc| {
            let want = PodNamespaces { net, ipc, pid, user: None };
            assert_eq!(pod_namespaces_from(&given), Ok(want), "{given:?}");
        };
        check(options(0, 0, 0), Sharing::Own, PodPid::Pod, Sharing::Own);
        check(options(0, 1, 0), Sharing::Own, PodPid::Container, Sharing::Own);
        check(options(2, 2, 2), Sharing::Host, PodPid::Node, Sharing::Host);
        let target = NamespaceOption { target_id: "x".into(), ..options(0, 3, 0) };
        assert_eq!(container_pid_from(&target), Ok(PidSpec::Target("x".into())));
    }

    #[test]
    fn modes_that_do_not_exist_are_refused() {
        let check = |given, field: &str| {
            let text = pod_namespaces_from(&given).unwrap_err().to_string();
            assert!(text.starts_with(field), "{text}");
        };
        check(options(1, 1, 0), "network: Container");
        check(options(3, 1, 0), "network: Target");
        check(options(0, 1, 1), "ipc: Container");
        check(options(0, 3, 0), "pid: Target");
        check(options(9, 1, 0), "network: 9");
        assert_eq!(
            container_pid_from(&options(0, 3, 0)).unwrap_err().to_string(),
            "target_id: must be given"
        );
    }
}
