//! Names of control groups: paths in the hierarchy, and the slice names that systemd's users give instead.
//!
//! A [`CgroupPath`] is absolute in the hierarchy, is never the root (everything that is killed or removed has such a
//! path, and the root holds the whole machine), and cannot climb out of it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::CgroupError;

const NAME_MAX_BYTES: usize = 255;

/// An absolute path in the cgroup hierarchy below its root, like `/kubepods/burstable/pod1/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Takes an absolute path; doubled and trailing slashes are dropped.
    ///
    /// Errors: relative, the root, `.` or `..`, control characters, or a component that no directory can be named.
    pub fn new(path: &str) -> Result<Self, CgroupError> {
        let refuse = |reason| CgroupError::InvalidPath { path: path.to_owned(), reason };
        if !path.starts_with('/') {
            return Err(refuse("it is not absolute"));
        }
        let mut clean = String::with_capacity(path.len());
        for component in path.split('/').filter(|component| !component.is_empty()) {
            check_component(component).map_err(refuse)?;
            clean.push('/');
            clean.push_str(component);
        }
        if clean.is_empty() {
            return Err(refuse("it is the root"));
        }
        Ok(Self(clean))
    }

    /// Takes a pod's `cgroup_parent`: a path, with or without its first slash, or a systemd slice name.
    ///
    /// A slice name is expanded as systemd does, where each dash is a level: `a-b.slice` is `/a.slice/a-b.slice`. A
    /// path of several components is taken as it is, also when it ends in a slice.
    /// Source: systemd.slice(5); CRI `LinuxPodSandboxConfig.cgroup_parent`.
    pub fn from_parent(parent: &str) -> Result<Self, CgroupError> {
        let name = parent.trim_matches('/');
        match name.strip_suffix(".slice") {
            Some(stem) if !name.contains('/') => Self::new(&expand_slice(stem, parent)?),
            _ => Self::new(&format!("/{name}")),
        }
    }

    /// Takes a pod's `cgroup_parent` where systemd makes the parents: only a slice, by its name or with its whole path.
    pub fn from_slice(parent: &str) -> Result<Self, CgroupError> {
        match parent.ends_with(".slice") {
            true => Self::from_parent(parent),
            false => {
                Err(CgroupError::InvalidPath { path: parent.to_owned(), reason: "it is no systemd slice" })
            }
        }
    }

    /// The child called `name`, one component.
    pub fn join(&self, name: &str) -> Result<Self, CgroupError> {
        let path = format!("{}/{name}", self.0);
        match check_component(name) {
            Ok(()) => Ok(Self(path)),
            Err(reason) => Err(CgroupError::InvalidPath { path, reason }),
        }
    }

    /// The path as text, with its first slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory of this cgroup in the hierarchy mounted at `mount`.
    pub(crate) fn below(&self, mount: &Path) -> PathBuf {
        mount.join(&self.0[1..])
    }

    /// The directories from the first below `mount` down to the cgroup's own.
    pub(crate) fn each_below<'a>(&'a self, mount: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        let ends = self.0.match_indices('/').map(|(at, _)| at).skip(1).chain([self.0.len()]);
        ends.map(move |end| mount.join(&self.0[1..end]))
    }
}

/// Who makes the cgroups of pods, above which this crate makes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// A kubelet, by writing to the file system.
    #[default]
    Cgroupfs,
    /// systemd: pods stand in its slices.
    Systemd,
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_component(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("it has an empty component"),
        "." | ".." => Err("it has a dot component"),
        _ if name.contains('/') => Err("a component has a slash"),
        _ if name.chars().any(char::is_control) => Err("it has a control character"),
        _ if name.len() > NAME_MAX_BYTES => Err("it has a component longer than 255 bytes"),
        _ => Ok(()),
    }
}

/// `a-b` becomes `/a.slice/a-b.slice`.
fn expand_slice(stem: &str, given: &str) -> Result<String, CgroupError> {
    if stem.split('-').any(str::is_empty) {
        let reason = "a slice name has an empty part between dashes";
        return Err(CgroupError::InvalidPath { path: given.to_owned(), reason });
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("/{}.slice", &stem[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(result: Result<CgroupPath, CgroupError>, expected: Option<&str>) {
        assert_eq!(result.as_ref().ok().map(CgroupPath::as_str), expected, "{result:?}");
    }

    #[test]
    fn paths_are_absolute_and_stay_below_the_root() {
        check(CgroupPath::new("/a"), Some("/a"));
        check(CgroupPath::new("//a/b//c/"), Some("/a/b/c"));
        for bad in ["", "/", "//", "a", "a/b", "/a/../b", "/..", "/a/./b", "/a\0b", "/a\nb"] {
            check(CgroupPath::new(bad), None);
        }
        check(CgroupPath::new(&format!("/{}", "x".repeat(256))), None);
    }

    #[test]
    fn children_are_one_component() {
        let parent = CgroupPath::new("/a").unwrap();
        check(parent.join("b"), Some("/a/b"));
        for bad in ["", ".", "..", "b/c", "/b"] {
            check(parent.join(bad), None);
        }
    }

    #[test]
    fn slice_names_become_nested_paths() {
        check(CgroupPath::from_parent("kubepods.slice"), Some("/kubepods.slice"));
        check(
            CgroupPath::from_parent("kubepods-burstable-pod1_2.slice"),
            Some("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"),
        );
        check(CgroupPath::from_parent("/a-b.slice"), Some("/a.slice/a-b.slice"));
        check(CgroupPath::from_parent("/a.slice/a-b.slice"), Some("/a.slice/a-b.slice"));
        check(CgroupPath::from_parent("/kubepods/burstable/pod1"), Some("/kubepods/burstable/pod1"));
        check(CgroupPath::from_parent("berth"), Some("/berth"));
        check(CgroupPath::from_slice("a-b.slice"), Some("/a.slice/a-b.slice"));
        check(CgroupPath::from_slice("/kubepods/burstable/pod1"), None);
        for bad in
            ["", "/", "-.slice", ".slice", "a--b.slice", "-a.slice", "a-.slice", "../a", "a/../b.slice"]
        {
            check(CgroupPath::from_parent(bad), None);
        }
    }

    #[test]
    fn directories_are_listed_from_the_top() {
        let path = CgroupPath::new("/a/b/c").unwrap();
        let below: Vec<_> = path.each_below(Path::new("/m")).collect();
        assert_eq!(below, [Path::new("/m/a"), Path::new("/m/a/b"), Path::new("/m/a/b/c")]);
        assert_eq!(path.below(Path::new("/m")), Path::new("/m/a/b/c"));
    }
}
