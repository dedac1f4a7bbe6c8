//! What holds a container's process back besides namespaces and capabilities: system call filter, AppArmor, SELinux.
//!
//! In: what the request says of each. Out: fields of the launch plan; exec sessions inherit those of the process. Which
//! of the two security modules the kernel has is found out once, when the agent starts. A profile that cannot be
//! applied refuses the container, with the field's name, before anything of it is made.

mod apparmor;
mod selinux;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_container::capability;
use berth_container::spec::{ContainerSpec, ProfileSpec, SecuritySpec, VolumeSource};
use berth_monitor::plan::LaunchPlan;
use berth_seccomp::{Arch, Facts, Filter, Filters};

use crate::error::{Error, Result};
use crate::host::{Host, blocking};
use apparmor::AppArmor;
use selinux::Selinux;

/// What this node can confine with.
#[derive(Debug)]
pub(crate) struct Confinement {
    kernel: (u32, u32),
    filters: Filters,
    /// The filter of containers whose request says nothing.
    unset_seccomp: ProfileSpec,
    apparmor: AppArmor,
    selinux: Selinux,
}

impl Confinement {
    /// Asks the kernel what it has.
    pub(crate) fn detect(unset_seccomp: ProfileSpec) -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self {
            kernel: version_of(&release),
            filters: Filters::default(),
            unset_seccomp,
            apparmor: AppArmor::detect(),
            selinux: Selinux::detect(),
        }
    }

    /// Completes a launch plan; `pod_files` is the directory of the files that the pod's containers share. Blocks on
    /// small files, on relabelling volumes, and once on a program that loads the AppArmor profile. Returns the filter
    /// in force.
    fn apply(
        &self,
        spec: &ContainerSpec,
        pod_files: &Path,
        plan: &mut LaunchPlan,
    ) -> Result<Option<Arc<Filter>>> {
        let (security, process) = (&spec.security, &mut plan.process);
        let filter = self.filter(security, process.capabilities.bounding)?;
        if let Some(filter) = &filter {
            process.seccomp = Some(filter.program.clone());
            process.seccomp_flags = filter.flags;
        }
        process.apparmor = self.apparmor.profile_for(security.apparmor.as_ref(), security.privileged)?;
        let labels = security.selinux.as_ref().and_then(|parts| self.selinux.labels(parts));
        if let (Some(labels), false) = (labels, security.privileged) {
            selinux::relabel(pod_files, &labels.file)?;
            for volume in spec.mounts.iter().filter(|volume| volume.selinux_relabel) {
                if let VolumeSource::Host { host_path } = &volume.source {
                    selinux::relabel_volume(host_path, &labels.file)?;
                }
            }
            (process.selinux, plan.file_label) = (Some(labels.process), Some(labels.file));
        }
        Ok(filter)
    }

    /// The default filter depends on the capabilities that the container ends up with: what the agent lacks opens
    /// nothing.
    fn filter(&self, security: &SecuritySpec, capabilities: u64) -> Result<Option<Arc<Filter>>> {
        let wanted = security.seccomp.as_ref().unwrap_or(&self.unset_seccomp);
        if security.privileged || *wanted == ProfileSpec::Unconfined {
            return Ok(None);
        }
        let facts = Facts {
            arch: Arch::NATIVE,
            kernel: self.kernel,
            capabilities: capability::names_of(capabilities),
        };
        let filter = match wanted {
            ProfileSpec::Localhost(path) => self.filters.of_file(Path::new(path), &facts),
            ProfileSpec::RuntimeDefault | ProfileSpec::Unconfined => self.filters.default_for(&facts),
        };
        filter.map(Some).map_err(|source| Error::Seccomp { source })
    }
}

/// [`Confinement::apply`], on a thread that may wait.
pub(crate) async fn confine(
    host: Arc<Host>,
    spec: ContainerSpec,
    pod_files: PathBuf,
    mut plan: LaunchPlan,
) -> Result<(LaunchPlan, Option<Arc<Filter>>)> {
    blocking(move || host.confinement.apply(&spec, &pod_files, &mut plan).map(|filter| (plan, filter)))
        .await?
}

/// The first two numbers of a kernel's release; what can't be read counts as old.
pub(crate) fn version_of(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_version_is_read_from_its_release() {
        for (release, want) in
            [("6.18.5-cloud", (6, 18)), ("5.14-rc3", (5, 14)), ("6.1.0", (6, 1)), ("?", (0, 0))]
        {
            assert_eq!(version_of(release), want, "{release}");
        }
    }
}
