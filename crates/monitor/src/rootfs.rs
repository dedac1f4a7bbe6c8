//! A container's mount table: image layers, volumes, kernel filesystems, devices, masks.
//!
//! Runs in the child, in its fresh copy of the host's mount namespace; nothing made here is ever seen in the host's.
//! The order matters and is given by [`crate::launch`]:
//!
//! 1. [`open_sources`] takes hold of every host source while the host's mounts still have their propagation: only so
//!    can a volume stay a peer (Bidirectional) or become a slave (HostToContainer) of what it came from;
//! 2. [`make_private`] cuts all other ties, so that nothing mounted here travels to the host;
//! 3. [`mount_overlay`], then [`mount_all`] in the plan's order, each target resolved inside the root ([`RootDir`]);
//! 4. devices, links, masks and read-only paths; the root's own read-only flag last.
//!
//! Everything is done on descriptors (`open_tree`, `fsmount`, `move_mount`): a path is looked up once, and what
//! was checked is what is used. Source: CVE-2021-30465, CVE-2025-31133, CVE-2025-52565.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::mountattr::{MountAttributes, Propagation, Reach, set_attributes};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, PROC_SUPER_MAGIC, Uid, chownat, fstat, fstatfs, major,
    makedev, minor, mknodat, open, statat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree,
};

use crate::birth::PodUsers;
use crate::copy::copy_tree;
use crate::label;
use crate::plan::{Access, Device, DeviceKind, Mount, MountPropagation, MountSource, Rootfs};
use crate::root_dir::{Make, RootDir, is_directory};
use crate::{mapped, propagation};

/// A failed step on the mount table: the object, and the errno.
#[derive(Debug)]
pub(crate) struct MountError {
    pub(crate) object: String,
    pub(crate) errno: Option<Errno>,
}

pub(crate) type Result<T> = std::result::Result<T, MountError>;

/// Names the object of a failed call.
pub(crate) fn on<T>(object: impl AsRef<Path>, result: std::result::Result<T, Errno>) -> Result<T> {
    result.map_err(|errno| MountError { object: object.as_ref().display().to_string(), errno: Some(errno) })
}

/// Takes hold of everything that comes from other mount namespaces, in the order of `mounts` (`None` for new
/// filesystems): volumes from the host, with their propagation set and their ids mapped, and the pod's `/dev/shm`,
/// which `pod_shm` fetches. A host path that does not exist is made as a directory, as containerd and CRI-O do.
pub(crate) fn open_sources(
    mounts: &[Mount],
    users: Option<&PodUsers<'_>>,
    pod_shm: impl Fn() -> std::result::Result<OwnedFd, Errno>,
) -> Result<Vec<Option<OwnedFd>>> {
    let open = |mount: &Mount| match &mount.source {
        MountSource::Bind(source) => open_bind(source, mount, users.filter(|_| mount.idmapped)).map(Some),
        MountSource::ImageVolume(source) => {
            let tree = open_bind(source, mount, None)?;
            users.map_or(Ok(()), |users| mapped::give(source, users))?;
            Ok(Some(tree))
        }
        MountSource::PodShm => on(&mount.target, pod_shm()).map(Some),
        MountSource::Proc
        | MountSource::Sysfs
        | MountSource::Tmpfs { .. }
        | MountSource::Devpts
        | MountSource::Mqueue
        | MountSource::Cgroup2
        | MountSource::Image { .. } => Ok(None),
    };
    mounts.iter().map(open).collect()
}

fn open_bind(source: &Path, plan: &Mount, users: Option<&PodUsers<'_>>) -> Result<OwnedFd> {
    let clone = || clone_tree(CWD, source, OpenTreeFlags::AT_RECURSIVE);
    let tree = match clone() {
        Err(Errno::NOENT) => {
            on(source, fs::create_dir_all(source).map_err(errno_of))?;
            on(source, clone())?
        }
        cloned => on(source, cloned)?,
    };
    propagation::check(source, plan.propagation)?;
    let propagation = match plan.propagation {
        MountPropagation::Private if plan.follows_host => Propagation::Slave,
        MountPropagation::Private => Propagation::Private,
        MountPropagation::HostToContainer => Propagation::Slave,
        MountPropagation::Bidirectional => Propagation::Shared,
    };
    let wanted = MountAttributes { propagation: Some(propagation), ..Default::default() };
    on(source, set_attributes(tree.as_fd(), Reach::Tree, wanted))?;
    match users {
        Some(users) => mapped::map(tree.as_fd(), source, users.namespace).map(|()| tree),
        None => Ok(tree),
    }
}

