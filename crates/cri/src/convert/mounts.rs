//! Volumes of a container, in both directions.

use berth_container::spec::{ImageVolumeSpec, VolumeOptions, VolumeSource, VolumeSpec};
use berth_cri_proto::v1::{ImageSpec, Mount, MountPropagation as Propagation};
use berth_image::ImageId;
use berth_monitor::idmap::IdMaps;
use berth_monitor::plan::{Access, MountPropagation};

use super::{Refusal, Result, check, user_namespaces};

/// All volumes, in the order given, for a pod with these ids.
pub(crate) fn volumes_from(mounts: Vec<Mount>, pod: Option<IdMaps>) -> Result<Vec<VolumeSpec>> {
    let volume = |(index, mount)| {
        volume_from(mount, pod).map_err(|refusal| refusal.within(&format!("mounts[{index}]")))
    };
    mounts.into_iter().enumerate().map(volume).collect()
}

/// What status answers; `image` is what a volume's image was found to be.
pub(crate) fn mount_of(volume: &VolumeSpec, image: Option<&ImageId>) -> Mount {
    let propagation = match volume.propagation {
        MountPropagation::Private => Propagation::PropagationPrivate,
        MountPropagation::HostToContainer => Propagation::PropagationHostToContainer,
        MountPropagation::Bidirectional => Propagation::PropagationBidirectional,
    };
    let (uid_mappings, gid_mappings) =
        volume.id_maps.as_ref().map(user_namespaces::mappings_of).unwrap_or_default();
    let mount = Mount {
        container_path: volume.container_path.to_string_lossy().into_owned(),
        readonly: volume.access != Access::ReadWrite,
        recursive_read_only: volume.access == Access::RecursiveReadOnly,
        propagation: propagation.into(),
        selinux_relabel: volume.selinux_relabel,
        mount_options: options_of(volume.options),
        uid_mappings,
        gid_mappings,
        ..Mount::default()
    };
    match &volume.source {
        VolumeSource::Host { host_path } => {
            Mount { host_path: host_path.to_string_lossy().into_owned(), ..mount }
        }
        VolumeSource::Image(spec) => Mount {
            image: Some(ImageSpec {
                image: spec.image.clone(),
                user_specified_image: spec.user_specified_image.clone(),
                image_ref: image.map(ToString::to_string).unwrap_or_default(),
                ..ImageSpec::default()
            }),
            image_sub_path: spec
                .sub_path
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            ..mount
        },
    }
}

fn volume_from(mount: Mount, pod: Option<IdMaps>) -> Result<VolumeSpec> {
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
    Ok(VolumeSpec {
        options: options_from(&mount.mount_options)?,
        selinux_relabel: mount.selinux_relabel,
        id_maps: user_namespaces::mount_id_maps_from(&mount.uid_mappings, &mount.gid_mappings, pod)?,
        source: source_from(mount)?,
        container_path,
        access,
        propagation,
    })
}

fn source_from(mount: Mount) -> Result<VolumeSource> {
    match mount.image {
        None if mount.image_sub_path.is_empty() => {
            let host_path = check::absolute_path("host_path", &mount.host_path)?;
            Ok(VolumeSource::Host { host_path })
        }
        None => Err(Refusal::invalid("image_sub_path", mount.image_sub_path, "is given without an image")),
        Some(_) if !mount.host_path.is_empty() => {
            Err(Refusal::invalid("host_path", mount.host_path, "is given together with an image"))
        }
        Some(_) if !mount.readonly => {
            Err(Refusal::invalid("readonly", false, "is refused: an image is mounted read-only"))
        }
        Some(image) if image.image.is_empty() => Err(Refusal::missing("image.image")),
        Some(image) => Ok(VolumeSource::Image(ImageVolumeSpec {
            image: image.image,
            user_specified_image: image.user_specified_image,
            sub_path: match mount.image_sub_path.as_str() {
                "" => None,
                path => Some(check::relative_path("image_sub_path", path)?),
            },
        })),
    }
}

/// What the API says of options is that they take rights away; those that give some, or do something else, are refused.
fn options_from(words: &[String]) -> Result<VolumeOptions> {
    let mut options = VolumeOptions::default();
    for (index, word) in words.iter().enumerate() {
        match word.as_str() {
            "noexec" => options.noexec = true,
            "nodev" => options.nodev = true,
            "nosuid" => options.nosuid = true,
            _ => {
                let field = format!("mount_options[{index}]");
                return Err(Refusal::invalid(field, word, "is not one of noexec, nodev and nosuid"));
            }
        }
    }
    Ok(options)
}

