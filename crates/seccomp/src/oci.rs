//! A profile in the words of the OCI runtime-spec, for a runtime that compiles it itself.
//!
//! Rules keep their order, in which that runtime's library looks at them. The flag that leaves speculation alone is not
//! said: it is about speed only, and runc knows no flags before 1.2, and refuses them. Source: config-linux.md,
//! "Seccomp".

use serde_json::{Value, json};

use crate::action::Action;
use crate::arch::Arch;
use crate::condition::{Comparison, Condition};
use crate::document::FLAG_LOG;
use crate::profile::{Profile, Rule};

impl Profile {
    /// The object that a runtime's configuration has as `linux.seccomp`.
    pub fn to_oci(&self) -> Value {
        let mut object = json!({
            "defaultAction": name_of(self.default),
            "architectures": self.arches.iter().map(|arch| arch_name(*arch)).collect::<Vec<_>>(),
            "syscalls": self.rules.iter().map(rule).collect::<Vec<_>>(),
        });
        if self.flags & FLAG_LOG != 0 {
            object["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG"]);
        }
        if let Some(errno) = errno_of(self.default) {
            object["defaultErrnoRet"] = errno.into();
        }
        object
    }
}

fn rule(rule: &Rule) -> Value {
    let mut object = json!({ "names": rule.names, "action": name_of(rule.action) });
    if let Some(errno) = errno_of(rule.action) {
        object["errnoRet"] = errno.into();
    }
    if !rule.conditions.is_empty() {
        object["args"] = rule.conditions.iter().map(condition).collect();
    }
    object
}

fn condition(condition: &Condition) -> Value {
    let (op, value, second) = match condition.comparison {
        Comparison::Equal => ("SCMP_CMP_EQ", condition.value, 0),
        Comparison::NotEqual => ("SCMP_CMP_NE", condition.value, 0),
        Comparison::Less => ("SCMP_CMP_LT", condition.value, 0),
        Comparison::LessOrEqual => ("SCMP_CMP_LE", condition.value, 0),
        Comparison::Greater => ("SCMP_CMP_GT", condition.value, 0),
        Comparison::GreaterOrEqual => ("SCMP_CMP_GE", condition.value, 0),
        Comparison::MaskedEqual(mask) => ("SCMP_CMP_MASKED_EQ", mask, condition.value),
    };
    json!({ "index": condition.index, "op": op, "value": value, "valueTwo": second })
}

fn name_of(action: Action) -> &'static str {
    match action {
        Action::KillProcess => "SCMP_ACT_KILL_PROCESS",
        Action::KillThread => "SCMP_ACT_KILL_THREAD",
        Action::Trap => "SCMP_ACT_TRAP",
        Action::Errno(_) => "SCMP_ACT_ERRNO",
        Action::Trace(_) => "SCMP_ACT_TRACE",
        Action::Log => "SCMP_ACT_LOG",
        Action::Allow => "SCMP_ACT_ALLOW",
    }
}

fn errno_of(action: Action) -> Option<u16> {
    match action {
        Action::Errno(errno) | Action::Trace(errno) => Some(errno),
        Action::KillProcess | Action::KillThread | Action::Trap | Action::Log | Action::Allow => None,
    }
}

fn arch_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "SCMP_ARCH_X86_64",
        Arch::X86 => "SCMP_ARCH_X86",
        Arch::X32 => "SCMP_ARCH_X32",
        Arch::Aarch64 => "SCMP_ARCH_AARCH64",
        Arch::Arm => "SCMP_ARCH_ARM",
    }
}

#[cfg(test)]
mod tests {
    use crate::default::default_profile;
    use crate::document::Document;
    use crate::profile::Facts;

    use super::*;

    #[test]
    fn a_profile_is_the_same_after_the_way_through_its_text() {
        for capabilities in [vec![], vec!["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]] {
            let facts = Facts { arch: Arch::X86_64, kernel: (6, 18), capabilities };
            let profile = default_profile(&facts);
            let text = profile.to_oci().to_string();
            let found = Document::parse(text.as_bytes()).unwrap().resolve(&facts);
            assert_eq!(found, Profile { flags: found.flags, ..profile });
        }
    }
}
