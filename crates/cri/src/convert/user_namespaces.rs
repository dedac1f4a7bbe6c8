//! User namespaces, in both directions.
//!
//! What the CRI allows is one mapping that begins at id 0 inside, the same in the requests for a sandbox and for its
//! containers. Source: CRI `UserNamespace`; KEP-127.

use berth_cri_proto::v1::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace};
use berth_monitor::idmap::{IdMaps, IdRange};
use berth_pod::spec::{PodPid, SandboxSpec};

use super::{Refusal, Result, check};

/// Reads what a sandbox asks for; `None` is the host's namespace.
pub(crate) fn pod_user_namespace_from(options: &NamespaceOption, pid: PodPid) -> Result<Option<IdMaps>> {
    let maps = user_namespace_from(options.userns_options.as_ref())?;
    if maps.is_some() && pid == PodPid::Node {
        let problem = "is refused in a user namespace, which the host's pid namespace does not belong to";
        return Err(Refusal::invalid("pid", NamespaceMode::Node, problem));
    }
    Ok(maps)
}

/// A container's namespace is its sandbox's, and its request has to say so.
pub(crate) fn check_container_user_namespace(options: &NamespaceOption, sandbox: &SandboxSpec) -> Result<()> {
    let maps = user_namespace_from(options.userns_options.as_ref())?;
    if maps == sandbox.user_namespace {
        return Ok(());
    }
    let shown = |maps: Option<IdMaps>| maps.map_or("the host's".to_owned(), |maps| format!("{maps:?}"));
    let problem = format!("is another user namespace than the sandbox's: {}", shown(sandbox.user_namespace));
    Err(Refusal::invalid("userns_options", shown(maps), &problem))
}

/// Reads the mappings of a mount, which are none or those of its pod.
pub(crate) fn mount_id_maps_from(
    uids: &[IdMapping],
    gids: &[IdMapping],
    pod: Option<IdMaps>,
) -> Result<Option<IdMaps>> {
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    let maps = IdMaps { uids: range_from("uidMappings", uids)?, gids: range_from("gidMappings", gids)? };
    match pod {
        Some(pod) if pod == maps => Ok(Some(maps)),
        Some(pod) => {
            Err(Refusal::invalid("uidMappings", uids, &format!("is not the pod's user namespace: {pod:?}")))
        }
        None => Err(Refusal::invalid("uidMappings", uids, "needs a pod with a user namespace")),
    }
}

/// What a status answers.
pub(crate) fn options_of(maps: &IdMaps) -> UserNamespace {
    let (uids, gids) = mappings_of(maps);
    UserNamespace { mode: NamespaceMode::Pod.into(), uids, gids }
}

/// Users and groups, as in the request.
pub(crate) fn mappings_of(maps: &IdMaps) -> (Vec<IdMapping>, Vec<IdMapping>) {
    let mapping =
        |range: IdRange| IdMapping { host_id: range.host_root(), container_id: 0, length: range.length() };
    (vec![mapping(maps.uids)], vec![mapping(maps.gids)])
}

fn user_namespace_from(options: Option<&UserNamespace>) -> Result<Option<IdMaps>> {
    let Some(options) = options else {
        return Ok(None);
    };
    match check::enumeration("userns_options.mode", options.mode)? {
        NamespaceMode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        NamespaceMode::Node => {
            Err(Refusal::invalid("userns_options.mode", NamespaceMode::Node, "is given with mappings"))
        }
        NamespaceMode::Pod => Ok(Some(IdMaps {
            uids: range_from("userns_options.uids", &options.uids)?,
            gids: range_from("userns_options.gids", &options.gids)?,
        })),
        other @ (NamespaceMode::Container | NamespaceMode::Target) => {
            Err(Refusal::invalid("userns_options.mode", other, "is not one of Pod and Node"))
        }
    }
}

