//! Named pipes in a container's root, as a device may bring them with it. They have no number that a cgroup could know,
//! and a user namespace may make them.

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, mknodat, statat};
use rustix::io::Errno;

use crate::plan::Fifo;
use crate::root_dir::RootDir;
use crate::rootfs::{Result, on, open_parent};

/// Makes the plan's named pipes. One that is there already, as in a volume, is left alone.
pub(crate) fn make_fifos(root: &RootDir, fifos: &[Fifo]) -> Result<()> {
    fifos.iter().try_for_each(|fifo| on(&fifo.path, make_fifo(root, fifo)))
}

fn make_fifo(root: &RootDir, fifo: &Fifo) -> std::result::Result<(), Errno> {
    let (parent, name) = open_parent(root, &fifo.path)?;
    match mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(fifo.mode), 0) {
        Err(Errno::EXIST) => {
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_fifo = FileType::from_raw_mode(stat.st_mode).is_fifo();
            return if is_fifo { Ok(()) } else { Err(Errno::EXIST) };
        }
        made => made?,
    }
    let (uid, gid) = (Uid::from_raw(fifo.uid), Gid::from_raw(fifo.gid));
    chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