/// Cuts the propagation between this mount namespace and the host's, in both directions.
pub(crate) fn make_private() -> Result<()> {
    let root = on("/", open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))?;
    let private = MountAttributes { propagation: Some(Propagation::Private), ..Default::default() };
    on("/", set_attributes(root.as_fd(), Reach::Tree, private))
}

/// Mounts the image's layers under the writable layer, over the staging directory.
pub(crate) fn mount_overlay(rootfs: &Rootfs, label: Option<&str>) -> Result<RootDir> {
    let writable = Writable { upper: &rootfs.upper, work: &rootfs.work };
    mount_layers(&rootfs.lower, Some(writable), &rootfs.staging, label)
}

/// The directory that takes the changes to layers, and overlayfs's scratch directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writable<'a> {
    upper: &'a Path,
    work: &'a Path,
}

/// Mounts layers, topmost first, over `place`; at least two where nothing is writable. With a label, all files show it.
pub(crate) fn mount_layers(
    lower: &[PathBuf],
    writable: Option<Writable<'_>>,
    place: &Path,
    label: Option<&str>,
) -> Result<RootDir> {
    let object = writable.map_or(place, |writable| writable.upper);
    match overlay_by_layer(lower, writable, label) {
        Ok(mount) => on(place, attach(mount.as_fd(), CWD, place))?,
        Err(Errno::INVAL) => on(object, overlay_in_one_option(lower, writable, place, label))?,
        Err(errno) => on(object, Err(errno))?,
    }
    let root = open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    Ok(RootDir::new(on(place, root)?))
}

/// One `lowerdir+` option for each layer: as many as there are, however long their paths. Since Linux 6.8; EINVAL
/// before, and no word of it in the kernel's log.
fn overlay_by_layer(
    lower: &[PathBuf],
    writable: Option<Writable<'_>>,
    label: Option<&str>,
) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if fsconfig_set_string(&context, "no-such-option", "").is_ok() {
        // Before 6.5 options are taken unseen, and one that turns out to be unknown is complained of in the log each
        // time.
        return Err(Errno::INVAL);
    }
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", layer.as_path())?;
    }
    if let Some(Writable { upper, work }) = writable {
        fsconfig_set_string(&context, "upperdir", upper)?;
        fsconfig_set_string(&context, "workdir", work)?;
        // What a container writes is worth nothing after a power cut: it is not mounted again. Without this, its end has
        // the kernel write out the whole filesystem that it lies on. Source: overlayfs, "Volatile mount".
        fsconfig_set_flag(&context, "volatile")?;
    }
    fsconfig_set_string(&context, "source", "berth")?;
    set_label(context.as_fd(), label)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// All layers in the one page that mount(2) takes, each as a short descriptor path, so that 127 of them fit.
fn overlay_in_one_option(
    lower: &[PathBuf],
    writable: Option<Writable<'_>>,
    place: &Path,
    label: Option<&str>,
) -> std::result::Result<(), Errno> {
    let handles: Vec<OwnedFd> = (lower.iter())
        .map(|layer| open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()))
        .collect::<std::result::Result<_, _>>()?;
    let lower: Vec<String> = handles.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some(Writable { upper, work }) = writable {
        options += &format!(",upperdir={},workdir={},volatile", upper.display(), work.display());
    }
    if let Some(label) = label {
        // Quoted, for the commas of its categories.
        options += &format!(",context=\"{label}\"");
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    mount("berth", place, "overlay", MountFlags::empty(), Some(options.as_c_str()))
}

