//! Profile files: JSON in the form of the OCI runtime-spec (config-linux.md, "Seccomp"), or in that of the Docker
//! family, whose rules may have conditions of their own (`includes`, `excludes`, `archMap`).
//!
//! A file is checked whole, also in what does not apply on this node: an error is found on the first try, not when a
//! container asks for another capability. Unknown keys are left alone, and so are names of calls that no table has:
//! profiles are shared between nodes of different ages. An `errnoRet` beside an action that returns none is left alone
//! too, as runc does: files are copied and given another action.

use serde::{Deserialize, Deserializer};

use crate::action::{Action, NoAction};
use crate::arch::Arch;
use crate::condition::{Comparison, Condition, MAX_ARGUMENTS};
use crate::error::{Error, Result};
use crate::profile::{Facts, Profile, Rule};

/// `SECCOMP_FILTER_FLAG_LOG`: log what is not allowed.
pub(crate) const FLAG_LOG: u32 = 2;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: leave speculative store bypass alone. Without it a filter costs speed on old CPUs.
pub(crate) const FLAG_SPEC_ALLOW: u32 = 4;

/// A profile as its author wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    default: Action,
    arches: Vec<Arch>,
    companions: Vec<(Arch, Vec<Arch>)>,
    flags: u32,
    rules: Vec<DocumentRule>,
}

/// A rule, and where it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DocumentRule {
    rule: Rule,
    includes: Filter,
    excludes: Filter,
}

/// A rule is included if all of it holds, excluded if any does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<(u32, u32)>,
}

impl Document {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`Error::Json`] or [`Error::Value`], with the place.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let mut parser = serde_json::Deserializer::from_slice(text);
        let raw: RawProfile = serde_path_to_error::deserialize(&mut parser).map_err(|error| Error::Json {
            path: error.path().to_string(),
            problem: error.inner().to_string(),
        })?;
        parser.end().map_err(|error| Error::Json { path: ".".to_owned(), problem: error.to_string() })?;
        raw.check()
    }

    /// Decides all conditions.
    pub fn resolve(&self, facts: &Facts) -> Profile {
        let mapped = self.companions.iter().filter(|(arch, _)| *arch == facts.arch);
        let listed = self.arches.iter().chain(mapped.flat_map(|(_, companions)| companions)).copied();
        let mut arches = vec![facts.arch];
        for arch in listed.filter(|arch| facts.arch.companions().contains(arch)) {
            if !arches.contains(&arch) {
                arches.push(arch);
            }
        }
        let applies = |rule: &&DocumentRule| rule.includes.all(facts) && !rule.excludes.any(facts);
        Profile {
            default: self.default,
            arches,
            rules: self.rules.iter().filter(applies).map(|rule| rule.rule.clone()).collect(),
            flags: self.flags,
        }
    }
}

impl Filter {
    fn all(&self, facts: &Facts) -> bool {
        (self.arches.is_empty() || self.names(facts.arch))
            && self.caps.iter().all(|name| facts.has(name))
            && self.min_kernel.is_none_or(|version| facts.kernel >= version)
    }

    fn any(&self, facts: &Facts) -> bool {
        self.names(facts.arch)
            || self.caps.iter().any(|name| facts.has(name))
            || self.min_kernel.is_some_and(|version| facts.kernel >= version)
    }

