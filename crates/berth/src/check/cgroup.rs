//! The control groups' part of the pre-flight: how the hierarchies are mounted, and which controllers containers can be
//! limited by. Nothing is created.

use super::Finding;
use berth_cgroup::{Cgroups, Layout};

/// Controllers without which a pod's limits can't be kept, and those that are used where they exist.
const CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];
const CONTROLLERS_ON_DEMAND: &[&str] = &["cpuset", "hugetlb"];

pub(super) fn findings() -> Vec<Finding> {
    match Cgroups::detect() {
        Ok(cgroups) => {
            let controllers = controllers(|name| cgroups.has_controller(name));
            [layout(cgroups.layout())].into_iter().chain(controllers).collect()
        }
        Err(error) => vec![Finding::fail("cgroups", error.to_string(), "mount cgroup2 on /sys/fs/cgroup")],
    }
}

fn layout(layout: Layout) -> Finding {
    const ADVICE: &str = "boot with systemd.unified_cgroup_hierarchy=1; the kubelet is giving up version 1";
    match layout {
        Layout::Unified => Finding::ok("cgroups", "version 2; processes are cloned into their cgroup"),
        Layout::Hybrid => Finding::warn("cgroups", "version 1, with a version 2 hierarchy beside it", ADVICE),
        Layout::Legacy => Finding::warn("cgroups", "version 1", ADVICE),
    }
}

fn controllers(has: impl Fn(&str) -> bool) -> Vec<Finding> {
    let missing =
        |names: &[&'static str]| -> Vec<&str> { names.iter().copied().filter(|n| !has(n)).collect() };
    let (needed, on_demand) = (missing(CONTROLLERS), missing(CONTROLLERS_ON_DEMAND));
    let mut findings = Vec::new();
    if !needed.is_empty() {
        let advice = "enable them in the kernel (on some machines: cgroup_enable=memory)";
        findings.push(Finding::fail("controllers", format!("without {}", needed.join(", ")), advice));
    }
    if !on_demand.is_empty() {
        let advice = "enable them if pods are to ask for such limits";
        findings.push(Finding::warn("controllers", format!("without {}", on_demand.join(", ")), advice));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("controllers", [CONTROLLERS, CONTROLLERS_ON_DEMAND].concat().join(", ")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn a_missing_controller_is_named() {
        let levels =
            |has: &[&str]| controllers(|n| has.contains(&n)).iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(&["cpu", "memory", "pids", "cpuset", "hugetlb"]), [Level::Ok]);
        assert_eq!(levels(&["cpu", "memory", "pids", "cpuset"]), [Level::Warn]);
        assert_eq!(levels(&["cpu", "pids"]), [Level::Fail, Level::Warn]);
        assert!(controllers(|name| name != "memory")[0].detail.ends_with("without memory"));
    }
}
