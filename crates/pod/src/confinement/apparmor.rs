//! AppArmor: which profile a container runs under, and the runtime's own profile.
//!
//! The kernel takes profiles only in a compiled form, which `apparmor_parser` makes: the one program that berth runs
//! for pods, once, when the first container asks for the default profile and it is not loaded yet. It belongs to every
//! distribution with AppArmor; without it containers whose request says nothing run without a profile, which is logged.
//! What a request asks for is never done without. Source: apparmor(7), apparmor_parser(8), apparmor.d(5).

mod parser;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_container::spec::ProfileSpec;

use crate::error::{Error, Result};
use parser::run_parser;

/// The runtime's own profile.
const DEFAULT_PROFILE: &str = "berth-default";
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// The field of a request that names a profile.
const FIELD: &str = "linux.security_context.apparmor.localhost_ref";

/// How long a failure to load the default profile counts before the next container tries again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// AppArmor as this kernel has it.
#[derive(Debug)]
pub(super) struct AppArmor {
    is_enabled: bool,
    /// Locked while the profile is being loaded, which takes no longer than the parser may.
    default: Mutex<DefaultProfile>,
}

/// What is known of the default profile.
#[derive(Debug, Default)]
enum DefaultProfile {
    /// No container has asked for it.
    #[default]
    Unknown,
    Loaded,
    /// Those that ask at the same time are not to wait for one try each.
    Failed {
        why: String,
        at: Instant,
    },
}

impl AppArmor {
    pub(super) fn detect() -> Self {
        let is_enabled = std::fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
            && Path::new(LOADED).exists();
        Self { is_enabled, default: Mutex::default() }
    }

    /// The profile to run under, which is loaded; `None` for none. As with containerd, a request that says nothing
    /// means the default, and a privileged container has only a profile that its request names.
    pub(super) fn profile_for(
        &self,
        wanted: Option<&ProfileSpec>,
        privileged: bool,
    ) -> Result<Option<String>> {
        match wanted {
            Some(ProfileSpec::Unconfined) => Ok(None),
            Some(ProfileSpec::Localhost(name)) => self.named(name).map(Some),
            None | Some(ProfileSpec::RuntimeDefault) if !self.is_enabled || privileged => Ok(None),
            None => Ok(self.load_default().is_ok().then(|| DEFAULT_PROFILE.to_owned())),
            Some(ProfileSpec::RuntimeDefault) => {
                let load = Error::file("load AppArmor profile", DEFAULT_PROFILE);
                let loaded = self.load_default().map_err(|why| load(std::io::Error::other(why)));
                loaded.map(|()| Some(DEFAULT_PROFILE.to_owned()))
            }
        }
    }

    fn named(&self, name: &str) -> Result<String> {
        let refused = |reason| Error::Invalid { field: FIELD, value: name.to_owned(), reason };
        if !self.is_enabled {
            return Err(refused("cannot be applied: AppArmor is not available on this kernel"));
        }
        let loaded = std::fs::read_to_string(LOADED).map_err(Error::file("read", LOADED))?;
        if !is_listed(&loaded, name) {
            return Err(refused("no such profile is loaded"));
        }
        Ok(name.to_owned())
    }

    /// Loads the default profile if that has not been done, or says why it could not be.
    fn load_default(&self) -> std::result::Result<(), String> {
        let mut known = self.default.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            DefaultProfile::Loaded => return Ok(()),
            DefaultProfile::Failed { why, at } if at.elapsed() < RETRY_AFTER => return Err(why.clone()),
            DefaultProfile::Unknown | DefaultProfile::Failed { .. } => {}
        }
        let loaded = std::fs::read_to_string(LOADED).unwrap_or_default();
        let outcome = if is_listed(&loaded, DEFAULT_PROFILE) { Ok(()) } else { load_default() };
        let outcome = outcome.map_err(|error| error.to_string());
        *known = match &outcome {
            Ok(()) => DefaultProfile::Loaded,
            Err(why) => {
                tracing::warn!(
                    error = why,
                    "no default AppArmor profile: containers that ask for none run without"
                );
                DefaultProfile::Failed { why: why.clone(), at: Instant::now() }
            }
        };
        outcome
    }
}

/// Each line is a name and a mode: `berth-default (enforce)`.
fn is_listed(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(listed, _)| listed == name))
}

fn load_default() -> std::io::Result<()> {
    let own_label = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok());
    let text = default_profile(own_label.as_deref().unwrap_or("unconfined"), |file| {
        Path::new("/etc/apparmor.d").join(file).exists()
    });
    run_parser(&text)
}