/// Mounts everything of the plan below `root`, in the plan's order; `sources` comes from [`open_sources`]. Filesystems
/// that are made here and kept by no policy of their own get `label`, and so does the pod's `/dev/shm`.
pub(crate) fn mount_all(
    root: &RootDir,
    mounts: &[Mount],
    sources: Vec<Option<OwnedFd>>,
    label: Option<&str>,
) -> Result<()> {
    for (plan, source) in mounts.iter().zip(sources) {
        let target = &plan.target;
        let (mount, place) = match (&plan.source, source) {
            (MountSource::Bind(path), Some(tree)) => {
                let make = if on(path, is_directory(&tree))? { Make::Directory } else { Make::File };
                let place = on(target, root.open_or_make(target, make))?;
                on(target, check_place(&place, target, &tree))?;
                (tree, Ok(place))
            }
            (MountSource::Image { .. }, Some(tree)) => (tree, root.open_or_make(target, Make::Directory)),
            (MountSource::ImageVolume(_), Some(tree)) => {
                let place = on(target, root.open_or_make(target, Make::Directory))?;
                on(target, copy_tree(place.as_fd(), tree.as_fd()))?;
                (tree, Ok(place))
            }
            (_, Some(tree)) => {
                on(target, label::relabel(tree.as_fd(), label))?;
                (tree, plain_place(root, target, Make::Directory))
            }
            (kind, None) => {
                let mount = on(target, kernel_filesystem(kind, label))?;
                (mount, plain_place(root, target, Make::Directory))
            }
        };
        let place = on(target, place)?;
        restrict(&mount, plan)?;
        on(target, attach(mount.as_fd(), &place, Path::new("")))?;
    }
    Ok(())
}

/// Refuses a volume that would hide what the kernel says of processes, wherever the image's symlinks lead to it: what
/// later steps and programs inside read in /proc, they trust. A proc of the host's may be shown as /proc. Source: runc,
/// `checkProcMount`; CVE-2019-16884.
fn check_place(place: &OwnedFd, target: &Path, tree: &OwnedFd) -> std::result::Result<(), Errno> {
    let is_proc = |fd: &OwnedFd| Ok::<_, Errno>(fstatfs(fd)?.f_type == PROC_SUPER_MAGIC);
    let (over_root, inside) = (target == Path::new("/proc"), is_proc(place)?);
    // The plan allows some files below /proc by name.
    let by_name = target.starts_with("/proc") && !over_root;
    match (over_root && !is_proc(tree)?) || (inside && !by_name && !over_root) {
        true => Err(Errno::PERM),
        false => Ok(()),
    }
}

/// The place for one of the runtime's own mounts: made where it is missing, never through a symlink.
fn plain_place(root: &RootDir, target: &Path, make: Make) -> std::result::Result<OwnedFd, Errno> {
    match root.open_plain(target) {
        Err(Errno::NOENT) => {
            root.open_or_make(target, make)?;
            root.open_plain(target)
        }
        opened => opened,
    }
}

/// A new instance of a filesystem that the kernel makes.
fn kernel_filesystem(source: &MountSource, label: Option<&str>) -> std::result::Result<OwnedFd, Errno> {
    let (kind, mut options): (&str, Vec<(&str, String)>) = match source {
        MountSource::Proc => ("proc", vec![]),
        MountSource::Sysfs => ("sysfs", vec![]),
        MountSource::Mqueue => ("mqueue", vec![]),
        MountSource::Cgroup2 => ("cgroup2", vec![]),
        // gid 5 is the tty group on every distribution; mode 0620 is what grantpt(3) asks for.
        MountSource::Devpts => {
            ("devpts", vec![("mode", "0620".into()), ("ptmxmode", "0666".into()), ("gid", "5".into())])
        }
        MountSource::Tmpfs { mode, size_bytes } => {
            let mut options = vec![("mode", format!("{mode:o}"))];
            options.extend(size_bytes.map(|bytes| ("size", bytes.to_string())));
            ("tmpfs", options)
        }
        MountSource::Bind(_)
        | MountSource::PodShm
        | MountSource::Image { .. }
        | MountSource::ImageVolume(_) => return Err(Errno::INVAL),
    };
    // The policy has labels for what is in the others.
    let label = label.filter(|_| matches!(source, MountSource::Tmpfs { .. } | MountSource::Devpts));
    match new_filesystem(kind, &options, label) {
        // A small user namespace has no such group.
        Err(Errno::INVAL) if *source == MountSource::Devpts => {
            options.retain(|(key, _)| *key != "gid");
            new_filesystem(kind, &options, label)
        }
        made => made,
    }
}

