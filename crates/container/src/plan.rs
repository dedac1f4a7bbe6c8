//! Request, image and pod become one launch plan.
//!
//! ```text
//! ContainerSpec ─┐
//! ImageDefaults ─┼─▶ plan_launch ─▶ LaunchPlan (to the monitor) and what the agent keeps beside it
//! Surroundings ──┘
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_cgroup::{DEFAULT_DEVICES, DeviceAccess, DeviceRule, Entry};
use berth_monitor::id::ContainerId;
use berth_monitor::idmap::IdMaps;
use berth_monitor::plan::{Device, Fifo, Hook, Hooks, LaunchPlan, PidNamespace, Rootfs, Sharing, StdioPlan};

use crate::error::{Error, Result};
use crate::filesystem::{default_links, is_own_dev, plan_devices, plan_mounts};
use crate::process::{plan_process, stop_signal};
use crate::spec::{ContainerSpec, VolumeSpec};

/// The directory beside a container's root in which other programs find what they are to know of it, as an OCI bundle.
pub const BUNDLE_NAME: &str = "bundle";

/// What an image says about running it. Source: OCI image-spec, config.md.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, each `NAME=value`.
    pub env: Vec<String>,
    /// `User`; empty for root.
    pub user: String,
    /// `WorkingDir`; empty for `/`.
    pub working_dir: String,
    /// `StopSignal`; empty for SIGTERM.
    pub stop_signal: String,
    /// `Volumes`: paths that get a directory of the container's own.
    pub volumes: Vec<String>,
}

/// Where a container is put: paths and facts of its pod and of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The container's id.
    pub container: ContainerId,
    /// Layers and directories, all made.
    pub rootfs: Rootfs,
    /// The pod's directory, with `hosts`, `hostname` and `resolv.conf`.
    pub pod_directory: PathBuf,
    /// The hostname that the pod shows.
    pub hostname: String,
    /// The pod's IPC namespace.
    pub ipc: Sharing,
    /// The pod's network namespace.
    pub net: Sharing,
    /// The pod's user namespace, if it has its own.
    pub user_namespace: Option<IdMaps>,
    /// Below it lie the directories for the image's `Volumes`; `None` to do without them.
    pub volumes_directory: Option<PathBuf>,
    /// The layers of each image that is a volume, topmost first, by the volume's path in the request.
    pub volume_layers: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Whether privileged containers may join the pod.
    pub pod_is_privileged: bool,
    /// The pid namespace that the request's mode means in this pod.
    pub pid_namespace: PidNamespace,
    /// The container's cgroup.
    pub cgroup: Entry,
    /// Where its OOM kills are counted.
    pub oom_file: Option<PathBuf>,
    /// How it sees its cgroup.
    pub cgroup_view: CgroupView,
    /// The whole path of its log.
    pub log_path: Option<PathBuf>,
    /// The pod's directory for logs.
    pub log_directory: Option<PathBuf>,
    /// Longest text of one log record, in bytes.
    pub log_line_bytes: usize,
    /// The capabilities that the agent itself has.
    pub capabilities: u64,
    /// The lowest score for the out-of-memory killer that the agent can give; `None` for any.
    pub least_oom_score: Option<i32>,
    /// What the host adds to the container.
    pub additions: Additions,
}

/// What was found on the host for a request: device nodes, and what the specifications of CDI devices bring with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Additions {
    /// Devices besides those of every container; later ones win.
    pub devices: Vec<AddedDevice>,
    /// Named pipes.
    pub fifos: Vec<Fifo>,
    /// `NAME=value`; beats the request's.
    pub env: Vec<String>,
    /// Volumes; they take the place of those that the request has there.
    pub mounts: Vec<VolumeSpec>,
    /// Supplemental groups.
    pub groups: Vec<u32>,
    /// Programs of the host that are run while the container is made.
    pub hooks: Vec<Hook>,
}

/// A device, and what the container may do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedDevice {
    /// The node.
    pub device: Device,
    /// What its cgroup allows.
    pub access: DeviceAccess,
}