    fn names(&self, arch: Arch) -> bool {
        self.arches.iter().any(|name| name == arch.go_name())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    arch_map: Vec<RawArchitecture>,
    flags: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    syscalls: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawArchitecture {
    architecture: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRule {
    /// The form of before 2016.
    #[serde(default, deserialize_with = "null_is_empty")]
    name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    args: Vec<RawCondition>,
    #[serde(default, deserialize_with = "null_is_empty")]
    includes: RawFilter,
    #[serde(default, deserialize_with = "null_is_empty")]
    excludes: RawFilter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFilter {
    #[serde(default, deserialize_with = "null_is_empty")]
    caps: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    arches: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    min_kernel: String,
}

/// Go writes `null` for an empty list.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl RawProfile {
    fn check(self) -> Result<Document> {
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err(invalid("archMap", "[…]", "is given together with architectures"));
        }
        let arches = known_arches("architectures", &self.architectures)?;
        let mut companions = Vec::new();
        for (index, entry) in self.arch_map.iter().enumerate() {
            let path = format!("archMap[{index}]");
            let arch = arch_from(&format!("{path}.architecture"), &entry.architecture)?;
            let others = known_arches(&format!("{path}.subArchitectures"), &entry.sub_architectures)?;
            companions.extend(arch.map(|arch| (arch, others)));
        }
        let rule = |(index, rule): (usize, RawRule)| rule.check(&format!("syscalls[{index}]"));
        Ok(Document {
            default: action_from("defaultAction", &self.default_action, self.default_errno_ret)?,
            arches,
            companions,
            flags: flags_from(self.flags)?,
            rules: self.syscalls.into_iter().enumerate().map(rule).collect::<Result<_>>()?,
        })
    }
}

impl RawRule {
    fn check(mut self, path: &str) -> Result<DocumentRule> {
        match (self.name.is_empty(), self.names.is_empty()) {
            (true, true) => return Err(invalid(&format!("{path}.names"), "[]", "names no call")),
            (true, false) => {}
            (false, true) => self.names.push(self.name),
            (false, false) => {
                return Err(invalid(&format!("{path}.name"), self.name, "is given together with names"));
            }
        }
        if let Some(index) = self.names.iter().position(String::is_empty) {
            return Err(invalid(&format!("{path}.names[{index}]"), "", "is no name of a call"));
        }
        let condition = |(index, raw): (usize, RawCondition)| raw.check(&format!("{path}.args[{index}]"));
        let rule = Rule {
            names: self.names,
            action: action_from(&format!("{path}.action"), &self.action, self.errno_ret)?,
            conditions: self.args.into_iter().enumerate().map(condition).collect::<Result<_>>()?,
        };
        Ok(DocumentRule {
            rule,
            includes: self.includes.check(&format!("{path}.includes"))?,
            excludes: self.excludes.check(&format!("{path}.excludes"))?,
        })
    }
}

impl RawCondition {
    fn check(self, path: &str) -> Result<Condition> {
        if self.index >= MAX_ARGUMENTS {
            let problem = "is no argument: those are 0 to 5";
            return Err(invalid(&format!("{path}.index"), self.index.to_string(), problem));
        }
        let (comparison, value) = Comparison::from_name(&self.op, self.value, self.value_two)
            .ok_or_else(|| invalid(&format!("{path}.op"), &self.op, "is no comparison"))?;
        Ok(Condition { index: self.index as u8, comparison, value })
    }
}

impl RawFilter {
    fn check(self, path: &str) -> Result<Filter> {
        let min_kernel =
            match self.min_kernel.as_str() {
                "" => None,
                text => Some(version_from(text).ok_or_else(|| {
                    invalid(&format!("{path}.minKernel"), text, "is no version such as 4.8")
                })?),
            };
        Ok(Filter { caps: self.caps, arches: self.arches, min_kernel })
    }
}

fn version_from(text: &str) -> Option<(u32, u32)> {
    let (version, revision) = text.split_once('.')?;
    Some((version.parse().ok()?, revision.parse().ok()?))
}

fn action_from(path: &str, name: &str, errno: Option<u32>) -> Result<Action> {
    Action::from_name(name, errno).map_err(|fault| match fault {
        NoAction::Unknown => invalid(path, name, "is no action"),
        NoAction::Notify => invalid(path, name, "is not served: there is no supervisor to ask"),
        NoAction::ErrnoOutOfRange => {
            let errno = errno.map(|errno| errno.to_string()).unwrap_or_default();
            invalid(path, format!("{name} with errno {errno}"), "is out of range: an errno is 0 to 4095")
        }
    })
}

fn known_arches(path: &str, names: &[String]) -> Result<Vec<Arch>> {
    let arch = |(index, name): (usize, &String)| arch_from(&format!("{path}[{index}]"), name).transpose();
    names.iter().enumerate().filter_map(arch).collect()
}

fn arch_from(path: &str, name: &str) -> Result<Option<Arch>> {
    Arch::from_name(name).ok_or_else(|| invalid(path, name, "is no architecture"))
}

/// Flags about threads and supervisors have no meaning for a process of one thread without one.
fn flags_from(names: Option<Vec<String>>) -> Result<u32> {
    let Some(names) = names else { return Ok(FLAG_SPEC_ALLOW) };
    let mut flags = 0;
    for (index, name) in names.iter().enumerate() {
        flags |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 0,
            _ => return Err(invalid(&format!("flags[{index}]"), name, "is no flag")),
        };
    }
    Ok(flags)
}

/// A value that makes no sense, quoted if it is a text.
fn invalid(path: &str, value: impl AsRef<str>, problem: &'static str) -> Error {
    let value = format!("{:?}", shortened(value.as_ref()));
    Error::Value { path: path.to_owned(), value, problem }
}

fn shortened(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 80;
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(capabilities: &[&'static str]) -> Facts {
        Facts { arch: Arch::X86_64, kernel: (6, 1), capabilities: capabilities.to_vec() }
    }

    #[test]
    fn both_forms_are_read() {
        let text = br#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}],
            "syscalls": [
                {"name": "read", "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
                 "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
                {"names": ["cacheflush"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#;
        let document = Document::parse(text).unwrap();
        let names = |capabilities: &[&'static str]| {
            let profile = document.resolve(&facts(capabilities));
            profile.rules.iter().map(|rule| rule.names[0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["read", "clone3", "ptrace", "clone"]);
        assert_eq!(names(&["CAP_SYS_ADMIN"]), ["read", "mount", "ptrace", "clone"]);
        let profile = document.resolve(&facts(&[]));
        assert_eq!(profile.arches, [Arch::X86_64, Arch::X86, Arch::X32]);
        assert_eq!((profile.default, profile.flags), (Action::Errno(38), FLAG_LOG));
        let clone = &profile.rules[3].conditions[0];
        assert_eq!((clone.comparison, clone.value), (Comparison::MaskedEqual(0x7e02_0000), 0));

        let plain =
            br#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_ARM"]}"#;
        let profile = Document::parse(plain).unwrap().resolve(&facts(&[]));
        assert_eq!(profile.arches, [Arch::X86_64, Arch::X86]);
        assert_eq!(profile.flags, FLAG_SPEC_ALLOW);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let check = |text: &str, want: &str| {
            let found = Document::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(found.starts_with(want), "{found}");
        };
        let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
        let rules = |text: &str, want: &str| check(&rule(text), want);
        check("", ".: EOF");
        check("[]", ".: invalid");
        check("{}", ".: missing field `defaultAction`");
        check(r#"{"defaultAction": "SCMP_ACT_ALLOW"} x"#, ".: trailing characters");
        check(r#"{"defaultAction": "ALLOW"}"#, r#"defaultAction: "ALLOW" is no action"#);
        check(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, r#"defaultAction: "SCMP_ACT_NOTIFY" is not served"#);
        check(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"]}"#,
            r#"architectures[0]: "amd64" is no architecture"#,
        );
        check(r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["LOG"]}"#, r#"flags[0]: "LOG" is no flag"#);
        rules(r#"{"names": ["x"]}"#, "syscalls[0]: missing field `action`");
        rules(r#"{"names": [], "action": "SCMP_ACT_LOG"}"#, "syscalls[0].names: \"[]\" names no call");
        rules(
            r#"{"names": ["x"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}"#,
            r#"syscalls[0].action: "SCMP_ACT_ERRNO with errno 5000" is out of range"#,
        );
        let args = |args: &str, want: &str| {
            rules(&format!(r#"{{"names": ["x"], "action": "SCMP_ACT_LOG", "args": [{args}]}}"#), want);
        };
        args(
            r#"{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}"#,
            r#"syscalls[0].args[0].index: "6" is no arg"#,
        );
        args(r#"{"index": 0, "value": 0, "op": "=="}"#, r#"syscalls[0].args[0].op: "==" is no comparison"#);
        args(r#"{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}"#, "syscalls[0].args[0].value: invalid value");
        rules(
            r#"{"names": ["x"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "five"}}"#,
            r#"syscalls[0].includes.minKernel: "five" is no version"#,
        );
    }
}
