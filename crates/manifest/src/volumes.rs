//! Volumes of a pod, and where its containers mount them.
//!
//! Pure: [`volumes`] says which directory or file of the host each volume is and how it comes to exist, [`mounts`] what
//! a container mounts from there. Making and removing them is the runner's (`runner::prepare`).

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use berth_cri_proto::v1::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, Volume, VolumeMount,
};

use crate::{
    error::FieldError,
    parse::{PodFacts, PodManifest, check_choice},
    quantity::Quantity,
};

/// One volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodVolume {
    pub(crate) name: String,
    /// On the host.
    pub(crate) path: PathBuf,
    pub(crate) source: VolumeSource,
}

/// How a volume comes to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VolumeSource {
    /// A directory of the pod's own.
    EmptyDir,
    /// A tmpfs of the pod's own; 0 leaves its size to the kernel (half of the memory).
    Memory { size_limit_bytes: u64 },
    /// What is on the host already, or is made there on demand.
    HostPath(HostPathType),
}

/// What a hostPath must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostPathType {
    Anything,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// The volumes of `manifest`. Errors: neither emptyDir nor hostPath, or both; a duplicate name; a bad path or type.
pub(crate) fn volumes(manifest: &PodManifest, facts: &PodFacts) -> Result<Vec<PodVolume>, FieldError> {
    let mut names = BTreeSet::new();
    let volumes = manifest.spec.volumes.iter().flatten().enumerate();
    volumes
        .map(|(i, volume)| {
            let path = format!("spec.volumes[{i}]");
            if !is_file_name(&volume.name) || !names.insert(&volume.name) {
                let reason = format!("{:?} is used twice or is no name", volume.name);
                return Err(FieldError::new(format!("{path}.name"), reason));
            }
            pod_volume(volume, &path, facts)
        })
        .collect()
}

fn pod_volume(volume: &Volume, path: &str, facts: &PodFacts) -> Result<PodVolume, FieldError> {
    let name = volume.name.clone();
    match (&volume.empty_dir, &volume.host_path) {
        (Some(empty_dir), None) => {
            let source = empty_dir_source(empty_dir, &format!("{path}.emptyDir"))?;
            let path = facts.dir.join("volumes").join(&name);
            Ok(PodVolume { name, path, source })
        }
        (None, Some(host_path)) => {
            let source = VolumeSource::HostPath(host_path_type(host_path, &format!("{path}.hostPath"))?);
            Ok(PodVolume { name, path: host_path.path.clone().into(), source })
        }
        _ => Err(FieldError::new(path, "needs one of emptyDir and hostPath")),
    }
}

fn empty_dir_source(empty_dir: &EmptyDirVolumeSource, path: &str) -> Result<VolumeSource, FieldError> {
    check_choice(&format!("{path}.medium"), &empty_dir.medium, &["", "Memory"])?;
    let memory = empty_dir.medium.as_deref() == Some("Memory");
    let size_path = format!("{path}.sizeLimit");
    match &empty_dir.size_limit {
        Some(_) if !memory => Err(FieldError::new(size_path, "is supported only with medium Memory")),
        Some(limit) => {
            let limit = Quantity::parse(&limit.0).ok_or_else(|| {
                FieldError::new(size_path, format!("{:?} is no quantity such as 64Mi", limit.0))
            })?;
            Ok(VolumeSource::Memory { size_limit_bytes: limit.units().unsigned_abs() })
        }
        None if memory => Ok(VolumeSource::Memory { size_limit_bytes: 0 }),
        None => Ok(VolumeSource::EmptyDir),
    }
}

