//! Checks of single values: numbers into ranges, paths, texts. Each takes the field's name for the refusal.

use std::path::PathBuf;

use berth_pod::OWN_HANDLER;

use super::{Refusal, Result};

/// The kernel takes all ones for "no change", so it is nobody's id.
const LARGEST_ID: u32 = u32::MAX - 1;

/// A user or group id. Values above the kernel's range must not wrap round to root (CVE-2024-40635).
pub(crate) fn id(field: &str, value: i64) -> Result<u32> {
    let id = u32::try_from(value).ok().filter(|id| *id <= LARGEST_ID);
    id.ok_or_else(|| Refusal::invalid(field, value, "is no id: those are 0 to 4294967294"))
}

/// One of an enumeration's values.
pub(crate) fn enumeration<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T> {
    T::try_from(value).map_err(|_| Refusal::invalid(field, value, "is no value of this enumeration"))
}

/// A path from the root.
pub(crate) fn absolute_path(field: &str, value: &str) -> Result<PathBuf> {
    match value {
        "" => Err(Refusal::missing(field)),
        _ if !value.starts_with('/') => Err(Refusal::invalid(field, value, "is not an absolute path")),
        _ => Ok(PathBuf::from(without_nul(field, value)?)),
    }
}

/// A path below a directory that it cannot leave.
pub(crate) fn relative_path(field: &str, value: &str) -> Result<PathBuf> {
    if value.starts_with('/') {
        return Err(Refusal::invalid(field, value, "is not a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        return Err(Refusal::invalid(field, value, "leads upwards"));
    }
    Ok(PathBuf::from(without_nul(field, value)?))
}

/// A text that must be there.
pub(crate) fn name(field: &str, value: String) -> Result<String> {
    if value.is_empty() {
        return Err(Refusal::missing(field));
    }
    if value.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, value, "has a control character"));
    }
    Ok(value)
}

/// A text that can be handed to the kernel.
pub(crate) fn without_nul<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    if value.contains('\0') {
        return Err(Refusal::invalid(field, value, "has a NUL character"));
    }
    Ok(value)
}

/// A length of time.
pub(crate) fn seconds(field: &str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| Refusal::invalid(field, value, "is negative"))
}

/// A command line's words. A refusal quotes none: they may hold secrets.
pub(crate) fn words(field: &str, words: Vec<String>) -> Result<Vec<String>> {
    match words.iter().position(|word| word.contains('\0')) {
        Some(index) => Err(Refusal::secret(format!("{field}[{index}]"), "has a NUL character")),
        None => Ok(words),
    }
}

/// A handler of this runtime: its own, which is also the default, or one of the settings' others.
pub(crate) fn runtime_handler(field: &str, value: &str, foreign: &[&str]) -> Result<()> {
    if value.is_empty() || value == OWN_HANDLER || foreign.contains(&value) {
        return Ok(());
    }
    let known = [&[OWN_HANDLER], foreign].concat().join(", ");
    Err(Refusal::invalid(field, value, &format!("is no runtime handler: there are {known}")))
}

/// What only Windows nodes understand.
pub(crate) fn no_windows<T>(value: &Option<T>) -> Result<()> {
    match value {
        None => Ok(()),
        Some(_) => Err(Refusal::secret("windows", "has no meaning on a Linux node")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_in_the_kernels_range() {
        let check = |value, want: Option<u32>| assert_eq!(id("run_as_user", value).ok(), want, "{value}");
        check(0, Some(0));
        check(1000, Some(1000));
        check(4_294_967_294, Some(4_294_967_294));
        for bad in [-1, i64::MIN, 4_294_967_295, 4_294_967_296, i64::MAX] {
            check(bad, None);
            let text = id("run_as_user", bad).unwrap_err().to_string();
            assert!(text.starts_with(&format!("run_as_user: {bad} ")), "{text}");
        }
    }

    #[test]
    fn a_commands_words_are_not_quoted() {
        let line = ["--token", "s3cret\0"].map(str::to_owned).to_vec();
        assert_eq!(words("args", line).unwrap_err().to_string(), "args[1]: has a NUL character");
        assert_eq!(words("args", vec!["a b".to_owned()]), Ok(vec!["a b".to_owned()]));
    }

    #[test]
    fn a_handler_is_ours_or_in_the_settings() {
        for good in ["", "berth", "runc"] {
            assert_eq!(runtime_handler("runtime_handler", good, &["crun", "runc"]), Ok(()));
        }
        let refusal = runtime_handler("runtime_handler", "kata", &["crun", "runc"]).unwrap_err();
        let want = "runtime_handler: \"kata\" is no runtime handler: there are berth, crun, runc";
        assert_eq!(refusal.to_string(), want);
    }

    #[test]
    fn log_paths_stay_below_their_directory() {
        let check = |value, good| assert_eq!(relative_path("log_path", value).is_ok(), good, "{value:?}");
        check("web/0.log", true);
        check("a..b", true);
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", "a\0b"] {
            check(bad, false);
        }
    }
}
