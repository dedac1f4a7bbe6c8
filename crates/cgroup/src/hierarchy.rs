//! Which hierarchies are mounted, and making cgroups in them.
//!
//! Read once at start; a [`Cgroups`] is a cheap handle that may be cloned. On version 2 a controller reaches a cgroup
//! only if every ancestor passes it on through `cgroup.subtree_control`; that is done here for all controllers
//! that exist, as well as it goes, so that usage can be read later. What matters, that a limit can be set, is decided
//! when it is set: there a controller that is still missing is an error with its reason.
//!
//! Source: kernel admin-guide/cgroup-v2 and cgroup-v1; proc_pid_mountinfo(5).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Cgroup, CgroupError, CgroupPath, device_program, files};

/// What a container's cgroup passes on or may be limited by; others (rdma, misc) are left to the machine's owner.
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// How the hierarchies are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Version 2 alone.
    Unified,
    /// Version 1 with the controllers, and a version 2 hierarchy with none.
    Hybrid,
    /// Version 1 alone.
    Legacy,
}

/// One mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// Names of the controllers; empty for the version 2 of a hybrid layout and for named hierarchies.
    pub(crate) controllers: Vec<String>,
}

/// The machine's cgroup hierarchies.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Layout,
    controls_devices: bool,
    /// The one through which processes are killed comes first: version 2, else the freezer.
    hierarchies: Arc<[Hierarchy]>,
}

impl Cgroups {
    /// Finds what is mounted in this mount namespace.
    pub fn detect() -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo");
        Self::from_mountinfo(&mounts.map_err(|source| CgroupError::ReadMounts { source })?)
    }

    /// As [`Cgroups::detect`], from the text of a mountinfo file.
    pub fn from_mountinfo(text: &str) -> Result<Self, CgroupError> {
        let (mut v1, mut v2) = (Vec::<Hierarchy>::new(), None);
        for (mount, kind, options) in text.lines().filter_map(parse_mount) {
            let controllers = controllers_in(options);
            match kind {
                "cgroup2" if v2.is_none() => v2 = Some(mount),
                // The second mount of a hierarchy adds nothing.
                "cgroup"
                    if controllers.is_empty() || v1.iter().all(|known| known.controllers != controllers) =>
                {
                    v1.push(Hierarchy { mount, controllers });
                }
                _ => {}
            }
        }
        if v1.iter().all(|hierarchy| hierarchy.controllers.is_empty()) {
            let unified = Hierarchy::with_all_controllers(v2.ok_or(CgroupError::NotMounted)?)?;
            let controls_devices = device_program::is_possible();
            return Ok(Self { layout: Layout::Unified, controls_devices, hierarchies: [unified].into() });
        }
        let layout = if v2.is_some() { Layout::Hybrid } else { Layout::Legacy };
        let unified = v2.map(|mount| Hierarchy { mount, controllers: Vec::new() });
        v1.sort_by_key(|hierarchy| !hierarchy.has("freezer"));
        let controls_devices = v1.iter().any(|hierarchy| hierarchy.has("devices"));
        Ok(Self { layout, controls_devices, hierarchies: unified.into_iter().chain(v1).collect() })
    }

    /// How the hierarchies are laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether containers can be limited by a controller, like `memory` or `pids`.
    pub fn has_controller(&self, controller: &str) -> bool {
        self.hierarchies.iter().any(|hierarchy| hierarchy.has(controller))
    }

    /// Whether device rules hold: on version 1 with the `devices` hierarchy, on version 2 if this process may load the
    /// programs for it. Otherwise any device node that exists or can be made can be opened.
    pub fn controls_devices(&self) -> bool {
        self.controls_devices
    }

    /// Makes the cgroup, and the parents that are missing, in every hierarchy; one that exists is taken as it is.
    ///
    /// Errors: the cgroup itself exists in no hierarchy, unless it was there before and has processes or children;
    /// parents that were made stay.
    pub fn create(&self, path: &CgroupPath) -> Result<Cgroup, CgroupError> {
        let cgroup = self.open(path);
        for hierarchy in self.hierarchies.iter() {
            if let Err((path, source)) = self.create_in(hierarchy, path) {
                for made in self.hierarchies.iter() {
                    // The cause is what counts; what could not be taken back is found again by its name.
                    let _ = fs::remove_dir(cgroup.path().below(&made.mount));
                }
                return Err(CgroupError::Create { path, source });
            }
        }
        Ok(cgroup)
    }

    /// A handle to a cgroup that may or may not exist.
    pub fn open(&self, path: &CgroupPath) -> Cgroup {
        Cgroup::new(self.clone(), path.clone())
    }

    /// Names of the cgroups directly below `path` in any hierarchy; none if it does not exist.
    pub fn list_children(&self, path: &CgroupPath) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for hierarchy in self.hierarchies.iter() {
            let directory = path.below(&hierarchy.mount);
            let children = files::subdirectories(&directory);
            let children = children.map_err(|source| CgroupError::Read { path: directory, source })?;
            names.extend(children.iter().filter_map(|child| Some(child.file_name()?.to_str()?.to_owned())));
        }
        Ok(names)
    }

    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    fn create_in(&self, hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), (PathBuf, io::Error)> {
        // On version 1 its parents need nothing but to exist, as they mostly do.
        if self.layout != Layout::Unified && create_below_parents(hierarchy, path) {
            return Ok(());
        }
        let mut parent = hierarchy.mount.clone();
        for directory in path.each_below(&hierarchy.mount) {
            if self.layout == Layout::Unified {
                enable_all(&parent);
            }
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err((directory, error)),
                _ => {}
            }
            if self.layout != Layout::Unified && hierarchy.has("cpuset") {
                inherit_cpuset(&parent, &directory)?;
            }
            parent = directory;
        }
        Ok(())
    }
}