/// The profile's text, for an agent that runs under `own_label`; `has` tells which of the distribution's files there
/// are.
///
/// It takes from root in a container what mistakes elsewhere could open: mounting, and writing to the kernel's files
/// outside its own processes. What a container may do among its own is left to namespaces and capabilities.
fn default_profile(own_label: &str, has: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    if has("abi/3.0") {
        text.push_str("abi <abi/3.0>,\n");
    }
    text.push_str(match has("tunables/global") {
        true => "include <tunables/global>\n",
        false => "@{PROC}=/proc/\n",
    });
    text.push_str(&format!("profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{\n"));
    if has("abstractions/base") {
        text.push_str("  include <abstractions/base>\n");
    }
    // "name (mode)", or "unconfined".
    let agent = own_label.split([' ', '\n', '\0']).next().unwrap_or("unconfined");
    if agent != "unconfined" {
        text.push_str(&format!("  signal (receive) peer={agent},\n"));
    }
    text.push_str(
        "  capability,
  file,
  network,
  umount,
  signal (receive) peer=unconfined,
  signal (send, receive) peer=berth-default,
  ptrace (trace, read, tracedby, readby) peer=berth-default,

  deny mount,

  # In /proc, a container writes below its processes' numbers and to the shared memory's limits in sys/kernel.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/{kcore,kmem,mem,sysrq-trigger} rwklx,

  # In /sys, to its cgroup.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwklx,
}
",
    );
    text
}

#[cfg(test)]
mod tests {
    use berth_store::with_causes;

    use super::*;

    #[test]
    fn without_apparmor_only_a_named_profile_is_refused() {
        let absent = AppArmor { is_enabled: false, default: Mutex::default() };
        let named = ProfileSpec::Localhost("mine".to_owned());
        for wanted in [None, Some(&ProfileSpec::RuntimeDefault), Some(&ProfileSpec::Unconfined)] {
            assert_eq!(absent.profile_for(wanted, false).unwrap(), None, "{wanted:?}");
        }
        let text = absent.profile_for(Some(&named), false).unwrap_err().to_string();
        assert!(text.contains("apparmor.localhost_ref") && text.contains("\"mine\""), "{text}");
    }

    #[test]
    fn with_apparmor_the_default_is_for_all_but_privileged_containers() {
        let present = AppArmor { is_enabled: true, default: Mutex::new(DefaultProfile::Loaded) };
        let default = Some(DEFAULT_PROFILE.to_owned());
        assert_eq!(present.profile_for(None, false).unwrap(), default);
        assert_eq!(present.profile_for(Some(&ProfileSpec::RuntimeDefault), false).unwrap(), default);
        assert_eq!(present.profile_for(Some(&ProfileSpec::RuntimeDefault), true).unwrap(), None);
        assert_eq!(present.profile_for(Some(&ProfileSpec::Unconfined), false).unwrap(), None);
    }

    #[test]
    fn a_profile_that_cannot_be_loaded_refuses_who_asks_for_it() {
        let failed = DefaultProfile::Failed { why: "no parser".to_owned(), at: Instant::now() };
        let unloadable = AppArmor { is_enabled: true, default: Mutex::new(failed) };
        assert_eq!(unloadable.profile_for(None, false).unwrap(), None);
        assert_eq!(unloadable.profile_for(Some(&ProfileSpec::RuntimeDefault), true).unwrap(), None);
        let error = unloadable.profile_for(Some(&ProfileSpec::RuntimeDefault), false).unwrap_err();
        let text = with_causes(&error);
        assert!(text.contains("berth-default") && text.contains("no parser"), "{text}");
    }

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let loaded = "berth-default (enforce)\n/usr/bin/man (complain)\nname with (odd) text (enforce)\n";
        for (name, want) in [
            ("berth-default", true),
            ("berth", false),
            ("/usr/bin/man", true),
            ("name with (odd) text", true),
            ("", false),
        ] {
            assert_eq!(is_listed(loaded, name), want, "{name}");
        }
    }

    #[test]
    fn the_profile_uses_what_the_distribution_has() {
        let bare = default_profile("unconfined\n", |_| false);
        assert!(bare.starts_with("@{PROC}=/proc/\nprofile berth-default "), "{bare}");
        assert!(!bare.contains("include"));
        let full = default_profile("berth-agent (enforce)\n", |_| true);
        assert!(full.starts_with("abi <abi/3.0>,\ninclude <tunables/global>\n"), "{full}");
        assert!(full.contains("signal (receive) peer=berth-agent,"));
        assert_eq!(full.matches('{').count(), full.matches('}').count());
    }
}
