//! Profiles of seccomp and AppArmor, in their present and in their deprecated form.

use berth_container::spec::SeccompSpec;
use berth_cri_proto::v1::SecurityProfile;
use berth_cri_proto::v1::security_profile::ProfileType;

use super::{Refusal, Result, check};

/// The system call filter; the present form wins over the deprecated one, and neither means no filter.
pub(crate) fn seccomp_from(profile: Option<&SecurityProfile>, deprecated: &str) -> Result<SeccompSpec> {
    let Some(profile) = profile else {
        return match deprecated {
            "" | "unconfined" => Ok(SeccompSpec::Unconfined),
            "runtime/default" | "docker/default" => Ok(SeccompSpec::RuntimeDefault),
            _ if deprecated.starts_with("localhost/") => {
                Err(Refusal::unimplemented("seccomp_profile_path", deprecated))
            }
            _ => Err(Refusal::invalid("seccomp_profile_path", deprecated, "is no seccomp profile")),
        };
    };
    match check::enumeration("seccomp.profile_type", profile.profile_type)? {
        ProfileType::RuntimeDefault => Ok(SeccompSpec::RuntimeDefault),
        ProfileType::Unconfined => Ok(SeccompSpec::Unconfined),
        ProfileType::Localhost => {
            Err(Refusal::unimplemented("seccomp.localhost_ref", &profile.localhost_ref))
        }
    }
}

/// AppArmor is not available: whoever leaves the choice to the runtime runs without it, as on any kernel without it.
pub(crate) fn check_apparmor(profile: Option<&SecurityProfile>, deprecated: &str) -> Result<()> {
    const UNAVAILABLE: &str = "cannot be applied: AppArmor is not available";
    let Some(profile) = profile else {
        return match deprecated {
            "" | "unconfined" | "runtime/default" => Ok(()),
            _ => Err(Refusal::invalid("apparmor_profile", deprecated, UNAVAILABLE)),
        };
    };
    match check::enumeration("apparmor.profile_type", profile.profile_type)? {
        ProfileType::RuntimeDefault | ProfileType::Unconfined => Ok(()),
        ProfileType::Localhost => {
            Err(Refusal::invalid("apparmor.localhost_ref", &profile.localhost_ref, UNAVAILABLE))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(profile_type: i32) -> SecurityProfile {
        SecurityProfile { profile_type, localhost_ref: "custom".into() }
    }

    #[test]
    fn the_present_form_of_a_seccomp_profile_wins() {
        let check = |given: Option<i32>, deprecated, want: std::result::Result<SeccompSpec, &str>| {
            let found = seccomp_from(given.map(profile).as_ref(), deprecated);
            match want {
                Ok(want) => assert_eq!(found, Ok(want)),
                Err(text) => assert_eq!(found.unwrap_err().to_string(), text),
            }
        };
        use SeccompSpec::{RuntimeDefault, Unconfined};
        check(None, "", Ok(Unconfined));
        check(None, "runtime/default", Ok(RuntimeDefault));
        check(Some(0), "unconfined", Ok(RuntimeDefault));
        check(Some(1), "runtime/default", Ok(Unconfined));
        check(Some(2), "", Err("seccomp.localhost_ref: \"custom\" is not implemented"));
        check(None, "localhost//x", Err("seccomp_profile_path: \"localhost//x\" is not implemented"));
        check(None, "strict", Err("seccomp_profile_path: \"strict\" is no seccomp profile"));
        check(Some(3), "", Err("seccomp.profile_type: 3 is no value of this enumeration"));
    }

    #[test]
    fn a_named_apparmor_profile_is_refused() {
        for good in [0, 1] {
            assert_eq!(check_apparmor(Some(&profile(good)), "localhost/x"), Ok(()));
        }
        let text = check_apparmor(Some(&profile(2)), "").unwrap_err().to_string();
        assert!(text.starts_with("apparmor.localhost_ref: \"custom\""), "{text}");
        assert!(check_apparmor(None, "localhost/x").is_err());
        assert_eq!(check_apparmor(None, "runtime/default"), Ok(()));
    }
}