impl Hierarchy {
    /// The version 2 hierarchy at `mount`, with the controllers that its root offers.
    fn with_all_controllers(mount: PathBuf) -> Result<Self, CgroupError> {
        let path = mount.join("cgroup.controllers");
        let text = fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
        Ok(Self { mount, controllers: text.split_whitespace().map(str::to_owned).collect() })
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

/// Passes on to the children of `directory` every controller that it has; see the module for why errors do not count.
fn enable_all(directory: &Path) {
    let read = |name| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let lists = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    for controller in CONTROLLERS.into_iter().filter(|name| lists(&available, name) && !lists(&enabled, name))
    {
        let _ = enable(directory, controller);
    }
}

/// Passes one controller on to the children of `directory`.
pub(crate) fn enable(directory: &Path, controller: &str) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.subtree_control");
    files::write(&path, &format!("+{controller}")).map_err(|source| CgroupError::EnableController {
        controller: controller.to_owned(),
        path,
        source,
    })
}

/// Makes a version 1 cgroup whose parents are all there and fit for it; otherwise there is more to do.
fn create_below_parents(hierarchy: &Hierarchy, path: &CgroupPath) -> bool {
    let directory = path.below(&hierarchy.mount);
    let made = fs::create_dir(&directory).is_ok();
    match directory.parent() {
        Some(parent) if made && hierarchy.has("cpuset") => {
            matches!(inherit_cpuset(parent, &directory), Ok(true))
        }
        _ => made,
    }
}

/// A new version 1 cpuset has no CPUs and no memory nodes, and nothing can run in it: copy the parent's. Tells whether the
/// parent had some.
///
/// Those that are made in it are born with them. To give them to each has the kernel look at all cpusets of the machine
/// anew. Source: kernel admin-guide/cgroup-v1/cpusets, `cgroup.clone_children`.
fn inherit_cpuset(parent: &Path, directory: &Path) -> Result<bool, (PathBuf, io::Error)> {
    let (mut has_all, mut was_empty) = (true, false);
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        let mut copy = || {
            if !fs::read_to_string(&file)?.trim().is_empty() {
                return Ok(true);
            }
            was_empty = true;
            let inherited = fs::read_to_string(parent.join(name))?;
            files::write(&file, inherited.trim())?;
            Ok(!inherited.trim().is_empty())
        };
        has_all &= copy().map_err(|error| (file.clone(), error))?;
    }
    if was_empty {
        // Whoever is born without them gets them later.
        let _ = files::write(&directory.join("cgroup.clone_children"), "1");
    }
    Ok(has_all)
}

/// Mount point, file system type and super options of a mountinfo line.
fn parse_mount(line: &str) -> Option<(PathBuf, &str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = filesystem.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    Some((PathBuf::from(mount.split(' ').nth(4)?.replace("\\040", " ")), kind, options))
}

fn controllers_in(options: &str) -> Vec<String> {
    let is_controller = |option: &&str| {
        !matches!(*option, "rw" | "ro" | "xattr" | "noprefix" | "clone_children" | "none")
            && !option.contains('=')
    };
    options.split(',').filter(is_controller).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGACY: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
        38 31 0:34 / /mnt/freezer rw - cgroup cgroup rw,freezer\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    const CGROUP2: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";

    fn check(text: &str, layout: Layout, expected: &[(&str, &[&str])]) {
        let cgroups = Cgroups::from_mountinfo(text).unwrap();
        let found: Vec<_> = cgroups
            .hierarchies
            .iter()
            .map(|found| {
                (found.mount.to_str().unwrap(), found.controllers.iter().map(String::as_str).collect())
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|(mount, names)| (*mount, names.to_vec())).collect();
        assert_eq!((cgroups.layout, found), (layout, expected));
    }

    #[test]
    fn layouts_are_told_apart() {
        let v1: [(&str, &[&str]); 4] = [
            ("/sys/fs/cgroup/freezer", &["freezer"]),
            ("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
            ("/sys/fs/cgroup/memory", &["memory"]),
            ("/sys/fs/cgroup/systemd", &[]),
        ];
        let unified: (&str, &[&str]) = ("/sys/fs/cgroup/unified", &[]);
        check(LEGACY, Layout::Legacy, &v1);
        check(&format!("{LEGACY}{CGROUP2}"), Layout::Hybrid, &[&[unified][..], &v1].concat());
        assert!(matches!(
            Cgroups::from_mountinfo("1 2 0:3 / / rw - ext4 /dev/vda rw"),
            Err(CgroupError::NotMounted)
        ));
    }

    #[test]
    fn version_2_passes_controllers_on_from_the_root_down() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory rdma\n").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        let text = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
        let cgroups = Cgroups::from_mountinfo(&text).unwrap();
        assert_eq!(cgroups.layout(), Layout::Unified);
        assert!(cgroups.has_controller("memory") && !cgroups.has_controller("pids"));
        let (parent, child) = (CgroupPath::new("/a").unwrap(), CgroupPath::new("/a/b").unwrap());
        cgroups.create(&child).unwrap();
        cgroups.create(&child).unwrap();
        assert!(dir.path().join("a/b").is_dir());
        // A plain file keeps the last write only: memory was missing and is asked for, rdma is not ours.
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+memory");
        assert_eq!(cgroups.list_children(&parent).unwrap(), BTreeSet::from(["b".to_owned()]));
        assert!(cgroups.list_children(&child.join("c").unwrap()).unwrap().is_empty());
    }
}
