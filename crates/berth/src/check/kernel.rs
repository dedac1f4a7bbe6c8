//! The kernel's part of the pre-flight: version, namespaces, file systems, seccomp and the newer system calls. System
//! calls are called, and the overlay is really mounted, detached from any mount table, so that it goes with its
//! descriptor.

use super::Finding;
use crate::settings::Settings;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The oldest kernel that has all the system calls that berth is built on; mount_setattr(2) came last.
const OLDEST: (u32, u32) = (5, 12);

/// Namespaces that every pod gets, and those that it gets on demand.
const NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "uts"];
const NAMESPACES_ON_DEMAND: &[&str] = &["time", "user"];

pub(super) fn findings(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![version()];
    findings.extend(namespaces());
    findings.push(system_calls());
    findings.push(overlay(settings));
    findings.push(match file_systems().contains("erofs") {
        true => Finding::ok("erofs", "in the kernel"),
        false => Finding::warn("erofs", "not loaded", "load it if images are to be kept as erofs"),
    });
    findings.push(seccomp());
    findings
}

/// What uname(2) calls the release, such as `6.1.0-38-amd64`.
pub(super) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Whether the kernel has a feature: built in, loaded, or there to be loaded. `None` when nothing here can tell.
pub(super) fn has_module(module: &str, option: &str) -> Option<bool> {
    if Path::new("/sys/module").join(module).exists() {
        return Some(true);
    }
    let release = release();
    let index = |name: &str| fs::read_to_string(format!("/lib/modules/{release}/{name}"));
    let indexes: Vec<_> =
        ["modules.builtin", "modules.dep"].into_iter().filter_map(|n| index(n).ok()).collect();
    if indexes.iter().any(|index| lists_module(index, module)) {
        return Some(true);
    }
    match kernel_config(&release) {
        Some(config) => Some(config.lines().any(|line| line == format!("{option}=y"))),
        None => (!indexes.is_empty()).then_some(false),
    }
}

fn lists_module(index: &str, module: &str) -> bool {
    let file = format!("/{module}.ko");
    index.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains(&file)))
}

fn kernel_config(release: &str) -> Option<String> {
    let mut text = String::new();
    match fs::File::open("/proc/config.gz") {
        Ok(file) => flate2::read::GzDecoder::new(file).read_to_string(&mut text).ok().map(|_| text),
        Err(_) => fs::read_to_string(format!("/boot/config-{release}")).ok(),
    }
}

fn version() -> Finding {
    let release = release();
    match parse_version(&release) {
        Some(version) if version >= OLDEST => Finding::ok("kernel", release),
        _ => Finding::fail("kernel", release, format!("use Linux {}.{} or later", OLDEST.0, OLDEST.1)),
    }
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn namespaces() -> Vec<Finding> {
    let missing = |names: &[&'static str]| -> Vec<&str> {
        names.iter().copied().filter(|name| !namespace_allowed(name)).collect()
    };
    let (needed, on_demand) = (missing(NAMESPACES), missing(NAMESPACES_ON_DEMAND));
    let mut findings = Vec::new();
    if !needed.is_empty() {
        let advice = "use a kernel that has them, and raise /proc/sys/user/max_*_namespaces above 0";
        findings.push(Finding::fail("namespaces", format!("without {}", needed.join(", ")), advice));
    }
    if !on_demand.is_empty() {
        let advice = "raise /proc/sys/user/max_*_namespaces above 0 if pods are to ask for them";
        findings.push(Finding::warn("namespaces", format!("without {}", on_demand.join(", ")), advice));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("namespaces", [NAMESPACES, NAMESPACES_ON_DEMAND].concat().join(", ")));
    }
    findings
}

fn namespace_allowed(name: &str) -> bool {
    let limit = fs::read_to_string(format!("/proc/sys/user/max_{name}_namespaces"));
    Path::new("/proc/self/ns").join(name).exists() && limit.map_or(true, |limit| limit.trim() != "0")
}

/// Those that berth is built on and that a seccomp filter around it, or an old kernel, may lack.
fn system_calls() -> Finding {
    let tried = [
        ("pidfd_open", pidfd_open(getpid(), PidfdFlags::empty()).map(drop)),
        ("openat2", open_beneath_root().map(drop)),
        ("fsopen", fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map(drop)),
    ];
    let failed: Vec<_> =
        tried.iter().filter_map(|(name, result)| result.err().map(|e| format!("{name}: {e}"))).collect();
    if failed.is_empty() {
        return Finding::ok("system calls", tried.map(|(name, _)| name).join(", "));
    }
    Finding::fail(
        "system calls",
        failed.join("; "),
        "run berth as root, outside of a container's seccomp filter",
    )
}

fn open_beneath_root() -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// Tried on the file system that will hold the containers' writable layers: not every one can be an upper.
fn overlay(settings: &Settings) -> Finding {
    let place = nearest_directory(&settings.root);
    match try_overlay(&place) {
        Ok(()) => Finding::ok("overlayfs", format!("works on {}", place.display())),
        Err(error) => Finding::fail(
            "overlayfs",
            format!("can't be mounted on {}: {error}", place.display()),
            "run as root, load the module overlay, and keep root on ext4, xfs or btrfs",
        ),
    }
}

/// Mounts an overlay, writes a file through it, and looks for the file in the upper directory.
fn try_overlay(place: &Path) -> io::Result<()> {
    let dir = tempfile::Builder::new().prefix(".berth-check-").tempdir_in(place)?;
    let layer = |name: &str| -> io::Result<PathBuf> {
        let path = dir.path().join(name);
        fs::create_dir(&path).map(|()| path)
    };
    let (lower, upper, work) = (layer("lower")?, layer("upper")?, layer("work")?);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, path) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
        fsconfig_set_string(&context, key, path.as_path())?;
    }
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    openat(&mount, "probe", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
    fs::symlink_metadata(upper.join("probe")).map(drop)
}

/// The directory itself, or the closest one above it that exists.
pub(super) fn nearest_directory(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// The names in /proc/filesystems.
fn file_systems() -> std::collections::BTreeSet<String> {
    let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
}

fn seccomp() -> Finding {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) => Finding::ok("seccomp", actions.trim()),
        Err(_) => Finding::fail("seccomp", "not in this kernel", "use a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_tells_its_version() {
        let check = |release: &str, version| assert_eq!(parse_version(release), version, "{release}");
        check("6.1.0-38-amd64", Some((6, 1)));
        check("5.12", Some((5, 12)));
        check("6.18-rc1", Some((6, 18)));
        check("unknown", None);
    }

    #[test]
    fn a_module_is_found_in_either_index() {
        let index = "kernel/drivers/net/veth.ko.xz: kernel/net/x.ko\nkernel/net/bridge/bridge.ko\n";
        assert!(lists_module(index, "veth") && lists_module(index, "bridge"));
        assert!(!lists_module(index, "x") && !lists_module(index, "br"));
    }

    #[test]
    fn a_place_that_does_not_exist_yet_is_judged_by_its_parent() {
        assert_eq!(nearest_directory(Path::new("/proc/none/such")), Path::new("/proc"));
    }
}