fn host_path_type(host_path: &HostPathVolumeSource, path: &str) -> Result<HostPathType, FieldError> {
    if !is_plain_absolute(Path::new(&host_path.path)) {
        let reason = format!("{:?} is not an absolute path without ..", host_path.path);
        return Err(FieldError::new(format!("{path}.path"), reason));
    }
    Ok(match host_path.type_.as_deref() {
        None | Some("") => HostPathType::Anything,
        Some("DirectoryOrCreate") => HostPathType::DirectoryOrCreate,
        Some("Directory") => HostPathType::Directory,
        Some("FileOrCreate") => HostPathType::FileOrCreate,
        Some("File") => HostPathType::File,
        Some("Socket") => HostPathType::Socket,
        Some("CharDevice") => HostPathType::CharDevice,
        Some("BlockDevice") => HostPathType::BlockDevice,
        Some(other) => {
            return Err(FieldError::new(
                format!("{path}.type"),
                format!("{other:?} is not a type of hostPath"),
            ));
        }
    })
}

/// What `container`, which stands at `path`, mounts: its volumes, and the pod's hosts file unless it brings one.
pub(crate) fn mounts(
    volumes: &[PodVolume],
    container: &Container,
    path: &str,
    facts: &PodFacts,
) -> Result<Vec<Mount>, FieldError> {
    let mut mounts = Vec::new();
    let mut targets = BTreeSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{i}]");
        if !targets.insert(mount.mount_path.trim_end_matches('/')) {
            let reason = format!("{:?} is mounted twice", mount.mount_path);
            return Err(FieldError::new(format!("{path}.mountPath"), reason));
        }
        mounts.push(volume_mount(volumes, container, mount, &path)?);
    }
    if !targets.contains("/etc/hosts") {
        mounts.push(Mount {
            container_path: "/etc/hosts".to_owned(),
            host_path: hosts_path(facts).display().to_string(),
            ..Default::default()
        });
    }
    Ok(mounts)
}

/// Where the pod's hosts file is.
pub(crate) fn hosts_path(facts: &PodFacts) -> PathBuf {
    facts.dir.join("etc-hosts")
}

fn volume_mount(
    volumes: &[PodVolume],
    container: &Container,
    mount: &VolumeMount,
    path: &str,
) -> Result<Mount, FieldError> {
    let volume = volumes.iter().find(|volume| volume.name == mount.name).ok_or_else(|| {
        FieldError::new(format!("{path}.name"), format!("there is no volume {:?}", mount.name))
    })?;
    if !is_plain_absolute(Path::new(&mount.mount_path)) {
        let reason = format!("{:?} is not an absolute path without ..", mount.mount_path);
        return Err(FieldError::new(format!("{path}.mountPath"), reason));
    }
    let sub_path = Path::new(mount.sub_path.as_deref().unwrap_or(""));
    if !sub_path.components().all(|part| matches!(part, Component::Normal(_))) {
        let reason = format!("{sub_path:?} is not a relative path without ..");
        return Err(FieldError::new(format!("{path}.subPath"), reason));
    }
    let source =
        if sub_path.as_os_str().is_empty() { volume.path.clone() } else { volume.path.join(sub_path) };
    Ok(Mount {
        container_path: mount.mount_path.clone(),
        host_path: source.display().to_string(),
        readonly: mount.read_only == Some(true),
        propagation: propagation(container, mount, path)?.into(),
        ..Default::default()
    })
}

fn propagation(
    container: &Container,
    mount: &VolumeMount,
    path: &str,
) -> Result<MountPropagation, FieldError> {
    let path = format!("{path}.mountPropagation");
    let privileged = container.security_context.as_ref().and_then(|context| context.privileged) == Some(true);
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(MountPropagation::PropagationPrivate),
        Some("HostToContainer") => Ok(MountPropagation::PropagationHostToContainer),
        Some("Bidirectional") if privileged => Ok(MountPropagation::PropagationBidirectional),
        Some("Bidirectional") => Err(FieldError::new(path, "is only for privileged containers")),
        Some(other) => Err(FieldError::new(path, format!("{other:?} is not a kind of propagation"))),
    }
}

fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(parts.next(), Some(Component::Normal(part)) if part == name) && parts.next().is_none()
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tests::{manifest, refused_path};

    #[test]
    fn volumes_become_mounts() {
        let manifest = manifest(
            "metadata: {name: p}
spec:
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: fast, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: log, hostPath: {path: /var/log, type: Directory}}
  containers:
  - name: a
    image: i
    volumeMounts:
    - {name: scratch, mountPath: /tmp, subPath: a/b}
    - {name: fast, mountPath: /fast}
    - {name: log, mountPath: /log, readOnly: true, mountPropagation: HostToContainer}
  - {name: b, image: i, volumeMounts: [{name: scratch, mountPath: /etc/hosts}]}",
        );
        let facts = PodFacts { dir: "/pods/u".into(), ..Default::default() };
        let volumes = volumes(&manifest, &facts).unwrap();
        let sources: Vec<_> = volumes.iter().map(|volume| volume.source.clone()).collect();
        assert_eq!(
            sources,
            [
                VolumeSource::EmptyDir,
                VolumeSource::Memory { size_limit_bytes: 1 << 20 },
                VolumeSource::HostPath(HostPathType::Directory),
            ]
        );

        let seen = |i: usize| -> Vec<_> {
            let mounts = mounts(&volumes, &manifest.spec.containers[i], "c", &facts).unwrap();
            mounts.into_iter().map(|m| (m.host_path, m.container_path, m.readonly, m.propagation)).collect()
        };
        let mount = |from: &str, to: &str, readonly, propagation| {
            (from.to_owned(), to.to_owned(), readonly, propagation)
        };
        assert_eq!(
            seen(0),
            [
                mount("/pods/u/volumes/scratch/a/b", "/tmp", false, 0),
                mount("/pods/u/volumes/fast", "/fast", false, 0),
                mount("/var/log", "/log", true, 1),
                mount("/pods/u/etc-hosts", "/etc/hosts", false, 0),
            ]
        );
        assert_eq!(seen(1), [mount("/pods/u/volumes/scratch", "/etc/hosts", false, 0)]);
    }

    #[test]
    fn bad_volumes_are_refused_by_path() {
        for (volume, mount, path) in [
            ("{name: v}", "", "spec.volumes[0]"),
            ("{name: v, emptyDir: {}, hostPath: {path: /x}}", "", "spec.volumes[0]"),
            ("{name: ../v, emptyDir: {}}", "", "spec.volumes[0].name"),
            ("{name: v, emptyDir: {}}, {name: v, emptyDir: {}}", "", "spec.volumes[1].name"),
            ("{name: v, emptyDir: {sizeLimit: 1Gi}}", "", "spec.volumes[0].emptyDir.sizeLimit"),
            ("{name: v, emptyDir: {medium: HugePages}}", "", "spec.volumes[0].emptyDir.medium"),
            ("{name: v, hostPath: {path: etc}}", "", "spec.volumes[0].hostPath.path"),
            ("{name: v, hostPath: {path: /a/../b}}", "", "spec.volumes[0].hostPath.path"),
            ("{name: v, hostPath: {path: /x, type: Pipe}}", "", "spec.volumes[0].hostPath.type"),
            ("{name: v, secret: {}}", "", "spec.volumes[0].secret"),
            (
                "{name: v, emptyDir: {}}",
                "{name: w, mountPath: /x}",
                "spec.containers[0].volumeMounts[0].name",
            ),
            (
                "{name: v, emptyDir: {}}",
                "{name: v, mountPath: x}",
                "spec.containers[0].volumeMounts[0].mountPath",
            ),
            (
                "{name: v, emptyDir: {}}",
                "{name: v, mountPath: /x, subPath: ../y}",
                "spec.containers[0].volumeMounts[0].subPath",
            ),
            (
                "{name: v, emptyDir: {}}",
                "{name: v, mountPath: /x, mountPropagation: Bidirectional}",
                "spec.containers[0].volumeMounts[0].mountPropagation",
            ),
            (
                "{name: v, emptyDir: {}}",
                "{name: v, mountPath: /x}, {name: v, mountPath: /x/}",
                "spec.containers[0].volumeMounts[1].mountPath",
            ),
        ] {
            let spec = format!(
                "{{volumes: [{volume}], containers: [{{name: c, image: i, volumeMounts: [{mount}]}}]}}"
            );
            assert_eq!(refused_path(&spec), path, "{volume} {mount}");
        }
    }
}
