//! SELinux: the labels of a container's process and of its files.
//!
//! A container gets labels when its request has options for them and the kernel has SELinux; elsewhere options have no
//! effect, as with the peers. Parts that the request leaves out are those of the policy's own default for containers.
//! Categories are not made up: a kubelet that wants pods kept apart sends a level. Filesystems that are made for the
//! container get the files' label with the mount; what lies on the host gets it here, one file after the other, and
//! volumes only where the request says so. Source: selinux(8), container_selinux(8), `contexts/lxc_contexts`.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use berth_container::spec::SelinuxSpec;
use rustix::fs::{Dir, Mode, OFlags, XattrFlags, fstat, lsetxattr, open, openat, setxattr, stat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::system::SYSTEM_DIRECTORIES;

/// Where the policy has no defaults.
const DEFAULT_PROCESS: &str = "system_u:system_r:container_t:s0";
const DEFAULT_FILE: &str = "system_u:object_r:container_file_t:s0";

/// Where the kernel keeps a file's label.
const ATTRIBUTE: &str = "security.selinux";

/// Directories within each other that are walked; each holds a descriptor meanwhile.
const MAX_DEPTH: u32 = 200;

/// SELinux as this node has it.
#[derive(Debug)]
pub(super) struct Selinux {
    /// The policy's labels for containers; `None` where there is no SELinux.
    defaults: Option<Labels>,
}

/// A container's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) process: String,
    pub(super) file: String,
}

impl Selinux {
    pub(super) fn detect() -> Self {
        let is_enabled = Path::new("/sys/fs/selinux/enforce").exists();
        Self { defaults: is_enabled.then(policy_defaults) }
    }

    /// The labels put together from the request's parts and the defaults.
    pub(super) fn labels(&self, parts: &SelinuxSpec) -> Option<Labels> {
        let Some(defaults) = &self.defaults else {
            tracing::debug!("SELinux options have no effect: this kernel has no SELinux");
            return None;
        };
        let process = merged(&defaults.process, [&parts.user, &parts.role, &parts.type_, &parts.level]);
        Some(Labels { process, file: merged(&defaults.file, ["", "", "", &parts.level]) })
    }
}

/// `user:role:type:level`, where what is given replaces the default's part.
fn merged(default: &str, given: [&str; 4]) -> String {
    let mut defaults = default.splitn(4, ':');
    let part = |given: &str| {
        let default = defaults.next().unwrap_or_default();
        if given.is_empty() { default.to_owned() } else { given.to_owned() }
    };
    given.map(part).join(":")
}

fn policy_defaults() -> Labels {
    let config = std::fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let policy =
        config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted");
    let contexts = Path::new("/etc/selinux").join(policy.trim()).join("contexts/lxc_contexts");
    let contexts = std::fs::read_to_string(contexts).unwrap_or_default();
    Labels {
        process: value_of(&contexts, "process").unwrap_or(DEFAULT_PROCESS).to_owned(),
        file: value_of(&contexts, "file").unwrap_or(DEFAULT_FILE).to_owned(),
    }
}

