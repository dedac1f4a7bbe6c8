//! What a container needs, before anything of it is made: devices, everything that its plan depends on, and how this
//! kernel confines it. Whatever can be refused is refused here.

use berth_cgroup::Entry;
use berth_container::capability;
use berth_container::plan::{Additions, CgroupView, ImageDefaults, Planned, Surroundings, plan_launch};
use berth_container::spec::{ContainerSpec, PidSpec};
use berth_fault::point;
use berth_image::Image;
use berth_monitor::id::ContainerId;
use berth_monitor::plan::{PidNamespace, Rootfs};

use crate::confinement::confine;
use crate::devices::find_additions;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::files::hostname_of;
use crate::host::Host;
use crate::lifecycle::container::{Answer, Request, answer};
use crate::pins::PinnedImages;
use crate::spec::PodPid;

impl Driver {
    /// Decides everything about a container; for one that another runtime makes, that one's configuration too.
    pub(crate) async fn plan_container(
        &mut self,
        id: &ContainerId,
        spec: &ContainerSpec,
        images: &PinnedImages,
    ) -> Result<Planned> {
        let (host, name) = (self.host.clone(), &spec.name);
        let found = find_additions(&host, spec);
        let additions = self.step(point!("find devices of container"), name, found).await?;
        let surroundings = self.surroundings(id, spec, images, additions)?;
        let mut planned = plan_launch(spec, &image_defaults(&images.image), surroundings)?;
        warn_of_raised_score(id, spec.oom_score_adj, planned.launch.process.oom_score_adj);
        let confined = confine(host.clone(), spec.clone(), host.pod_files(&self.id), planned.launch);
        let (launch, filter) = self.step(point!("confine container"), name, confined).await?;
        planned.launch = launch;
        planned.launch.foreign =
            self.foreign_plan(&planned, self.container_cgroup(id)?.path(), filter.as_deref())?;
        Ok(planned)
    }

    fn surroundings(
        &self,
        id: &ContainerId,
        spec: &ContainerSpec,
        images: &PinnedImages,
        additions: Additions,
    ) -> Result<Surroundings> {
        let directory = self.host.container_directory(id);
        let cgroup = self.container_cgroup(id)?;
        let entry = cgroup.entry();
        let log_path = self.spec.log_directory.as_ref().zip(spec.log_path.as_ref());
        Ok(Surroundings {
            container: id.clone(),
            rootfs: Rootfs {
                staging: directory.join("root"),
                lower: self.host.images.rootfs_layers(&images.image),
                upper: directory.join("upper"),
                work: directory.join("work"),
                read_only: spec.security.read_only_rootfs,
            },
            pod_directory: self.host.pod_files(&self.id),
            hostname: hostname_of(&self.spec),
            ipc: self.spec.ipc,
            net: self.spec.net,
            user_namespace: self.spec.user_namespace,
            volumes_directory: (!self.host.settings.ignore_image_volumes).then(|| directory.join("volumes")),
            volume_layers: (images.volumes.iter())
                .map(|(path, image)| (path.clone(), self.host.images.rootfs_layers(image)))
                .collect(),
            pod_is_privileged: self.spec.privileged,
            pid_namespace: self.pid_namespace(&spec.security.pid)?,
            cgroup_view: cgroup_view(&self.host, &entry),
            oom_file: cgroup.oom_file(),
            cgroup: entry,
            log_path: log_path.map(|(directory, log)| directory.join(log)),
            log_directory: self.spec.log_directory.clone(),
            log_line_bytes: self.host.settings.log_line_bytes,
            capabilities: self.capabilities_for(spec),
            least_oom_score: self.host.least_oom_score,
            additions,
        })
    }

    /// The agent's own, without the right to make devices where no device rules hold: a made block device would be the
    /// host's disk.
    fn capabilities_for(&self, spec: &ContainerSpec) -> u64 {
        let rules_hold = self.host.cgroups.controls_devices() || spec.security.privileged;
        self.host.capabilities & if rules_hold { u64::MAX } else { !capability::MKNOD }
    }

    /// What a container's pid mode means in this pod.
    fn pid_namespace(&self, wanted: &PidSpec) -> Result<PidNamespace> {
        let invalid = |value: &str, reason| Error::Invalid {
            field: "linux.security_context.namespace_options.pid",
            value: value.to_owned(),
            reason,
        };
        match wanted {
            PidSpec::Container => Ok(PidNamespace::Own),
            PidSpec::Node => Ok(PidNamespace::Host),
            PidSpec::Pod if self.spec.pid == PodPid::Pod => Ok(PidNamespace::Pod),
            PidSpec::Pod => Err(invalid("POD", "the sandbox was made without a pid namespace for all")),
            PidSpec::Target(target) => {
                let mut found =
                    self.containers.values().filter(|w| w.record.id.as_str().starts_with(target.as_str()));
                match (found.next(), found.next()) {
                    (Some(workload), None)
                        if answer(Request::Join, workload.record.state.stage()) == Answer::Do =>
                    {
                        Ok(PidNamespace::Container(workload.record.id.clone()))
                    }
                    _ => Err(invalid(target, "the target is no running container of this pod")),
                }
            }
        }
    }
}

/// Without CAP_SYS_RESOURCE the agent can't give a score below its own; a node without it still runs pods.
fn warn_of_raised_score(id: &ContainerId, asked: Option<i32>, given: Option<i32>) {
    if asked.zip(given).is_some_and(|(asked, given)| asked < given) {
        tracing::warn!(container.id = %id, asked, given, "oom_score_adj raised to the lowest that the agent can give");
    }
}

fn image_defaults(image: &Image) -> ImageDefaults {
    let config = &image.config;
    ImageDefaults {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        volumes: config.volumes.clone(),
    }
}

/// On v1 each controller's directory under the name of its mount point, as it should appear in the container.
fn cgroup_view(host: &Host, entry: &Entry) -> CgroupView {
    if host.is_unified() {
        return CgroupView::Unified;
    }
    let named = entry.tasks.iter().filter_map(|file| {
        let directory = file.parent()?;
        let name = directory.strip_prefix("/sys/fs/cgroup").ok()?.iter().next()?.to_str()?;
        Some((name.to_owned(), directory.to_owned()))
    });
    CgroupView::PerController(named.collect())
}