fn range_from(field: &str, mappings: &[IdMapping]) -> Result<IdRange> {
    let [mapping] = mappings else {
        return Err(Refusal::invalid(field, mappings, "is not exactly one mapping"));
    };
    if mapping.container_id != 0 {
        return Err(Refusal::invalid(field, mapping, "does not map id 0 of the container"));
    }
    IdRange::new(mapping.host_id, mapping.length)
        .ok_or_else(|| Refusal::invalid(field, mapping, "is no range of the host's ids"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::testing::sandbox_spec;

    fn mapping(container_id: u32, host_id: u32, length: u32) -> IdMapping {
        IdMapping { container_id, host_id, length }
    }

    fn options(mode: NamespaceMode, mappings: &[IdMapping]) -> NamespaceOption {
        let userns = UserNamespace { mode: mode.into(), uids: mappings.to_vec(), gids: mappings.to_vec() };
        NamespaceOption { userns_options: Some(userns), ..NamespaceOption::default() }
    }

    #[test]
    fn one_mapping_from_0_is_taken_and_comes_back() {
        let given = options(NamespaceMode::Pod, &[mapping(0, 1000, 100_000)]);
        let maps = pod_user_namespace_from(&given, PodPid::Pod).unwrap().unwrap();
        assert_eq!(Some(options_of(&maps)), given.userns_options);
        let refused = pod_user_namespace_from(&given, PodPid::Node).unwrap_err().to_string();
        assert!(refused.starts_with("pid: Node is refused"), "{refused}");
        for hosts in [NamespaceOption::default(), options(NamespaceMode::Node, &[])] {
            assert_eq!(pod_user_namespace_from(&hosts, PodPid::Node), Ok(None));
        }
    }

    #[test]
    fn other_modes_and_mappings_are_refused() {
        let check = |mode, mappings: &[IdMapping], want: &str| {
            let refused =
                pod_user_namespace_from(&options(mode, mappings), PodPid::Pod).unwrap_err().to_string();
            assert!(refused.starts_with("userns_options.") && refused.contains(want), "{refused}");
        };
        let one = mapping(0, 1000, 10);
        check(NamespaceMode::Container, &[], "mode: Container is not one of");
        check(NamespaceMode::Target, &[], "mode: Target is not one of");
        check(NamespaceMode::Node, &[one], "mode: Node is given with mappings");
        check(NamespaceMode::Pod, &[], "uids: [] is not exactly one");
        check(NamespaceMode::Pod, &[one, mapping(10, 2000, 10)], "is not exactly one");
        check(NamespaceMode::Pod, &[one, mapping(0, 1005, 10)], "is not exactly one");
        check(NamespaceMode::Pod, &[mapping(1, 1000, 10)], "does not map id 0");
        check(NamespaceMode::Pod, &[mapping(0, 1000, 0)], "is no range");
        check(NamespaceMode::Pod, &[mapping(0, u32::MAX, 1)], "is no range");
    }

    #[test]
    fn a_container_agrees_with_its_sandbox() {
        let given = options(NamespaceMode::Pod, &[mapping(0, 1000, 10)]);
        let user_namespace = pod_user_namespace_from(&given, PodPid::Pod).unwrap();
        let (host, own) = (sandbox_spec(), SandboxSpec { user_namespace, ..sandbox_spec() });
        assert_eq!(check_container_user_namespace(&given, &own), Ok(()));
        assert_eq!(check_container_user_namespace(&NamespaceOption::default(), &host), Ok(()));
        for (options, sandbox) in [(NamespaceOption::default(), &own), (given, &host)] {
            let refused = check_container_user_namespace(&options, sandbox).unwrap_err().to_string();
            assert!(refused.contains("another user namespace"), "{refused}");
        }
    }

    #[test]
    fn mounts_are_mapped_as_their_pod_or_not_at_all() {
        let pod =
            pod_user_namespace_from(&options(NamespaceMode::Pod, &[mapping(0, 9, 5)]), PodPid::Pod).unwrap();
        let check = |mappings: &[IdMapping], pod, want: Option<&str>| {
            let refused =
                mount_id_maps_from(mappings, mappings, pod).err().map(|refusal| refusal.to_string());
            assert_eq!(refused.is_some(), want.is_some(), "{refused:?}");
            assert!(refused.unwrap_or_default().contains(want.unwrap_or_default()));
        };
        check(&[], pod, None);
        check(&[], None, None);
        check(&[mapping(0, 9, 5)], pod, None);
        check(&[mapping(0, 9, 5)], None, Some("needs a pod"));
        check(&[mapping(0, 9, 6)], pod, Some("is not the pod's"));
        check(&[mapping(0, 9, 5), mapping(2, 9, 5)], pod, Some("exactly one"));
        check(&[mapping(0, 9, 0)], pod, Some("no range"));
    }
}