impl AddedDevice {
    fn rule(&self) -> DeviceRule {
        let Device { kind, major, minor, .. } = self.device;
        DeviceRule { kind, major: Some(major), minor: Some(minor), access: self.access }
    }
}

/// How a container sees its cgroup in `/sys/fs/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupView {
    /// One hierarchy (v2), through a cgroup namespace.
    Unified,
    /// Its own directory of each controller (v1), `(name, host path)`.
    PerController(Vec<(String, PathBuf)>),
}

/// A plan, and what of it the agent needs again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// For the monitor.
    pub launch: LaunchPlan,
    /// The signal that asks the container to stop.
    pub stop_signal: i32,
    /// The devices that its cgroup allows; `None` for all.
    pub device_rules: Option<Vec<DeviceRule>>,
}

/// Decides everything about a container.
///
/// # Errors
/// What in the request or the image makes no sense.
pub fn plan_launch(
    spec: &ContainerSpec,
    image: &ImageDefaults,
    surroundings: Surroundings,
) -> Result<Planned> {
    let privileged = spec.security.privileged;
    if privileged && !surroundings.pod_is_privileged {
        return Err(Error::PrivilegedInUnprivilegedPod);
    }
    let stop_signal = stop_signal(spec, image)?;
    let added_rules = surroundings.additions.devices.iter().map(AddedDevice::rule);
    let device_rules = (!privileged).then(|| DEFAULT_DEVICES.into_iter().chain(added_rules).collect());
    let process = plan_process(spec, image, &surroundings)?;
    let mounts = plan_mounts(spec, &image.volumes, &surroundings)?;
    // In a volume at /dev, whoever wants it there, they would be made on the host.
    let has_own_dev = mounts.iter().any(is_own_dev);
    let is_unified = surroundings.cgroup_view == CgroupView::Unified;
    let mut readonly_paths = spec.security.readonly_paths.clone();
    if !is_unified && !privileged {
        // On v1 a tmpfs carries the controllers' directories; they have to be made in it before it can be read-only.
        readonly_paths.push("/sys/fs/cgroup".into());
    }
    let hooks = Hooks {
        list: surroundings.additions.hooks,
        bundle: surroundings.rootfs.staging.with_file_name(BUNDLE_NAME),
        annotations: spec.annotations.clone(),
    };
    let launch = LaunchPlan {
        container: surroundings.container,
        pid_namespace: surroundings.pid_namespace,
        // As with containerd: on v1 a cgroup namespace is not expected, and a privileged container sees the host's.
        cgroup_namespace: if is_unified && !privileged { Sharing::Own } else { Sharing::Host },
        cgroup: surroundings.cgroup,
        oom_file: surroundings.oom_file,
        rootfs: surroundings.rootfs,
        mounts,
        devices: if has_own_dev { plan_devices(&surroundings.additions.devices) } else { Vec::new() },
        fifos: if has_own_dev { surroundings.additions.fifos } else { Vec::new() },
        links: if has_own_dev { default_links() } else { Vec::new() },
        masked_paths: if privileged { Vec::new() } else { spec.security.masked_paths.clone() },
        readonly_paths: if privileged { Vec::new() } else { readonly_paths },
        file_label: None,
        hooks,
        process,
        stdio: StdioPlan {
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
            log: surroundings.log_path,
            log_directory: surroundings.log_directory,
            log_line_bytes: surroundings.log_line_bytes,
        },
        foreign: None,
    };
    Ok(Planned { launch, stop_signal, device_rules })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::capability::CapabilityNames;
    use crate::spec::{PidSpec, ProfileSpec, SecuritySpec};
    use berth_cgroup::Limits;
    use berth_monitor::plan::{DeviceKind, MountSource};

    pub(crate) fn spec() -> ContainerSpec {
        ContainerSpec {
            name: "web".to_owned(),
            attempt: 0,
            image: "busybox".to_owned(),
            user_specified_image: String::new(),
            command: vec!["true".to_owned()],
            args: vec![],
            working_dir: None,
            env: vec![],
            mounts: vec![],
            devices: vec![],
            cdi_devices: vec![],
            labels: Default::default(),
            annotations: Default::default(),
            log_path: None,
            stdin: false,
            stdin_once: false,
            tty: false,
            limits: Limits::default(),
            oom_score_adj: None,
            security: SecuritySpec {
                privileged: false,
                pid: PidSpec::Container,
                user: None,
                group: None,
                supplemental_groups: vec![],
                merge_image_groups: true,
                capabilities: CapabilityNames::default(),
                no_new_privileges: false,
                read_only_rootfs: false,
                masked_paths: vec!["/proc/kcore".into()],
                readonly_paths: vec!["/proc/sys".into()],
                seccomp: Some(ProfileSpec::Unconfined),
                apparmor: None,
                selinux: None,
            },
            stop_signal: None,
        }
    }

    pub(crate) fn surroundings() -> Surroundings {
        Surroundings {
            container: ContainerId::from_random([1; 32]),
            rootfs: Rootfs {
                staging: "/run/c/root".into(),
                lower: vec!["/layers/1".into()],
                upper: "/c/upper".into(),
                work: "/c/work".into(),
                read_only: false,
            },
            pod_directory: "/run/pod".into(),
            hostname: "pod".to_owned(),
            ipc: Sharing::Own,
            net: Sharing::Own,
            user_namespace: None,
            volumes_directory: Some("/c/volumes".into()),
            volume_layers: BTreeMap::new(),
            pod_is_privileged: false,
            pid_namespace: PidNamespace::Own,
            cgroup: Entry::default(),
            oom_file: None,
            cgroup_view: CgroupView::PerController(vec![(
                "memory".to_owned(),
                "/sys/fs/cgroup/memory/c".into(),
            )]),
            log_path: None,
            log_directory: None,
            log_line_bytes: 16384,
            capabilities: u64::MAX,
            least_oom_score: None,
            additions: Additions::default(),
        }
    }

    fn targets(launch: &LaunchPlan) -> Vec<&Path> {
        launch.mounts.iter().map(|mount| mount.target.as_path()).collect()
    }

    #[test]
    fn shallow_mounts_come_first_and_volumes_replace_what_is_mounted_at_their_place() {
        let mounts = ["/data/deep/er", "/data", "/etc", "/var/../etc/hosts", "/dev/shm", "/dev"]
            .map(crate::volumes::tests::volume)
            .into();
        let planned =
            plan_launch(&ContainerSpec { mounts, ..spec() }, &Default::default(), surroundings()).unwrap();
        let launch = planned.launch;
        let targets = targets(&launch);
        let place = |path: &str| targets.iter().position(|target| *target == Path::new(path)).unwrap();
        for (outer, inner) in [
            ("/data", "/data/deep/er"),
            ("/etc", "/etc/hosts"),
            ("/etc", "/etc/resolv.conf"),
            ("/dev", "/dev/pts"),
            ("/sys", "/sys/fs/cgroup"),
            ("/sys/fs/cgroup", "/sys/fs/cgroup/memory"),
        ] {
            assert!(place(outer) < place(inner), "{outer} hides {inner}");
        }
        assert_eq!(targets.iter().filter(|path| path.ends_with("etc/hosts")).count(), 1);
        assert!(launch.mounts.iter().all(|mount| mount.source != MountSource::PodShm));
        assert!(launch.devices.is_empty() && launch.links.is_empty(), "nothing is made in the host's /dev");
    }

    #[test]
    fn nodes_are_made_in_a_dev_of_the_containers_own_only() {
        let launch = |path: &str| {
            let additions =
                Additions { mounts: vec![crate::volumes::tests::volume(path)], ..Additions::default() };
            let surroundings = Surroundings { additions, ..surroundings() };
            plan_launch(&spec(), &Default::default(), surroundings).unwrap().launch
        };
        let own = launch("/dev/dri");
        assert!(!own.devices.is_empty() && !own.links.is_empty());
        let hosts = launch("/dev/");
        assert!(hosts.devices.is_empty() && hosts.links.is_empty());
    }

    #[test]
    fn a_privileged_container_needs_a_privileged_pod_and_has_no_masks() {
        let mut spec = spec();
        spec.security.privileged = true;
        let refused = plan_launch(&spec, &Default::default(), surroundings());
        assert!(matches!(refused, Err(Error::PrivilegedInUnprivilegedPod)));
        let pod = Surroundings { pod_is_privileged: true, ..surroundings() };
        let launch = plan_launch(&spec, &Default::default(), pod).unwrap().launch;
        assert!(launch.masked_paths.is_empty() && launch.readonly_paths.is_empty());
    }

    #[test]
    fn additions_beat_what_was_asked_for() {
        let mut asked = ContainerSpec { env: vec![("GPU".to_owned(), "none".to_owned())], ..spec() };
        asked.mounts = ["/lib/gpu", "/data"].map(crate::volumes::tests::volume).into();
        asked.security.supplemental_groups = vec![5];
        let mut added = crate::volumes::tests::volume("/lib//gpu");
        added.options.nosuid = true;
        let additions = Additions {
            env: vec!["GPU=0".to_owned()],
            mounts: vec![added],
            groups: vec![44],
            ..Additions::default()
        };
        let launch = plan_launch(&asked, &Default::default(), Surroundings { additions, ..surroundings() });
        let launch = launch.unwrap().launch;
        assert!(
            launch.process.env.contains(&"GPU=0".to_owned())
                && !launch.process.env.contains(&"GPU=none".to_owned())
        );
        assert_eq!(launch.process.user.supplemental, [5, 44]);
        let at: Vec<_> = launch.mounts.iter().filter(|mount| mount.target == Path::new("/lib/gpu")).collect();
        assert!(at.len() == 1 && at[0].nosuid, "{at:?}");
    }

    #[test]
    fn added_devices_are_made_and_allowed() {
        let added = |path: &str, minor, access: &str| AddedDevice {
            device: Device {
                path: path.into(),
                kind: DeviceKind::Character,
                major: 10,
                minor,
                mode: 0o600,
                uid: 0,
                gid: 0,
                host_path: None,
            },
            access: DeviceAccess::parse(access).unwrap(),
        };
        let devices =
            vec![added("/dev/fuse", 229, "rw"), added("/dev/null", 7, "r"), added("/dev/fuse", 230, "m")];
        let mut surroundings =
            Surroundings { additions: Additions { devices, ..Additions::default() }, ..surroundings() };
        surroundings.pod_is_privileged = true;
        let planned = plan_launch(&spec(), &Default::default(), surroundings.clone()).unwrap();
        let nodes = planned.launch.devices.iter().map(|device| (device.path.to_str().unwrap(), device.minor));
        let nodes: Vec<_> = nodes.filter(|(path, _)| ["/dev/fuse", "/dev/null"].contains(path)).collect();
        assert_eq!(nodes, [("/dev/fuse", 230), ("/dev/null", 7)], "the last of a path is made");
        let rules: Vec<_> = planned
            .device_rules
            .unwrap()
            .iter()
            .skip(DEFAULT_DEVICES.len())
            .map(DeviceRule::to_string)
            .collect();
        assert_eq!(rules, ["c 10:229 rw", "c 10:7 r", "c 10:230 m"]);
        let mut spec = spec();
        spec.security.privileged = true;
        assert_eq!(plan_launch(&spec, &Default::default(), surroundings).unwrap().device_rules, None);
    }

    #[test]
    fn the_cgroup_is_shown_as_the_hierarchy_has_it() {
        let launch = |view| {
            let surroundings = Surroundings { cgroup_view: view, ..surroundings() };
            plan_launch(&spec(), &Default::default(), surroundings).unwrap().launch
        };
        let unified = launch(CgroupView::Unified);
        assert_eq!(unified.cgroup_namespace, Sharing::Own);
        assert!(unified.mounts.iter().any(|mount| mount.source == MountSource::Cgroup2));
        let v1 = launch(surroundings().cgroup_view);
        assert_eq!(v1.cgroup_namespace, Sharing::Host);
        assert!(targets(&v1).contains(&Path::new("/sys/fs/cgroup/memory")));
        assert!(v1.readonly_paths.contains(&"/sys/fs/cgroup".into()));
    }
}
