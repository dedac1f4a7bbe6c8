//! Volumes of a container, in both directions.

use berth_container::spec::VolumeSpec;
use berth_cri_proto::v1::{Mount, MountPropagation as Propagation};
use berth_monitor::plan::{Access, MountPropagation};

use super::{Refusal, Result, check};

/// All volumes, in the order given.
pub(crate) fn volumes_from(mounts: Vec<Mount>) -> Result<Vec<VolumeSpec>> {
    let volume =
        |(index, mount)| volume_from(mount).map_err(|refusal| refusal.within(&format!("mounts[{index}]")));
    mounts.into_iter().enumerate().map(volume).collect()
}

/// What status answers.
pub(crate) fn mount_of(volume: &VolumeSpec) -> Mount {
    let propagation = match volume.propagation {
        MountPropagation::Private => Propagation::PropagationPrivate,
        MountPropagation::HostToContainer => Propagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => Propagation::PropagationBidirectional,
    };
    Mount {
        container_path: volume.container_path.to_string_lossy().into_owned(),
        host_path: volume.host_path.to_string_lossy().into_owned(),
        readonly: volume.access != Access::ReadWrite,
        recursive_read_only: volume.access == Access::RecursiveReadOnly,
        propagation: propagation.into(),
        ..Mount::default()
    }
}

// The SELinux label that `selinux_relabel` asks for needs SELinux, which is not supported; the peers, too, do
// nothing where it is absent.
fn volume_from(mount: Mount) -> Result<VolumeSpec> {
    refuse_unimplemented(&mount)?;
    let container_path = check::absolute_path("container_path", &mount.container_path)?;
    if container_path.parent().is_none() {
        return Err(Refusal::invalid("container_path", container_path, "is the container's root"));
    }
    let propagation = match check::enumeration("propagation", mount.propagation)? {
        Propagation::PropagationPrivate => MountPropagation::Private,
        Propagation::PropagationHostToContainer => MountPropagation::HostToContainer,
        Propagation::PropagationBidirectional => MountPropagation::Bidirectional,
    };
    let access = match (mount.readonly, mount.recursive_read_only) {
        (false, false) => Access::ReadWrite,
        (true, false) => Access::ReadOnly,
        (true, true) if propagation == MountPropagation::Private => Access::RecursiveReadOnly,
        (true, true) => {
            return Err(Refusal::invalid("recursive_read_only", true, "needs private propagation"));
        }
        (false, true) => return Err(Refusal::invalid("recursive_read_only", true, "needs readonly")),
    };
    let host_path = check::absolute_path("host_path", &mount.host_path)?;
    Ok(VolumeSpec { host_path, container_path, access, propagation })
}

fn refuse_unimplemented(mount: &Mount) -> Result<()> {
    if let Some(image) = &mount.image {
        return Err(Refusal::unimplemented("image", &image.image));
    }
    if !mount.image_sub_path.is_empty() {
        return Err(Refusal::invalid("image_sub_path", &mount.image_sub_path, "is given without an image"));
    }
    for (field, mappings) in [("uidMappings", &mount.uid_mappings), ("gidMappings", &mount.gid_mappings)] {
        if let Some(mapping) = mappings.first() {
            return Err(Refusal::unimplemented(field, mapping));
        }
    }
    match mount.mount_options.first() {
        Some(option) => Err(Refusal::unimplemented("mount_options", option)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use berth_cri_proto::v1::{IdMapping, ImageSpec};

    use super::*;

    fn mount() -> Mount {
        Mount { container_path: "/data".into(), host_path: "/srv/data".into(), ..Mount::default() }
    }

    #[test]
    fn mounts_come_back_as_they_were_given() {
        let check = |readonly, recursive_read_only, propagation: Propagation| {
            let given = Mount { readonly, recursive_read_only, propagation: propagation.into(), ..mount() };
            let volumes = volumes_from(vec![given.clone()]).unwrap();
            assert_eq!(mount_of(&volumes[0]), given);
        };
        check(false, false, Propagation::PropagationPrivate);
        check(true, false, Propagation::PropagationHostToContainer);
        check(false, false, Propagation::PropagationBidirectional);
        check(true, true, Propagation::PropagationPrivate);
    }

    #[test]
    fn what_makes_no_sense_or_is_not_served_is_named() {
        let check = |want: &str, change: fn(&mut Mount)| {
            let mut bad = mount();
            change(&mut bad);
            let text = volumes_from(vec![mount(), bad]).unwrap_err().to_string();
            assert!(text.starts_with(&format!("mounts[1].{want}")), "{text}");
        };
        check("container_path: \"data\" is not an absolute", |m| m.container_path = "data".into());
        check("container_path: \"/\" is the container's root", |m| m.container_path = "/".into());
        check("host_path: must be given", |m| m.host_path = String::new());
        check("host_path: \"../etc\" is not an absolute", |m| m.host_path = "../etc".into());
        check("host_path: \"/a\\0\" has a NUL", |m| m.host_path = "/a\0".into());
        check("propagation: 7 ", |m| m.propagation = 7);
        check("recursive_read_only: true needs readonly", |m| m.recursive_read_only = true);
        check("recursive_read_only: true needs private", |m| {
            (m.readonly, m.recursive_read_only, m.propagation) = (true, true, 1);
        });
        check("image: \"x\" is not implemented", |m| {
            m.image = Some(ImageSpec { image: "x".into(), ..ImageSpec::default() });
        });
        check("image_sub_path: \"x\" is given without", |m| m.image_sub_path = "x".into());
        check("uidMappings: ", |m| m.uid_mappings = vec![IdMapping::default()]);
        check("gidMappings: ", |m| m.gid_mappings = vec![IdMapping::default()]);
        check("mount_options: \"noexec\" is not implemented", |m| m.mount_options = vec!["noexec".into()]);
    }
}
