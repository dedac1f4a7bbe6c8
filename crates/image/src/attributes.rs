//! What a tar entry says about its file besides the content: owner, mode, time, extended attributes.
//!
//! Checked when they are read, so that applying them fails only for the filesystem's reasons.
//!
//! Source: pax(1), "pax extended header"; `SCHILY.xattr.` as GNU tar and Go's archive/tar write it.

use std::{
    io::{self, Read},
    os::fd::AsFd,
};

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fsetxattr, fstat};
use tar::Entry;

/// What an entry says about its file besides the content.
pub(crate) struct Attributes {
    pub(crate) owner: Uid,
    pub(crate) group: Gid,
    pub(crate) mode: Mode,
    pub(crate) modified: Timespec,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Reads an entry's headers; an error says what is wrong with them.
    pub(crate) fn of(entry: &mut Entry<'_, impl Read>) -> std::result::Result<Self, &'static str> {
        let header = entry.header();
        let id =
            |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
        let owner = id(header.uid()).ok_or("its owner is no user id")?;
        let group = id(header.gid()).ok_or("its group is no group id")?;
        let mode = Mode::from_raw_mode(header.mode().map_err(|_| "its mode is no number")? & 0o7777);
        let seconds = header.mtime().map_err(|_| "its time is no number")?;
        let mut modified = Timespec { tv_sec: seconds as i64, tv_nsec: 0 };
        let mut xattrs = Vec::new();
        let extensions = entry.pax_extensions().map_err(|_| "its extended headers are unreadable")?;
        for extension in extensions.into_iter().flatten() {
            let extension = extension.map_err(|_| "its extended headers are unreadable")?;
            let (key, value) = (extension.key_bytes(), extension.value_bytes());
            if key == b"mtime" {
                modified = parse_time(value).ok_or("its time is no number")?;
            } else if key.starts_with(b"GNU.sparse.") {
                return Err("sparse files in the PAX format are not supported");
            } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                && is_for_containers(name)
            {
                xattrs.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(Self { owner: Uid::from_raw(owner), group: Gid::from_raw(group), mode, modified, xattrs })
    }

    /// What a new file is made with, so that most need no other.
    pub(crate) fn mode_at_birth(&self) -> Mode {
        self.mode & Mode::from_raw_mode(0o777)
    }

    /// Sets all but the time, as far as it is not so already: each change is a transaction of the filesystem's. Owner
    /// first, because changing it takes away the set-user-id bit and file capabilities.
    pub(crate) fn apply_to(&self, file: &impl AsFd) -> rustix::io::Result<()> {
        let stat = fstat(file)?;
        let is_owned = (stat.st_uid, stat.st_gid) == (self.owner.as_raw(), self.group.as_raw());
        if !is_owned {
            fchown(file, Some(self.owner), Some(self.group))?;
        }
        if !is_owned || Mode::from_raw_mode(stat.st_mode) != self.mode {
            fchmod(file, self.mode)?;
        }
        for (name, value) in &self.xattrs {
            match fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                // Losing a user attribute is harmless where the filesystem has none; losing a capability is not.
                Err(rustix::io::Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Labels belong to the builder's machine, and overlayfs's own attributes would let a layer rewrite the others.
fn is_for_containers(xattr: &[u8]) -> bool {
    xattr != b"security.selinux"
        && !xattr.starts_with(b"trusted.overlay.")
        && !xattr.starts_with(b"user.overlay.")
}

/// Seconds since the epoch as a decimal number, perhaps negative, perhaps with a fraction.
fn parse_time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let (tv_sec, tv_nsec) = (whole.parse().ok()?, digits.parse().ok()?);
    Some(match (whole.starts_with('-'), tv_nsec) {
        (true, 1..) => Timespec { tv_sec: tv_sec - 1, tv_nsec: 1_000_000_000 - tv_nsec },
        _ => Timespec { tv_sec, tv_nsec },
    })
}

/// Both of a file's times, from its one.
pub(crate) fn timestamps(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_be_negative_and_have_fractions() {
        let check = |text: &str, expected: Option<(i64, i64)>| {
            let parsed = parse_time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
            assert_eq!(parsed, expected, "{text}");
        };
        check("12", Some((12, 0)));
        check("12.5", Some((12, 500_000_000)));
        check("12.1234567899", Some((12, 123_456_789)));
        check("-1.25", Some((-2, 750_000_000)));
        check("x", None);
        check("1.x", None);
    }
}
