//! Runtime handlers that are other OCI runtimes: which there are, and the plan for a container that one of them makes.
//!
//! The sandbox is the same for all handlers; only the container's first process comes into being another way. What the
//! runtime keeps of the pod's containers lies in the pod's directory, and the bundle in the container's, so that both
//! go with them.

use std::path::PathBuf;

use berth_cgroup::CgroupPath;
use berth_container::oci::{OciFacts, oci_config};
use berth_container::plan::{BUNDLE_NAME, Planned};
use berth_monitor::forget_container;
use berth_monitor::id::ContainerId;
use berth_monitor::plan::{ForeignPlan, PidNamespace};
use berth_seccomp::Filter;
use berth_store::with_causes;

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::host::blocking;

/// The handler that is no other runtime; the empty name means it too.
pub const OWN_HANDLER: &str = "berth";

/// A runtime that makes containers by its command line, as runc and crun do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignHandler {
    /// The program.
    pub program: PathBuf,
    /// What it is told before each command.
    pub args: Vec<String>,
    /// Where it keeps its containers' states; `None` for the pod's directory.
    pub root: Option<PathBuf>,
}

impl Driver {
    /// How the pod's handler makes a container with this filter; `None` if that is the monitor's work.
    pub(crate) fn foreign_plan(
        &self,
        planned: &Planned,
        cgroup: &CgroupPath,
        filter: Option<&Filter>,
    ) -> Result<Option<ForeignPlan>> {
        let name = &self.spec.runtime_handler;
        if name.is_empty() || name == OWN_HANDLER {
            return Ok(None);
        }
        let handler = self.host.settings.handlers.get(name).ok_or_else(|| Error::Invalid {
            field: "runtime_handler",
            value: name.clone(),
            reason: "is no runtime handler of this agent's any more",
        })?;
        let launch = &planned.launch;
        let target_pid = match &launch.pid_namespace {
            PidNamespace::Container(id) => self.containers.get(id).and_then(|workload| workload.pid),
            PidNamespace::Own | PidNamespace::Pod | PidNamespace::Host => None,
        };
        let pause_pid = self.monitor.as_ref().and_then(|monitor| monitor.pause_pid);
        let facts = OciFacts {
            pause_pid: pause_pid.ok_or(Error::MonitorGone)?,
            target_pid,
            net: self.spec.net,
            ipc: self.spec.ipc,
            cgroup_path: cgroup.as_str(),
            device_rules: planned.device_rules.as_deref(),
            seccomp: filter.map(|filter| filter.profile.to_oci()),
        };
        Ok(Some(ForeignPlan {
            program: handler.program.clone(),
            args: handler.args.clone(),
            state: self.foreign_state(handler),
            bundle: self.host.container_directory(&launch.container).join(BUNDLE_NAME),
            config: oci_config(launch, &facts),
        }))
    }

    fn foreign_state(&self, handler: &ForeignHandler) -> PathBuf {
        handler.root.clone().unwrap_or_else(|| self.host.pod_directory(&self.id).join("runtime"))
    }

    /// Has the pod's handler forget a container whose processes are gone. Its monitor has seen to that, unless it died
    /// first. A runtime that fails does not keep the container from being removed.
    pub(crate) async fn forget_foreign(&self, id: &ContainerId) {
        let Some(handler) = self.host.settings.handlers.get(&self.spec.runtime_handler) else {
            return;
        };
        let plan = ForeignPlan {
            program: handler.program.clone(),
            args: handler.args.clone(),
            state: self.foreign_state(handler),
            bundle: self.host.container_directory(id).join(BUNDLE_NAME),
            config: Default::default(),
        };
        let container = id.clone();
        let forgotten = blocking(move || forget_container(&plan, &container)).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(container.id = %id, error = %with_causes(&error), "runtime does not forget the container");
        }
    }
}
