//! SELinux: the label that a container's process runs under.
//!
//! A container gets a label when its request has options for one and the kernel has SELinux; elsewhere options have no
//! effect, as with the peers. Parts that the request leaves out are those of the policy's own default for containers.
//! Categories are not made up: a kubelet that wants pods kept apart sends a level. Source: selinux(8),
//! container_selinux(8), `contexts/lxc_contexts`.

use std::path::Path;

use berth_container::spec::SelinuxSpec;

/// Where the default lies when the policy has none.
const DEFAULT_LABEL: &str = "system_u:system_r:container_t:s0";

/// SELinux as this node has it.
#[derive(Debug)]
pub(super) struct Selinux {
    /// The policy's label for containers; `None` where there is no SELinux.
    default: Option<String>,
}

impl Selinux {
    pub(super) fn detect() -> Self {
        let is_enabled = Path::new("/sys/fs/selinux/enforce").exists();
        Self { default: is_enabled.then(policy_default) }
    }

    /// The label of a process, put together from the request's parts and the default's.
    pub(super) fn process_label(&self, parts: &SelinuxSpec) -> Option<String> {
        let Some(default) = &self.default else {
            tracing::debug!("SELinux options have no effect: this kernel has no SELinux");
            return None;
        };
        let mut defaults = default.splitn(4, ':');
        let mut part = |given: &str| {
            let default = defaults.next().unwrap_or_default();
            if given.is_empty() { default.to_owned() } else { given.to_owned() }
        };
        let label = [part(&parts.user), part(&parts.role), part(&parts.type_), part(&parts.level)];
        Some(label.join(":"))
    }
}

fn policy_default() -> String {
    let config = std::fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let policy =
        config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted");
    let contexts = Path::new("/etc/selinux").join(policy.trim()).join("contexts/lxc_contexts");
    let contexts = std::fs::read_to_string(contexts).unwrap_or_default();
    process_of(&contexts).unwrap_or(DEFAULT_LABEL).to_owned()
}

/// `process = "system_u:system_r:container_t:s0"`.
fn process_of(contexts: &str) -> Option<&str> {
    contexts.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "process").then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_the_requests_over_the_policys() {
        let present = Selinux { default: Some("system_u:system_r:container_t:s0".to_owned()) };
        let level = SelinuxSpec { level: "s0:c1,c2".to_owned(), ..SelinuxSpec::default() };
        let all = SelinuxSpec {
            user: "u".to_owned(),
            role: "r".to_owned(),
            type_: "t".to_owned(),
            level: "s1".to_owned(),
        };
        for (parts, want) in [
            (SelinuxSpec::default(), "system_u:system_r:container_t:s0"),
            (level.clone(), "system_u:system_r:container_t:s0:c1,c2"),
            (all, "u:r:t:s1"),
        ] {
            assert_eq!(present.process_label(&parts).as_deref(), Some(want));
        }
        assert_eq!(Selinux { default: None }.process_label(&level), None);
    }

    #[test]
    fn the_policys_default_is_read_from_its_file() {
        let contexts = "# containers\nprocess = \"system_u:system_r:svirt_t:s0\"\nfile = \"x\"\n";
        assert_eq!(process_of(contexts), Some("system_u:system_r:svirt_t:s0"));
        assert_eq!(process_of("file = \"x\""), None);
    }
}
