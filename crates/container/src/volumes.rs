//! Volumes: what a request mounts, and the directories that an image asks for.

use std::path::{Component, Path, PathBuf};

use berth_monitor::plan::{Access, Mount, MountPropagation, MountSource};

use crate::error::{Error, Result};
use crate::filesystem::hardened;
use crate::plan::Surroundings;
use crate::spec::{ContainerSpec, VolumeSource, VolumeSpec};

/// Files in /proc that say something of the machine, and that lxcfs and its like show a container's share of. What else
/// is there decides who the kernel takes a process for. Source: runc, `checkProcMount`; CVE-2019-16884, CVE-2023-27561.
const PROC_FILES: [&str; 8] =
    ["cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"];

/// The mounts of the request, in its order, and those that are added to it.
pub(crate) fn plan_volumes(spec: &ContainerSpec, surroundings: &Surroundings) -> Result<Vec<Mount>> {
    let added = &surroundings.additions.mounts;
    let at = |volume: &VolumeSpec| cleaned(&volume.container_path);
    let asked = spec.mounts.iter().filter(|asked| !added.iter().any(|added| at(added) == at(asked)));
    asked.chain(added).map(|volume| plan_volume(volume, surroundings)).collect()
}

fn plan_volume(volume: &VolumeSpec, surroundings: &Surroundings) -> Result<Mount> {
    let target = cleaned(&volume.container_path);
    check_target(&target)?;
    let (source, follows_host) = match &volume.source {
        VolumeSource::Host { host_path } => {
            let follows =
                volume.propagation == MountPropagation::Private && holds_us(host_path, surroundings);
            (MountSource::Bind(host_path.clone()), follows)
        }
        VolumeSource::Image(image) => {
            let layers = surroundings.volume_layers.get(&volume.container_path).cloned().unwrap_or_default();
            (MountSource::Image { layers, sub_path: image.sub_path.clone() }, false)
        }
    };
    Ok(Mount {
        access: volume.access,
        nosuid: volume.options.nosuid,
        nodev: volume.options.nodev,
        noexec: volume.options.noexec,
        propagation: volume.propagation,
        follows_host,
        idmapped: volume.id_maps.is_some(),
        ..hardened(source, target)
    })
}

/// Beneath /proc only single files may be replaced; /proc itself only by another proc, which the launch looks at.
fn check_target(target: &Path) -> Result<()> {
    match target.strip_prefix("/proc") {
        Ok(rest) if rest.as_os_str().is_empty() || PROC_FILES.iter().any(|file| rest == Path::new(file)) => {
            Ok(())
        }
        Ok(_) => Err(Error::MountInProc { target: target.to_owned() }),
        Err(_) => Ok(()),
    }
}

/// Whether the runtime's own directories are part of a volume.
fn holds_us(host_path: &Path, surroundings: &Surroundings) -> bool {
    let host_path = cleaned(host_path);
    [&surroundings.pod_directory, &surroundings.rootfs.upper, &surroundings.rootfs.staging]
        .iter()
        .any(|own| own.starts_with(&host_path))
}

/// A directory of the container's own for each path that the image calls a volume, unless something is mounted there or
/// above it. A path that makes no sense is an old builder's slip, and no reason to refuse the image.
pub(crate) fn plan_image_volumes(
    paths: &[String],
    volumes: &[Mount],
    surroundings: &Surroundings,
) -> Vec<Mount> {
    let Some(directory) = &surroundings.volumes_directory else {
        return Vec::new();
    };
    let own = |(index, path): (usize, &String)| {
        let target = cleaned(&Path::new("/").join(path));
        let is_covered = volumes.iter().any(|volume| target.starts_with(&volume.target));
        let makes_sense = target.parent().is_some() && check_target(&target).is_ok();
        (makes_sense && !is_covered).then(|| Mount {
            access: Access::ReadWrite,
            nosuid: false,
            nodev: false,
            noexec: false,
            ..hardened(MountSource::ImageVolume(directory.join(index.to_string())), target)
        })
    };
    paths.iter().enumerate().filter_map(own).collect()
}

