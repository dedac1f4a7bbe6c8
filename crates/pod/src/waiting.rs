//! What processes wait for, as `/proc` tells: the only way to learn why something does not go on without asking it.
//!
//! Nothing here touches a filesystem that might hang, as the process that is looked at does: a thread of the agent's
//! that waited with it could not even be killed, and would hold the agent's descriptors past its end.
//! Source: proc_pid_stat(5), proc_pid_wchan(5), proc_pid_mountinfo(5).

use std::fs;
use std::path::{Path, PathBuf};

/// What a process is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It runs, or waits for something that comes or not, as programs do.
    Well,
    /// In the kernel, where no signal but a fatal one is heard, or not even that.
    Waits,
    /// By a signal, or a debugger.
    Stopped,
    /// Dead, and not waited for, or gone.
    Gone,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) pid: u32,
    /// Its short name, which it may have given itself.
    pub(crate) name: String,
    pub(crate) condition: Condition,
    /// The kernel's function that it sleeps in, where that is known.
    pub(crate) place: String,
}

/// Functions of filesystems that somebody else serves: whoever waits in one waits for him, also where a signal would be
/// heard.
const SERVED_BY_OTHERS: [&str; 7] = ["request_wait_answer", "fuse_", "nfs", "rpc_", "cifs", "smb", "ceph"];

/// The types of filesystems that somebody else serves. Of FUSE's, only the beginning is the same.
const OTHERS_FILESYSTEMS: [&str; 8] = ["fuse", "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs"];

impl Look {
    /// Whether it waits for a filesystem that somebody else serves.
    pub(crate) fn waits_for_others(&self) -> bool {
        self.condition == Condition::Waits && is_served_by_others(&self.place)
    }
}

/// Looks at a process.
pub(crate) fn look_at(pid: u32) -> Look {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (name, state) = read("stat").ok().and_then(|stat| parse_stat(&stat)).unwrap_or_default();
    let place = read("wchan").unwrap_or_default();
    let place = if place == "0" { String::new() } else { place };
    Look { pid, condition: condition_of(state, &place), name, place }
}

/// Those that wait in the kernel, now.
pub(crate) fn waiting(pids: &[u32]) -> Vec<Look> {
    let looks = pids.iter().map(|pid| look_at(*pid));
    looks.filter(|look| look.condition == Condition::Waits).collect()
}

/// Of these paths, those on filesystems that somebody else serves, each with the filesystem's type; by their names alone.
pub(crate) fn served_by_others<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<_> = mounts.lines().filter_map(parse_mount).collect();
    let shown = |path: &Path| {
        // A later mount lies over an earlier one.
        let (_, kind) = mounts
            .iter()
            .filter(|(point, _)| path.starts_with(point))
            .max_by_key(|(point, _)| point.components().count())?;
        let is_served = OTHERS_FILESYSTEMS.contains(kind) || kind.starts_with("fuse.");
        is_served.then(|| format!("{} ({kind})", path.display()))
    };
    paths.filter_map(shown).collect()
}

/// The name in parentheses, which may have some of its own, and the state after it.
fn parse_stat(stat: &str) -> Option<(String, char)> {
    let (head, tail) = stat.rsplit_once(')')?;
    Some((head.split_once('(')?.1.to_owned(), tail.trim_start().chars().next()?))
}

fn condition_of(state: char, place: &str) -> Condition {
    match state {
        'D' => Condition::Waits,
        'S' if is_served_by_others(place) => Condition::Waits,
        'T' | 't' => Condition::Stopped,
        'R' | 'S' | 'I' | 'W' | 'P' | 'K' => Condition::Well,
        _ => Condition::Gone,
    }
}

fn is_served_by_others(place: &str) -> bool {
    SERVED_BY_OTHERS.iter().any(|function| place.starts_with(function))
}

/// Where it is mounted, and the filesystem's type.
fn parse_mount(line: &str) -> Option<(PathBuf, &str)> {
    let (head, tail) = line.split_once(" - ")?;
    Some((head.split(' ').nth(4)?.replace("\\040", " ").into(), tail.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_call_itself_what_it_likes() {
        let check = |stat: &str, name: &str, state| {
            assert_eq!(parse_stat(stat), Some((name.to_owned(), state)), "{stat}");
        };
        check("12 (sh) S 1 12", "sh", 'S');
        check("12 (a) D (b) T 1 12", "a) D (b", 'T');
        assert_eq!(parse_stat("12 (sh"), None);
    }

    #[test]
    fn who_waits_for_a_server_of_files_is_told_from_who_waits_for_work() {
        let check =
            |state, place, expected| assert_eq!(condition_of(state, place), expected, "{state} {place}");
        check('S', "request_wait_answer", Condition::Waits);
        check('S', "rpc_wait_bit_killable", Condition::Waits);
        check('D', "", Condition::Waits);
        check('S', "ep_poll", Condition::Well);
        check('R', "", Condition::Well);
        check('T', "do_signal_stop", Condition::Stopped);
        check('Z', "", Condition::Gone);
        assert_eq!(look_at(std::process::id()).condition, Condition::Well);
        assert_eq!(look_at(u32::MAX).condition, Condition::Gone);
    }

    #[test]
    fn a_mount_is_read_with_its_type() {
        let line = "36 35 98:0 /mnt1 /mnt\\040x rw,noatime master:1 - fuse.sshfs host:/ rw";
        assert_eq!(parse_mount(line), Some((PathBuf::from("/mnt x"), "fuse.sshfs")));
    }
}
