//! How often the kernel killed a process of a cgroup for want of memory.

use std::fs;
use std::path::Path;

use crate::{CgroupError, files};

const KEY: &str = "oom_kill";

/// Reads the number of OOM kills so far from the file that [`crate::Cgroup::oom_file`] named.
///
/// The counter is exact when it is read after the exit and before the cgroup goes. It also counts what was killed
/// in an exec session or a nested cgroup, not only the container's first process.
/// Source: kernel `memory.events` (version 2) and `memory.oom_control` (version 1, Linux 4.13), the same line in both.
pub fn read_oom_kills(path: &Path) -> Result<u64, CgroupError> {
    let text =
        fs::read_to_string(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })?;
    files::keyed_number(&text, KEY).ok_or_else(|| CgroupError::Format { path: path.to_owned(), key: KEY })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<u64>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        assert_eq!(read_oom_kills(file.path()).ok(), expected, "{text:?}");
    }

    #[test]
    fn both_versions_name_the_same_line() {
        check("low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n", Some(3));
        check("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", Some(2));
        check("oom_kill_disable 0\nunder_oom 0\n", None);
        check("oom_kill many\n", None);
    }
}
