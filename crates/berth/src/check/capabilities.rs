//! Which of the capabilities that berth uses this process has, and what the loss of each means. Containers get no more
//! than the agent holds, so a bit that is missing here is missing there too.

use super::{Finding, Level};
use std::fs;

/// Bit, name, how bad its loss is, and what is lost. Source: capabilities(7).
#[rustfmt::skip] // A table reads by its rows.
const NEEDED: &[(u32, &str, Level, &str)] = &[
    (0, "CAP_CHOWN", Level::Fail, "images can't be unpacked with their owners"),
    (1, "CAP_DAC_OVERRIDE", Level::Fail, "files of other users can't be written"),
    (3, "CAP_FOWNER", Level::Fail, "images can't be unpacked with their modes"),
    (4, "CAP_FSETID", Level::Warn, "set-group-id bits of images get lost"),
    (5, "CAP_KILL", Level::Fail, "containers of other users can't be stopped"),
    (6, "CAP_SETGID", Level::Fail, "containers can't run in other groups"),
    (7, "CAP_SETUID", Level::Fail, "containers can't run as other users"),
    (8, "CAP_SETPCAP", Level::Fail, "capabilities of containers can't be reduced"),
    (10, "CAP_NET_BIND_SERVICE", Level::Warn, "containers can't listen on ports below 1024"),
    (12, "CAP_NET_ADMIN", Level::Fail, "pods get no network"),
    (13, "CAP_NET_RAW", Level::Warn, "ping doesn't work in containers"),
    (18, "CAP_SYS_CHROOT", Level::Fail, "containers can't enter their namespaces"),
    (19, "CAP_SYS_PTRACE", Level::Warn, "namespaces of containers of other users can't be looked at"),
    (21, "CAP_SYS_ADMIN", Level::Fail, "no namespaces and no mounts"),
    (24, "CAP_SYS_RESOURCE", Level::Warn, "oom_score_adj can't be lowered, nor limits raised"),
    (27, "CAP_MKNOD", Level::Fail, "no devices in containers, no whiteouts in images"),
    (29, "CAP_AUDIT_WRITE", Level::Warn, "programs in containers can't write to the audit log"),
    (31, "CAP_SETFCAP", Level::Fail, "images can't be unpacked with their file capabilities"),
];

pub(super) fn findings() -> Vec<Finding> {
    match fs::read_to_string("/proc/self/status").ok().and_then(|status| effective(&status)) {
        Some(mask) => judge(mask),
        None => vec![Finding::warn("capabilities", "can't read /proc/self/status", "mount /proc")],
    }
}

/// The bits of the line `CapEff`, which are hexadecimal.
fn effective(status: &str) -> Option<u64> {
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(bits.trim(), 16).ok()
}

fn judge(mask: u64) -> Vec<Finding> {
    let missing: Vec<_> = NEEDED.iter().filter(|(bit, ..)| mask & (1 << bit) == 0).collect();
    if missing.is_empty() {
        return vec![Finding::ok("capabilities", "all that berth uses")];
    }
    if missing.len() == NEEDED.len() {
        return vec![Finding::fail("capabilities", "none", "run berth as root")];
    }
    let finding = |(_, name, level, loss): &&(u32, &str, Level, &str)| Finding {
        level: *level,
        what: "capabilities",
        detail: format!("{name} is missing: {loss}"),
        advice: Some(format!("give {name} to the agent's bounding set")),
    };
    missing.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        assert_eq!(effective("Name:\tberth\nCapEff:\t000001fffeffffff\n"), Some(0x1ff_feff_ffff));
        let findings = judge(0x1ff_feff_ffff);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, Level::Warn);
        assert!(findings[0].detail.starts_with("CAP_SYS_RESOURCE is missing: oom_score_adj"));
        assert_eq!(judge(u64::MAX)[0].level, Level::Ok);
        assert_eq!(judge(0), [Finding::fail("capabilities", "none", "run berth as root")]);
        assert_eq!(judge(!(1 << 21))[0].level, Level::Fail);
    }
}
