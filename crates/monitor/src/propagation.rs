//! Whether a host path can be mounted with the propagation that is asked for.
//!
//! A mount that sends nothing can't be listened to: a volume that should see later mounts and never would is refused,
//! as containerd and CRI-O do. Only volumes that ask for propagation read the mount table.
//! Source: CRI `MountPropagation`; proc_pid_mountinfo(5), optional fields.

use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;

use crate::plan::MountPropagation;
use crate::rootfs::{MountError, Result, on};

/// What a mount does with the mounts made below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ties {
    sends: bool,
    receives: bool,
}

/// Refuses a source whose mount can't do what the volume asks for.
pub(crate) fn check(source: &Path, wanted: MountPropagation) -> Result<()> {
    let fits: fn(Ties) -> bool = match wanted {
        MountPropagation::Private => return Ok(()),
        MountPropagation::HostToContainer => |ties| ties.sends || ties.receives,
        MountPropagation::Bidirectional => |ties| ties.sends,
    };
    let id = on(source, mount_id(source))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let table = on("/proc/self/mountinfo", table)?;
    match find(&table, id) {
        Some((_, ties)) if fits(ties) => Ok(()),
        found => {
            let at = found.map_or("?", |(at, _)| at);
            let kind = if wanted == MountPropagation::Bidirectional { "shared" } else { "shared or slave" };
            let object = format!("{}: it is on the mount {at}, which is not {kind}", source.display());
            Err(MountError { object, errno: None })
        }
    }
}

fn mount_id(source: &Path) -> std::result::Result<u64, Errno> {
    let place = open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// The mount point and the ties of the mount with this id.
fn find(table: &str, id: u64) -> Option<(&str, Ties)> {
    let line =
        table.lines().find(|line| line.split(' ').next().is_some_and(|first| first.parse() == Ok(id)))?;
    let fields = line.split(' ');
    let at = fields.clone().nth(4)?;
    let optional = fields.skip(6).take_while(|field| *field != "-");
    let ties = optional.fold(Ties::default(), |ties, field| Ties {
        sends: ties.sends || field.starts_with("shared:"),
        receives: ties.receives || field.starts_with("master:"),
    });
    Some((at, ties))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_read_from_the_optional_fields() {
        let table = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                     215 21 0:20 / /srv rw,nodev master:3 shared:9 - tmpfs tmpfs rw\n\
                     22 21 0:21 / /mnt ro master:3 propagate_from:2 - tmpfs tmpfs rw\n\
                     23 21 0:22 / /own rw - tmpfs shared:1 rw\n";
        let check =
            |id, at, sends, receives| assert_eq!(find(table, id), Some((at, Ties { sends, receives })));
        check(21, "/", true, false);
        check(215, "/srv", true, true);
        check(22, "/mnt", false, true);
        check(23, "/own", false, false);
        assert_eq!(find(table, 2), None);
    }
}
