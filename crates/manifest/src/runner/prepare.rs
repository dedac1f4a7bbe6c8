//! What a pod needs on the host beside the runtime: its directories, volumes and hosts file.
//!
//! Everything blocks and belongs on a blocking thread. What is made is below the pod's own directory and its log
//! directory, except for hostPaths that are to be created; [`remove_pod`] takes the two directories away with all that
//! is in them, and is at peace with what is not there. A tmpfs is mounted in this process's mount namespace.

use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, fstat, mkdirat, openat},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::RunError;
use crate::{
    dns::{HostDns, hosts_file, parse_resolv_conf},
    parse::{PodFacts, PodManifest, containers},
    volumes::{HostPathType, PodVolume, VolumeSource, hosts_path},
};

/// The host's resolver; without a resolv.conf, none.
pub(crate) fn host_dns() -> HostDns {
    fs::read_to_string("/etc/resolv.conf").map(|text| parse_resolv_conf(&text)).unwrap_or_default()
}

/// Memory of this machine.
pub(crate) fn machine_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit).saturating_mul(info.totalram as u64)
}

/// Makes the pod's directories and volumes.
pub(crate) fn make_pod(
    manifest: &PodManifest,
    facts: &PodFacts,
    volumes: &[PodVolume],
) -> Result<(), RunError> {
    for (_, container) in containers(&manifest.spec) {
        make_dir_all(&facts.log_dir.join(&container.name))?;
    }
    // What is below may be for everyone to write; only the containers that mount it are to get there.
    make_dir_all(&facts.dir)?;
    fs::set_permissions(&facts.dir, fs::Permissions::from_mode(0o700))
        .map_err(host("set mode of", &facts.dir))?;
    make_dir_all(&facts.dir.join("volumes"))?;
    let group = manifest.spec.security_context.as_ref().and_then(|context| context.fs_group);
    for volume in volumes {
        match volume.source {
            VolumeSource::EmptyDir => make_empty_dir(&volume.path, group)?,
            VolumeSource::Memory { size_limit_bytes } => {
                make_dir_all(&volume.path)?;
                mount_tmpfs(&volume.path, size_limit_bytes)?;
                make_empty_dir(&volume.path, group)?;
            }
            VolumeSource::HostPath(kind) => check_host_path(&volume.path, kind)?,
        }
    }
    Ok(())
}

/// Writes the pod's hosts file, once its addresses are known.
pub(crate) fn write_hosts(manifest: &PodManifest, facts: &PodFacts) -> Result<(), RunError> {
    let host_hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let path = hosts_path(facts);
    fs::write(&path, hosts_file(manifest, facts, &host_hosts)).map_err(host("write hosts file", &path))
}

/// Makes the directories of `sub_path` in `volume`, as far as they are absent.
///
/// A symlink on the way is refused: a container could have planted it to reach the host's files.
pub(crate) fn make_sub_path(volume: &Path, sub_path: &Path) -> Result<(), RunError> {
    let full_path = volume.join(sub_path);
    let failed = |errno: Errno| host("make directory", &full_path)(errno.into());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut parent = openat(CWD, volume, flags, Mode::empty()).map_err(failed)?;
    let mode = Mode::from_raw_mode(fstat(&parent).map_err(failed)?.st_mode);
    for part in sub_path.components().filter(|part| matches!(part, Component::Normal(_))) {
        match mkdirat(&parent, part.as_os_str(), mode) {
            Ok(()) => chmodat(&parent, part.as_os_str(), mode, AtFlags::empty()).map_err(failed)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        parent =
            openat(&parent, part.as_os_str(), flags | OFlags::NOFOLLOW, Mode::empty()).map_err(failed)?;
        if FileType::from_raw_mode(fstat(&parent).map_err(failed)?.st_mode) == FileType::Symlink {
            return Err(failed(Errno::LOOP));
        }
    }
    Ok(())
}

/// Removes what [`make_pod`] and [`write_hosts`] made.
pub(crate) fn remove_pod(facts: &PodFacts, volumes: &[PodVolume]) -> Result<(), RunError> {
    for volume in volumes.iter().filter(|volume| matches!(volume.source, VolumeSource::Memory { .. })) {
        unmount_volume(&volume.path)?;
    }
    remove_all(&facts.dir)?;
    remove_all(&facts.log_dir)
}

/// Unmounts a volume where one is mounted.
pub(crate) fn unmount_volume(path: &Path) -> Result<(), RunError> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not mounted, or not even there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(host("unmount", path)(errno.into())),
    }
}