fn new_filesystem(
    kind: &str,
    options: &[(&str, String)],
    label: Option<&str>,
) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, value.as_str())?;
    }
    set_label(context.as_fd(), label)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// A new tmpfs that is attached nowhere, as for the pod's `/dev/shm`.
pub(crate) fn detached_tmpfs(mode: u32, size_bytes: Option<u64>) -> std::result::Result<OwnedFd, Errno> {
    kernel_filesystem(&MountSource::Tmpfs { mode, size_bytes }, None)
}

/// Gives all files of a filesystem that is being made one label. Source: mount(8), "context".
fn set_label(context: BorrowedFd<'_>, label: Option<&str>) -> std::result::Result<(), Errno> {
    label.map_or(Ok(()), |label| fsconfig_set_string(context, "context", label))
}

/// Gives a mount the plan's flags, before it is attached.
pub(crate) fn restrict(mount: &OwnedFd, plan: &Mount) -> Result<()> {
    on(&plan.target, set_attributes(mount.as_fd(), reach(plan.access), attributes(plan)))
}

fn attributes(plan: &Mount) -> MountAttributes {
    MountAttributes {
        read_only: plan.access != Access::ReadWrite,
        nosuid: plan.nosuid,
        nodev: plan.nodev,
        noexec: plan.noexec,
        propagation: None,
    }
}

fn reach(access: Access) -> Reach {
    match access {
        Access::ReadWrite | Access::ReadOnly => Reach::This,
        Access::RecursiveReadOnly => Reach::Tree,
    }
}

/// Makes the plan's device nodes. `/dev` is a tmpfs of the plan's own, so nothing of the image is there.
pub(crate) fn make_devices(root: &RootDir, devices: &[Device]) -> Result<()> {
    devices.iter().try_for_each(|device| on(&device.path, make_device(root, device)))
}

/// The same with nodes that were made elsewhere, in the plan's order.
pub(crate) fn mount_devices(root: &RootDir, devices: &[Device], nodes: &[OwnedFd]) -> Result<()> {
    for (Device { path, .. }, node) in devices.iter().zip(nodes) {
        // What a volume shows there is wanted.
        if path.starts_with("/dev") && root.open(path, OFlags::PATH).is_ok() {
            continue;
        }
        let place = on(path, root.open_or_make(path, Make::File))?;
        on(path, attach(node.as_fd(), &place, Path::new("")))?;
    }
    Ok(())
}

fn make_device(root: &RootDir, device: &Device) -> std::result::Result<(), Errno> {
    let (parent, name) = open_parent(root, &device.path)?;
    let mode = Mode::from_raw_mode(device.mode);
    match mknodat(&parent, name, file_type(device.kind), mode, makedev(device.major, device.minor)) {
        // A volume has been mounted there, or an earlier container has made the node in a volume.
        Err(Errno::EXIST) if device.path.starts_with("/dev") || is_device(&parent, name, device)? => {
            return Ok(());
        }
        Err(Errno::PERM) if device.host_path.is_some() => return mount_device(root, device),
        made => made?,
    }
    let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
    chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Character => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
    }
}

fn is_device(parent: &OwnedFd, name: &OsStr, device: &Device) -> std::result::Result<bool, Errno> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_kind = FileType::from_raw_mode(stat.st_mode) == file_type(device.kind);
    Ok(is_kind && (major(stat.st_rdev), minor(stat.st_rdev)) == (device.major, device.minor))
}

/// A node that a user namespace makes can't be opened; the host's, mounted there, can.
fn mount_device(root: &RootDir, device: &Device) -> std::result::Result<(), Errno> {
    let host_path = device.host_path.as_ref().ok_or(Errno::PERM)?;
    let node = clone_tree(CWD, host_path, OpenTreeFlags::empty())?;
    attach(node.as_fd(), root.open_or_make(&device.path, Make::File)?, Path::new(""))
}

/// Makes the plan's symbolic links; one that the image has already is left alone.
pub(crate) fn make_links(root: &RootDir, links: &[(PathBuf, PathBuf)]) -> Result<()> {
    for (path, target) in links {
        let made = open_parent(root, path).and_then(|(parent, name)| symlinkat(target, &parent, name));
        match made {
            Err(Errno::EXIST) => {}
            done => on(path, done)?,
        }
    }
    Ok(())
}

