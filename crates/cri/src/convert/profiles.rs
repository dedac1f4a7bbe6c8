//! Profiles of seccomp, AppArmor and SELinux, in their present and in their deprecated form.
//!
//! Only the form is judged here; whether a profile exists and this kernel can apply it is found out where the container
//! is made.

use berth_container::spec::{ProfileSpec, SelinuxSpec};
use berth_cri_proto::v1::security_profile::ProfileType;
use berth_cri_proto::v1::{SeLinuxOption, SecurityProfile};

use super::{Refusal, Result, check};

/// What comes before a node's own profile in the deprecated form, and in the present one of some clients.
const LOCALHOST: &str = "localhost/";

/// The system call filter; the present form wins over the deprecated one.
pub(crate) fn seccomp_from(
    profile: Option<&SecurityProfile>,
    deprecated: &str,
) -> Result<Option<ProfileSpec>> {
    let (field, profile) = match profile {
        Some(profile) => ("seccomp.localhost_ref", present_from("seccomp", profile)?),
        None => ("seccomp_profile_path", deprecated_from("seccomp_profile_path", deprecated)?),
    };
    if let Some(ProfileSpec::Localhost(path)) = &profile {
        check::absolute_path(field, path)?;
    }
    Ok(profile)
}

/// The AppArmor profile; the present form wins over the deprecated one.
pub(crate) fn apparmor_from(
    profile: Option<&SecurityProfile>,
    deprecated: &str,
) -> Result<Option<ProfileSpec>> {
    let (field, profile) = match profile {
        Some(profile) => ("apparmor.localhost_ref", present_from("apparmor", profile)?),
        None => ("apparmor_profile", deprecated_from("apparmor_profile", deprecated)?),
    };
    if let Some(ProfileSpec::Localhost(name)) = &profile {
        check::name(field, name.clone())?;
    }
    Ok(profile)
}

