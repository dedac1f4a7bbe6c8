//! Rights of a container.

use std::path::PathBuf;

use berth_container::capability::CapabilityNames;
use berth_container::spec::SecuritySpec;
use berth_cri_proto::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    SupplementalGroupsPolicy,
};
use berth_monitor::plan::NameOrId;

use super::{Refusal, Result, check, namespaces, profiles};

/// Reads a container's security context; an absent one is an empty one.
#[allow(
    deprecated,
    reason = "old clients send the deprecated profile fields, and they have to mean something"
)]
pub(crate) fn security_from(context: LinuxContainerSecurityContext) -> Result<SecuritySpec> {
    let namespaces = context.namespace_options.unwrap_or_default();
    let pid =
        namespaces::container_pid_from(&namespaces).map_err(|refusal| refusal.within("namespace_options"))?;
    let user = user_from(context.run_as_user, context.run_as_username)?;
    let group = group_from(context.run_as_group, user.is_some())?;
    Ok(SecuritySpec {
        privileged: context.privileged,
        pid,
        user,
        group,
        supplemental_groups: groups_from(&context.supplemental_groups)?,
        merge_image_groups: merges_groups(context.supplemental_groups_policy)?,
        capabilities: capabilities_from(context.capabilities.unwrap_or_default())?,
        no_new_privileges: context.no_new_privs,
        read_only_rootfs: context.readonly_rootfs,
        masked_paths: paths_from("masked_paths", &context.masked_paths)?,
        readonly_paths: paths_from("readonly_paths", &context.readonly_paths)?,
        seccomp: profiles::seccomp_from(context.seccomp.as_ref(), &context.seccomp_profile_path)?,
        apparmor: profiles::apparmor_from(context.apparmor.as_ref(), &context.apparmor_profile)?,
        selinux: profiles::selinux_from(context.selinux_options)?,
    })
}

/// A sandbox's context speaks of pause, which has no rights to begin with; nonsense is refused all the same.
#[allow(deprecated, reason = "old clients send the deprecated profile field, and it has to make sense")]
pub(crate) fn check_sandbox_security(context: &LinuxSandboxSecurityContext) -> Result<()> {
    let user = user_from(context.run_as_user, String::new())?;
    group_from(context.run_as_group, user.is_some())?;
    groups_from(&context.supplemental_groups)?;
    merges_groups(context.supplemental_groups_policy)?;
    profiles::seccomp_from(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    profiles::apparmor_from(context.apparmor.as_ref(), "")?;
    profiles::selinux_from(context.selinux_options.clone()).map(drop)
}

fn user_from(id: Option<Int64Value>, name: String) -> Result<Option<NameOrId>> {
    match (id, name.as_str()) {
        (None, "") => Ok(None),
        (Some(id), "") => Ok(Some(NameOrId::Id(check::id("run_as_user", id.value)?))),
        (None, _) if name.contains(':') => {
            Err(Refusal::invalid("run_as_username", name, "is no user's name"))
        }
        (None, _) => Ok(Some(NameOrId::Name(check::name("run_as_username", name)?))),
        (Some(_), _) => Err(Refusal::invalid("run_as_username", name, "is given together with run_as_user")),
    }
}

fn group_from(group: Option<Int64Value>, has_user: bool) -> Result<Option<u32>> {
    match group {
        None => Ok(None),
        Some(group) if !has_user => {
            Err(Refusal::invalid("run_as_group", group.value, "is given without a user"))
        }
        Some(group) => Ok(Some(check::id("run_as_group", group.value)?)),
    }
}

fn groups_from(groups: &[i64]) -> Result<Vec<u32>> {
    let group = |(index, group): (usize, &i64)| check::id(&format!("supplemental_groups[{index}]"), *group);
    groups.iter().enumerate().map(group).collect()
}

fn merges_groups(policy: i32) -> Result<bool> {
    let policy: SupplementalGroupsPolicy = check::enumeration("supplemental_groups_policy", policy)?;
    Ok(policy == SupplementalGroupsPolicy::Merge)
}

fn capabilities_from(given: Capability) -> Result<CapabilityNames> {
    let names = CapabilityNames {
        add: given.add_capabilities,
        drop: given.drop_capabilities,
        add_ambient: given.add_ambient_capabilities,
    };
    match names.resolve() {
        Ok(_) => Ok(names),
        Err(unknown) => Err(Refusal::invalid("capabilities", unknown.0, "is no capability")),
    }
}

fn paths_from(field: &str, paths: &[String]) -> Result<Vec<PathBuf>> {
    let path = |(index, path): (usize, &String)| check::absolute_path(&format!("{field}[{index}]"), path);
    paths.iter().enumerate().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: i64) -> Option<Int64Value> {
        Some(Int64Value { value })
    }

    #[test]
    fn what_is_asked_for_is_kept() {
        let given = LinuxContainerSecurityContext {
            run_as_user: id(1000),
            run_as_group: id(2000),
            supplemental_groups: vec![3000],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict.into(),
            no_new_privs: true,
            masked_paths: vec!["/proc/kcore".into()],
            ..LinuxContainerSecurityContext::default()
        };
        let spec = security_from(given).unwrap();
        assert_eq!((spec.user, spec.group), (Some(NameOrId::Id(1000)), Some(2000)));
        assert_eq!((spec.supplemental_groups, spec.merge_image_groups), (vec![3000], false));
        assert!(spec.no_new_privileges && !spec.privileged && !spec.read_only_rootfs);
        assert_eq!(spec.masked_paths, [PathBuf::from("/proc/kcore")]);
    }

    #[test]
    fn nonsense_is_named() {
        let check = |want: &str, change: fn(&mut LinuxContainerSecurityContext)| {
            let mut given = LinuxContainerSecurityContext::default();
            change(&mut given);
            let text = security_from(given).unwrap_err().to_string();
            assert!(text.starts_with(want), "{text}");
        };
        check("run_as_username: \"ann\" is given together", |c| {
            (c.run_as_user, c.run_as_username) = (id(1), "ann".into());
        });
        check("run_as_username: \"ann:ann\" is no user's", |c| c.run_as_username = "ann:ann".into());
        check("run_as_group: 5 is given without a user", |c| c.run_as_group = id(5));
        check("run_as_user: 4294967296 ", |c| c.run_as_user = id(1 << 32));
        check("run_as_user: -1 ", |c| c.run_as_user = id(-1));
        check("supplemental_groups[1]: -7 ", |c| c.supplemental_groups = vec![1, -7]);
        check("supplemental_groups_policy: 2 ", |c| c.supplemental_groups_policy = 2);
        check("capabilities: \"FLY\" is no capability", |c| {
            c.capabilities =
                Some(Capability { add_capabilities: vec!["FLY".into()], ..Capability::default() });
        });
        check("masked_paths[0]: \"proc\" is not an absolute", |c| c.masked_paths = vec!["proc".into()]);
        check("readonly_paths[0]: must be given", |c| c.readonly_paths = vec![String::new()]);
    }

    #[test]
    fn a_sandboxs_user_must_make_sense() {
        let lonely =
            LinuxSandboxSecurityContext { run_as_group: id(5), ..LinuxSandboxSecurityContext::default() };
        assert_eq!(
            check_sandbox_security(&lonely).unwrap_err().to_string(),
            "run_as_group: 5 is given without a user"
        );
    }
}
