//! What a plan needs of the monitor that is to carry it out. One that is older than the agent passes over the fields
//! that it does not know, which must not be those that confine the workload.

use crate::plan::LaunchPlan;
use crate::protocol::{APPARMOR, FOREIGN, HOOKS, OUTSIDE_HOOKS, SECCOMP, SELINUX};

impl LaunchPlan {
    /// The features without which a monitor would do less than the plan says.
    pub fn features(&self) -> impl Iterator<Item = &'static str> {
        let process = &self.process;
        let needed = [
            (SECCOMP, process.seccomp.is_some()),
            (APPARMOR, process.apparmor.is_some()),
            (SELINUX, process.selinux.is_some() || self.file_label.is_some()),
            (HOOKS, !self.hooks.list.is_empty()),
            (OUTSIDE_HOOKS, self.has_hooks_outside()),
            (FOREIGN, self.foreign.is_some()),
        ];
        needed.into_iter().filter_map(|(feature, is_needed)| is_needed.then_some(feature))
    }

    /// Whether the monitor has hooks to run in its own namespaces; another runtime runs its own.
    pub(crate) fn has_hooks_outside(&self) -> bool {
        self.foreign.is_none() && self.hooks.list.iter().any(|hook| hook.point.is_outside())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::ForeignPlan;
    use crate::protocol::{FEATURES, Hello};

    fn plan() -> LaunchPlan {
        let id = "c".repeat(64);
        let path = "/x";
        let (zero, none) = (json!(0), Value::Null);
        let sets = json!({ "bounding": zero, "effective": zero, "inheritable": zero, "ambient": zero });
        let user =
            json!({ "user": { "Id": 0 }, "group": none, "supplemental": [], "merge_image_groups": false });
        serde_json::from_value(json!({
            "container": id, "pid_namespace": "Own", "cgroup_namespace": "Own",
            "cgroup": { "directory": none, "tasks": [] }, "oom_file": none,
            "rootfs": { "staging": path, "lower": [path], "upper": path, "work": path, "read_only": false },
            "mounts": [], "devices": [], "links": [], "masked_paths": [], "readonly_paths": [],
            "process": {
                "args": ["x"], "env": [], "cwd": path, "user": user, "capabilities": sets,
                "no_new_privileges": false, "oom_score_adj": none,
            },
            "stdio": { "stdin": false, "tty": false, "log": none },
        }))
        .unwrap()
    }

    #[test]
    fn a_plan_needs_what_it_uses() {
        assert_eq!(plan().features().count(), 0);
        let mut all = plan();
        let process = &mut all.process;
        process.seccomp = Some(vec![]);
        (process.apparmor, process.selinux) = (Some("a".to_owned()), Some("s".to_owned()));
        let hook = json!({ "point": "Poststop", "path": "/x", "args": [], "env": [], "timeout_ms": null });
        all.hooks.list.push(serde_json::from_value(hook).unwrap());
        let own = all.features().collect::<Vec<_>>();
        assert_eq!(own, [SECCOMP, APPARMOR, SELINUX, HOOKS, OUTSIDE_HOOKS]);
        let path = std::path::PathBuf::from("/x");
        all.foreign = Some(ForeignPlan {
            program: path.clone(),
            args: vec![],
            state: path.clone(),
            bundle: path,
            config: Value::Null,
        });
        // Another runtime runs hooks at all points by itself.
        let all = all.features().collect::<Vec<_>>();
        assert_eq!(all, [SECCOMP, APPARMOR, SELINUX, HOOKS, FOREIGN]);
        assert!(own.iter().chain(&all).all(|feature| FEATURES.contains(feature)));
    }

    #[test]
    fn a_monitor_that_lists_nothing_has_no_features() {
        let hello = json!({ "version": 2, "pod": "b".repeat(64), "pid": 1, "pause_pid": null });
        assert!(serde_json::from_value::<Hello>(hello).unwrap().features.is_empty());
    }
}