/// `process = "system_u:system_r:container_t:s0"`.
fn value_of<'a>(contexts: &'a str, key: &str) -> Option<&'a str> {
    contexts.lines().find_map(|line| {
        let (found, value) = line.split_once('=')?;
        (found.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

/// [`relabel`] for a volume that a request names.
pub(super) fn relabel_volume(path: &Path, label: &str) -> Result<()> {
    let opened = match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        // A directory that is made when the volume is opened has nothing to relabel yet.
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(failed(path))?,
    };
    match is_of_system(&opened).map_err(failed(path))? {
        true => Err(Error::Invalid {
            field: "mounts.selinux_relabel",
            value: path.display().to_string(),
            reason: "is refused for a directory of the system",
        }),
        false => relabel_all(&opened, label).map_err(failed(path)),
    }
}

/// With another label the node would not start again. By what the directory is and not by its path, which may lead to it over `..`, a symlink or another mount.
fn is_of_system(directory: &OwnedFd) -> std::result::Result<bool, Errno> {
    let given = fstat(directory)?;
    let is_it =
        |path: &&str| stat(*path).is_ok_and(|it| (it.st_dev, it.st_ino) == (given.st_dev, given.st_ino));
    Ok(SYSTEM_DIRECTORIES.iter().any(is_it))
}

/// Labels a file, or a directory with everything below; symlinks are labelled and not followed. A filesystem that takes
/// no labels keeps those that it has.
///
/// Directories are walked by descriptor: a container that writes to the volume meanwhile could put a symlink to the
/// host's files in the place of a directory.
pub(super) fn relabel(path: &Path, label: &str) -> Result<()> {
    let opened = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.and_then(|opened| relabel_all(&opened, label)).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::file("relabel", path)(errno.into())
}

/// From a descriptor that only names the file.
fn relabel_all(top: &OwnedFd, label: &str) -> std::result::Result<(), Errno> {
    // The link in /proc is followed, and is the file itself.
    let path = Path::new("/proc/self/fd").join(top.as_raw_fd().to_string());
    labelled(setxattr(path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(top, ".", flags, Mode::empty()) {
        Err(Errno::NOTDIR) => Ok(()),
        opened => relabel_below(opened?, label, MAX_DEPTH),
    }
}

fn relabel_below(directory: OwnedFd, label: &str, depth: u32) -> std::result::Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes()));
        if name == Path::new(".") || name == Path::new("..") {
            continue;
        }
        // Through the descriptor, for there is no lsetxattr(2) below a directory before Linux 6.13.
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        labelled(lsetxattr(path, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&directory, name, flags, Mode::empty()) {
            // No directory, or gone meanwhile.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
            opened => relabel_below(opened?, label, depth)?,
        }
    }
    Ok(())
}

/// What can't be labelled, or is gone meanwhile, is done without.
fn labelled(outcome: std::result::Result<(), Errno>) -> std::result::Result<(), Errno> {
    match outcome {
        Err(Errno::OPNOTSUPP | Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_requests_over_the_policys() {
        let defaults = Labels { process: DEFAULT_PROCESS.to_owned(), file: DEFAULT_FILE.to_owned() };
        let present = Selinux { defaults: Some(defaults) };
        let level = SelinuxSpec { level: "s0:c1,c2".to_owned(), ..SelinuxSpec::default() };
        let all = SelinuxSpec {
            user: "u".to_owned(),
            role: "r".to_owned(),
            type_: "t".to_owned(),
            level: "s1".to_owned(),
        };
        for (parts, process, file) in [
            (SelinuxSpec::default(), DEFAULT_PROCESS, DEFAULT_FILE),
            (
                level.clone(),
                "system_u:system_r:container_t:s0:c1,c2",
                "system_u:object_r:container_file_t:s0:c1,c2",
            ),
            (all, "u:r:t:s1", "system_u:object_r:container_file_t:s1"),
        ] {
            let want = Labels { process: process.to_owned(), file: file.to_owned() };
            assert_eq!(present.labels(&parts), Some(want));
        }
        assert_eq!(Selinux { defaults: None }.labels(&level), None);
    }

    #[test]
    fn the_policys_defaults_are_read_from_its_file() {
        let contexts = "# containers\nprocess = \"system_u:system_r:svirt_t:s0\"\nfile = \"x\"\n";
        assert_eq!(value_of(contexts, "process"), Some("system_u:system_r:svirt_t:s0"));
        assert_eq!(value_of(contexts, "file"), Some("x"));
        assert_eq!(value_of(contexts, "ro_file"), None);
    }

    #[test]
    fn the_system_is_not_relabelled() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        for path in [
            Path::new("/etc"),
            Path::new("/var/lib"),
            Path::new("/srv"),
            Path::new("/var/../etc"),
            Path::new("/proc/self/root"),
            &link,
        ] {
            let refused = relabel_volume(path, "x").unwrap_err().to_string();
            assert!(refused.contains("selinux_relabel") && refused.contains("of the system"), "{refused}");
        }
        // Checked without anything that would relabel it.
        let opened = open(dir.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert!(!is_of_system(&opened).unwrap());
        assert!(relabel_volume(Path::new("/no/such/directory"), "x").is_ok());
    }
}