pub(crate) fn open_parent<'a>(
    root: &RootDir,
    path: &'a Path,
) -> std::result::Result<(OwnedFd, &'a OsStr), Errno> {
    let (parent, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
    Ok((root.open_or_make(parent, Make::Directory)?, name))
}

/// Shows the slave side of the container's terminal as `/dev/console`, and nowhere that a link of a volume's leads to
/// from there (CVE-2025-52565).
pub(crate) fn mount_console(root: &RootDir, slave: BorrowedFd<'_>) -> Result<()> {
    let console = Path::new("/dev/console");
    let attach_slave = || {
        let tree = clone_tree(slave, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH)?;
        attach(tree.as_fd(), plain_place(root, console, Make::File)?, Path::new(""))
    };
    on(console, attach_slave())
}

/// Hides what the plan names: a file behind `/dev/null`, a directory behind an empty read-only tmpfs.
pub(crate) fn mask(root: &RootDir, paths: &[PathBuf]) -> Result<()> {
    let mut empty = None;
    for path in paths {
        let Some(place) = on(path, present(root, path))? else {
            continue;
        };
        let cover = match (on(path, is_directory(&place))?, &empty) {
            (false, _) => on("/dev/null", null_device(root))?,
            // One serves them all.
            (true, Some(empty)) => on(path, clone_tree(empty, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH))?,
            (true, None) => {
                let directory = on(path, empty_directory())?;
                let first = on(path, clone_tree(&directory, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH))?;
                empty = Some(directory);
                first
            }
        };
        on(path, attach(cover.as_fd(), &place, Path::new("")))?;
    }
    Ok(())
}

fn empty_directory() -> std::result::Result<OwnedFd, Errno> {
    let empty = detached_tmpfs(0o755, Some(0))?;
    let read_only = MountAttributes { read_only: true, ..Default::default() };
    set_attributes(empty.as_fd(), Reach::This, read_only)?;
    Ok(empty)
}

/// A view of the container's `/dev/null`, proven to be that device: an image or a race could have put something else in
/// its place and have it mounted over `/proc` (CVE-2025-31133).
fn null_device(root: &RootDir) -> std::result::Result<OwnedFd, Errno> {
    let null = root.open_plain(Path::new("/dev/null"))?;
    let stat = fstat(&null)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    if is_null { clone_tree(&null, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH) } else { Err(Errno::NODEV) }
}

/// Makes what the plan names read-only, with everything below.
pub(crate) fn protect(root: &RootDir, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let Some(place) = on(path, present(root, path))? else {
            continue;
        };
        let cover = || {
            let copy = clone_tree(
                &place,
                Path::new(""),
                OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE,
            )?;
            let read_only = MountAttributes { read_only: true, ..Default::default() };
            set_attributes(copy.as_fd(), Reach::Tree, read_only)?;
            attach(copy.as_fd(), &place, Path::new(""))
        };
        on(path, cover())?;
    }
    Ok(())
}

/// Makes the root itself read-only, leaving what is mounted below it as it is.
pub(crate) fn make_read_only(root: &RootDir) -> Result<()> {
    let read_only = MountAttributes { read_only: true, ..Default::default() };
    on("/", set_attributes(root.as_fd(), Reach::This, read_only))
}

/// Makes `root` the root of this mount namespace and lets go of the host's. Source: pivot_root(2), the section on
/// `pivot_root(".", ".")`.
pub(crate) fn pivot(root: &RootDir) -> Result<()> {
    let switch = || {
        rustix::process::fchdir(root)?;
        rustix::process::pivot_root(".", ".")?;
        // The old root now lies over the new one at "."; detached, it takes all other host mounts with it.
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    on("/", switch())
}

fn present(root: &RootDir, path: &Path) -> std::result::Result<Option<OwnedFd>, Errno> {
    match root.open(path, OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A detached copy of the mount that `path` below `at` shows.
pub(crate) fn clone_tree(
    at: impl AsFd,
    path: &Path,
    flags: OpenTreeFlags,
) -> std::result::Result<OwnedFd, Errno> {
    open_tree(at, path, flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
}

/// Attaches a detached mount at `path` below `at` (or at `at` itself for an empty path).
pub(crate) fn attach(mount: BorrowedFd<'_>, at: impl AsFd, path: &Path) -> std::result::Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", at, path, flags)
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