/// Removes a directory with all that is in it, where there is one.
pub(crate) fn remove_all(path: &Path) -> Result<(), RunError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(host("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(crate) fn host(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    let path: PathBuf = path.to_owned();
    move |source| RunError::Host { action, path, source }
}

fn make_dir_all(path: &Path) -> Result<(), RunError> {
    fs::create_dir_all(path).map_err(host("make directory", path))
}

/// For everyone to write, as any user may run in the containers; with a group, new files belong to it too.
fn make_empty_dir(path: &Path, group: Option<i64>) -> Result<(), RunError> {
    make_dir_all(path)?;
    if let Some(group) = group {
        let group =
            u32::try_from(group).map_err(io::Error::other).map_err(host("give to its group", path))?;
        chown(path, None, Some(group)).map_err(host("give to its group", path))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(host("set mode of", path))
}

fn mount_tmpfs(path: &Path, size_limit_bytes: u64) -> Result<(), RunError> {
    let size = (size_limit_bytes > 0).then(|| CString::new(format!("size={size_limit_bytes}")));
    let size = size.transpose().map_err(|error| host("mount tmpfs", path)(error.into()))?;
    mount("tmpfs", path, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, size.as_deref())
        .map_err(|errno| host("mount tmpfs", path)(errno.into()))
}

fn check_host_path(path: &Path, kind: HostPathType) -> Result<(), RunError> {
    type Is = fn(&fs::FileType) -> bool;
    let (wanted, is): (_, Is) = match kind {
        HostPathType::Anything => return Ok(()),
        HostPathType::DirectoryOrCreate => {
            if !path.exists() {
                make_dir_all(path)?;
            }
            ("directory", fs::FileType::is_dir)
        }
        HostPathType::FileOrCreate => {
            if !path.exists() {
                fs::File::create_new(path).map_err(host("make file", path))?;
            }
            ("file", fs::FileType::is_file)
        }
        HostPathType::Directory => ("directory", fs::FileType::is_dir),
        HostPathType::File => ("file", fs::FileType::is_file),
        HostPathType::Socket => ("socket", FileTypeExt::is_socket),
        HostPathType::CharDevice => ("character device", FileTypeExt::is_char_device),
        HostPathType::BlockDevice => ("block device", FileTypeExt::is_block_device),
    };
    let metadata = fs::metadata(path).map_err(host("use host path", path))?;
    if is(&metadata.file_type()) { Ok(()) } else { Err(RunError::HostPath { path: path.to_owned(), wanted }) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;
    use crate::{parse::tests::manifest, volumes::volumes};

    #[test]
    fn a_pods_directories_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest(
            "metadata: {name: p}
spec: {volumes: [{name: v, emptyDir: {}}], containers: [{name: c, image: i}]}",
        );
        let facts =
            PodFacts { dir: dir.path().join("pod"), log_dir: dir.path().join("log"), ..Default::default() };
        let volumes = volumes(&manifest, &facts).unwrap();
        make_pod(&manifest, &facts, &volumes).unwrap();
        write_hosts(&manifest, &facts).unwrap();
        assert!(dir.path().join("log/c").is_dir() && dir.path().join("pod/etc-hosts").is_file());
        let mode = fs::metadata(dir.path().join("pod/volumes/v")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        let mode = fs::metadata(dir.path().join("pod")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);

        remove_pod(&facts, &volumes).unwrap();
        remove_pod(&facts, &volumes).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn host_paths_are_what_their_type_says() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (path, kind, good) in [
            (at("absent"), HostPathType::Anything, true),
            (at("absent"), HostPathType::Directory, false),
            (at("made/deep"), HostPathType::DirectoryOrCreate, true),
            (at("made/file"), HostPathType::FileOrCreate, true),
            (at("made"), HostPathType::Directory, true),
            (at("made"), HostPathType::File, false),
            (at("file"), HostPathType::File, true),
            (at("file"), HostPathType::DirectoryOrCreate, false),
            (at("socket"), HostPathType::Socket, true),
            ("/dev/null".into(), HostPathType::CharDevice, true),
            ("/dev/null".into(), HostPathType::BlockDevice, false),
        ] {
            assert_eq!(check_host_path(&path, kind).is_ok(), good, "{path:?} {kind:?}");
        }
    }

    #[test]
    fn sub_paths_are_made_but_never_through_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        make_sub_path(dir.path(), Path::new("a/b")).unwrap();
        make_sub_path(dir.path(), Path::new("a/b")).unwrap();
        assert!(dir.path().join("a/b").is_dir());
        symlink("/etc", dir.path().join("evil")).unwrap();
        for sub_path in ["evil", "evil/x"] {
            assert!(make_sub_path(dir.path(), Path::new(sub_path)).is_err(), "{sub_path}");
        }
        assert!(!Path::new("/etc/x").exists());
    }
}