fn options_of(options: VolumeOptions) -> Vec<String> {
    let VolumeOptions { noexec, nodev, nosuid } = options;
    let words = [(noexec, "noexec"), (nodev, "nodev"), (nosuid, "nosuid")];
    words.iter().filter(|(set, _)| *set).map(|(_, word)| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use berth_cri_proto::v1::IdMapping;
    use berth_image::Digest;
    use berth_monitor::idmap::IdRange;

    use super::*;

    fn mount() -> Mount {
        Mount { container_path: "/data".into(), host_path: "/srv/data".into(), ..Mount::default() }
    }

    fn image_mount() -> Mount {
        let image = ImageSpec { image: "models".into(), ..ImageSpec::default() };
        Mount { host_path: String::new(), image: Some(image), readonly: true, ..mount() }
    }

    fn pod() -> Option<IdMaps> {
        let range = IdRange::new(1000, 10).unwrap();
        Some(IdMaps { uids: range, gids: range })
    }

    #[test]
    fn mounts_come_back_as_they_were_given() {
        let check = |given: Mount| {
            let volumes = volumes_from(vec![given.clone()], pod()).unwrap();
            assert_eq!(mount_of(&volumes[0], None), given);
        };
        let with = |readonly, recursive_read_only, propagation: Propagation| Mount {
            readonly,
            recursive_read_only,
            propagation: propagation.into(),
            ..mount()
        };
        check(with(false, false, Propagation::PropagationPrivate));
        check(with(true, false, Propagation::PropagationHostToContainer));
        check(with(false, false, Propagation::PropagationBidirectional));
        check(with(true, true, Propagation::PropagationPrivate));
        check(Mount {
            selinux_relabel: true,
            mount_options: vec!["noexec".into(), "nosuid".into()],
            ..mount()
        });
        let mappings = vec![IdMapping { container_id: 0, host_id: 1000, length: 10 }];
        check(Mount { uid_mappings: mappings.clone(), gid_mappings: mappings, ..mount() });
        check(Mount { image_sub_path: "small/ones".into(), ..image_mount() });
    }

    #[test]
    fn an_images_volume_says_which_image_it_is() {
        let volumes = volumes_from(vec![image_mount()], None).unwrap();
        let id = ImageId(Digest::of(b"config"));
        let image = mount_of(&volumes[0], Some(&id)).image.unwrap();
        assert_eq!((image.image.as_str(), image.image_ref), ("models", id.to_string()));
    }

    #[test]
    fn records_of_volumes_without_a_kind_are_the_hosts() {
        let old = r#"{"host_path":"/a","container_path":"/b","access":"ReadWrite","propagation":"Private"}"#;
        let volume: VolumeSpec = serde_json::from_str(old).unwrap();
        assert_eq!(volume.source, VolumeSource::Host { host_path: "/a".into() });
        let new = volumes_from(vec![Mount { image_sub_path: "x".into(), ..image_mount() }], None).unwrap();
        let text = serde_json::to_string(&new[0]).unwrap();
        assert_eq!(serde_json::from_str::<VolumeSpec>(&text).unwrap(), new[0]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |want: &str, change: fn(&mut Mount)| {
            let mut bad = mount();
            change(&mut bad);
            let text = volumes_from(vec![mount(), bad], None).unwrap_err().to_string();
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
        check("host_path: \"/srv/data\" is given together", |m| {
            *m = Mount { host_path: "/srv/data".into(), ..image_mount() };
        });
        check("readonly: false is refused", |m| *m = Mount { readonly: false, ..image_mount() });
        check("image.image: must be given", |m| {
            *m = Mount { image: Some(ImageSpec::default()), ..image_mount() };
        });
        check("image_sub_path: \"x\" is given without", |m| m.image_sub_path = "x".into());
        check("image_sub_path: \"a/../..\" leads upwards", |m| {
            *m = Mount { image_sub_path: "a/../..".into(), ..image_mount() };
        });
        check("uidMappings: ", |m| m.uid_mappings = vec![IdMapping::default()]);
        check("gidMappings: ", |m| {
            let one = IdMapping { container_id: 0, host_id: 1, length: 1 };
            (m.uid_mappings, m.gid_mappings) = (vec![one], vec![IdMapping::default()]);
        });
        check("mount_options[1]: \"suid\" is not one of", |m| {
            m.mount_options = vec!["noexec".into(), "suid".into()];
        });
    }
}