/// A path without `.`, `..` and doubled slashes, as its text says; what symlinks make of it is seen at the launch.
pub(crate) fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => clean.push(component),
        }
    }
    clean
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::tests::{spec, surroundings};
    use crate::spec::{ImageVolumeSpec, VolumeOptions};

    pub(crate) fn volume(path: &str) -> VolumeSpec {
        VolumeSpec {
            source: VolumeSource::Host { host_path: "/data".into() },
            container_path: path.into(),
            access: Access::ReadWrite,
            propagation: MountPropagation::Private,
            options: VolumeOptions::default(),
            selinux_relabel: false,
            id_maps: None,
        }
    }

    fn planned(volume: VolumeSpec, surroundings: &Surroundings) -> Result<Mount> {
        let spec = ContainerSpec { mounts: vec![volume], ..spec() };
        plan_volumes(&spec, surroundings).map(|mut mounts| mounts.remove(0))
    }

    #[test]
    fn kernel_files_are_not_mounted_over() {
        let check = |path, good| assert_eq!(planned(volume(path), &surroundings()).is_ok(), good, "{path}");
        check("/proc/meminfo", true);
        check("/proc", true);
        check("/procfs/sys", true);
        check("/host/proc/sys", true);
        check("/proc/sys", false);
        check("/proc/self/attr", false);
        check("/x/../proc/./sysrq-trigger", false);
        check("/proc/meminfo/x", false);
    }

    #[test]
    fn a_part_of_the_host_with_our_directories_follows_its_unmounts() {
        let check = |host_path: &str, propagation, want| {
            let source = VolumeSource::Host { host_path: host_path.into() };
            let volume = VolumeSpec { source, propagation, ..volume("/host") };
            assert_eq!(planned(volume, &surroundings()).unwrap().follows_host, want, "{host_path}");
        };
        check("/", MountPropagation::Private, true);
        check("/run/../run", MountPropagation::Private, true);
        check("/runner", MountPropagation::Private, false);
        check("/", MountPropagation::HostToContainer, false);
    }

    #[test]
    fn an_image_is_shown_by_its_layers() {
        let layers = vec![PathBuf::from("/layers/2"), "/layers/1".into()];
        let volume_layers = BTreeMap::from([("/models/./".into(), layers.clone())]);
        let image = ImageVolumeSpec {
            image: "models".into(),
            user_specified_image: String::new(),
            sub_path: Some("small".into()),
        };
        let source = VolumeSource::Image(image);
        let volume = VolumeSpec { source, access: Access::ReadOnly, ..volume("/models/./") };
        let mount = planned(volume, &Surroundings { volume_layers, ..surroundings() }).unwrap();
        assert_eq!(mount.target, Path::new("/models"));
        assert_eq!(mount.source, MountSource::Image { layers, sub_path: Some("small".into()) });
    }

    #[test]
    fn an_images_volumes_give_way_to_those_of_the_request() {
        let paths = ["/cache", "data", "/srv/www/", "/", "/proc/sys", "/web/uploads"].map(String::from);
        let spec = ContainerSpec { mounts: vec![volume("/srv/www"), volume("/web")], ..spec() };
        let volumes = plan_volumes(&spec, &surroundings()).unwrap();
        let targets = |surroundings: &Surroundings| -> Vec<(PathBuf, MountSource)> {
            let own = plan_image_volumes(&paths, &volumes, surroundings);
            own.into_iter().map(|mount| (mount.target, mount.source)).collect()
        };
        let own = |place: &str| MountSource::ImageVolume(Path::new("/c/volumes").join(place));
        assert_eq!(targets(&surroundings()), [("/cache".into(), own("0")), ("/data".into(), own("1"))]);
        assert_eq!(targets(&Surroundings { volumes_directory: None, ..surroundings() }), []);
    }
}