/// Options of an SELinux label. Empty ones are none, as a kubelet sends them.
pub(crate) fn selinux_from(given: Option<SeLinuxOption>) -> Result<Option<SelinuxSpec>> {
    let Some(SeLinuxOption { user, role, r#type, level }) = given else { return Ok(None) };
    for (field, part) in [("user", &user), ("role", &role), ("type", &r#type)] {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if !part.chars().all(is_plain) {
            return Err(Refusal::invalid(format!("selinux_options.{field}"), part, "is no part of a label"));
        }
    }
    // `s0-s0:c0.c1023`, `s0:c1,c2`
    let is_level = |c: char| c.is_ascii_alphanumeric() || "_-.:,".contains(c);
    if !level.chars().all(is_level) {
        return Err(Refusal::invalid("selinux_options.level", level, "is no level of a label"));
    }
    let spec = SelinuxSpec { user, role, type_: r#type, level };
    Ok((spec != SelinuxSpec::default()).then_some(spec))
}

fn present_from(field: &str, profile: &SecurityProfile) -> Result<Option<ProfileSpec>> {
    let kind = check::enumeration(&format!("{field}.profile_type"), profile.profile_type)?;
    let name = &profile.localhost_ref;
    match kind {
        ProfileType::RuntimeDefault => Ok(Some(ProfileSpec::RuntimeDefault)),
        ProfileType::Unconfined => Ok(Some(ProfileSpec::Unconfined)),
        ProfileType::Localhost if name.is_empty() => Err(Refusal::missing(format!("{field}.localhost_ref"))),
        ProfileType::Localhost => Ok(Some(localhost(name.strip_prefix(LOCALHOST).unwrap_or(name)))),
    }
}

fn deprecated_from(field: &str, text: &str) -> Result<Option<ProfileSpec>> {
    match text {
        "" => Ok(None),
        "unconfined" => Ok(Some(ProfileSpec::Unconfined)),
        "runtime/default" | "docker/default" => Ok(Some(ProfileSpec::RuntimeDefault)),
        _ => match text.strip_prefix(LOCALHOST) {
            Some(name) => Ok(Some(localhost(name))),
            None => Err(Refusal::invalid(field, text, "is no profile")),
        },
    }
}

fn localhost(name: &str) -> ProfileSpec {
    ProfileSpec::Localhost(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Convert = fn(Option<&SecurityProfile>, &str) -> Result<Option<ProfileSpec>>;
    const NONE: Option<(i32, &str)> = None;

    #[track_caller]
    fn check(
        convert: Convert,
        given: Option<(i32, &str)>,
        deprecated: &str,
        want: std::result::Result<Option<ProfileSpec>, &str>,
    ) {
        let profile = given
            .map(|(profile_type, name)| SecurityProfile { profile_type, localhost_ref: name.to_owned() });
        let found = convert(profile.as_ref(), deprecated).map_err(|refusal| refusal.to_string());
        assert_eq!(found, want.map_err(str::to_owned));
    }

    #[test]
    fn the_present_form_of_a_profile_wins() {
        use ProfileSpec::{RuntimeDefault, Unconfined};
        for convert in [seccomp_from as Convert, apparmor_from] {
            check(convert, NONE, "", Ok(None));
            check(convert, NONE, "runtime/default", Ok(Some(RuntimeDefault)));
            check(convert, NONE, "unconfined", Ok(Some(Unconfined)));
            check(convert, Some((0, "")), "unconfined", Ok(Some(RuntimeDefault)));
            check(convert, Some((1, "")), "runtime/default", Ok(Some(Unconfined)));
        }
    }

    #[test]
    fn a_nodes_own_profile_is_a_path_for_seccomp_and_a_name_for_apparmor() {
        let own = |name: &str| Ok(Some(localhost(name)));
        check(seccomp_from, Some((2, "/p/x.json")), "", own("/p/x.json"));
        check(seccomp_from, NONE, "localhost//p/x.json", own("/p/x.json"));
        check(apparmor_from, Some((2, "mine")), "", own("mine"));
        check(apparmor_from, Some((2, "localhost/mine")), "", own("mine"));
        check(apparmor_from, NONE, "localhost/mine", own("mine"));

        let seccomp = |given, deprecated, want| check(seccomp_from, given, deprecated, Err(want));
        seccomp(Some((2, "x")), "", "seccomp.localhost_ref: \"x\" is not an absolute path");
        seccomp(Some((2, "")), "", "seccomp.localhost_ref: must be given");
        seccomp(Some((3, "")), "", "seccomp.profile_type: 3 is no value of this enumeration");
        seccomp(NONE, "localhost/x", "seccomp_profile_path: \"x\" is not an absolute path");
        seccomp(NONE, "strict", "seccomp_profile_path: \"strict\" is no profile");
        let apparmor = |given, deprecated, want| check(apparmor_from, given, deprecated, Err(want));
        apparmor(Some((2, "")), "", "apparmor.localhost_ref: must be given");
        apparmor(NONE, "localhost/", "apparmor_profile: must be given");
        apparmor(NONE, "mine", "apparmor_profile: \"mine\" is no profile");
    }

    #[test]
    fn a_labels_parts_are_words() {
        let options = |level: &str, kind: &str| {
            let given = SeLinuxOption { level: level.into(), r#type: kind.into(), ..Default::default() };
            selinux_from(Some(given)).map_err(|refusal| refusal.to_string())
        };
        let kept =
            SelinuxSpec { level: "s0:c1,c2".into(), type_: "container_t".into(), ..Default::default() };
        assert_eq!(options("s0:c1,c2", "container_t"), Ok(Some(kept)));
        assert_eq!(options("", ""), Ok(None));
        assert!(options("s0 x", "").unwrap_err().starts_with("selinux_options.level: "));
        assert!(options("", "a:b").unwrap_err().starts_with("selinux_options.type: "));
    }
}
