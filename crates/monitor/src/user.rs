//! Names of users and groups, looked up in the files of the image.
//!
//! Runs in the container's own root, after pivot_root, so that no symlink can lead to the host's files; what is not
//! a regular file is refused (a fifo would hang the launch), and no more than [`MAX_FILE_BYTES`] are read.
//! Source: passwd(5), group(5); CRI `LinuxContainerSecurityContext.run_as_username`, `supplemental_groups_policy`.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

use crate::plan::{NameOrId, UserPlan};
use crate::protocol::ResolvedUser;
use crate::root_dir::RootDir;

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A passwd or group file beyond this is refused: real ones are a few KiB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why a user can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("no user {0:?} in the image's /etc/passwd")]
    NoUser(String),
    #[error("no group {0:?} in the image's /etc/group")]
    NoGroup(String),
    #[error("read the image's {file}")]
    Read { file: &'static str, source: Errno },
}

/// Finds numbers, groups and home for `plan`, below the current root.
pub(crate) fn resolve(plan: &UserPlan) -> Result<ResolvedUser, UserError> {
    let open_here = |file: &Path| open(file, FLAGS, Mode::empty());
    resolve_in(plan, &read_file("/etc/passwd", open_here)?, &read_file("/etc/group", open_here)?)
}

/// The same below a root that is not the current one yet.
pub(crate) fn resolve_in_root(plan: &UserPlan, root: &RootDir) -> Result<ResolvedUser, UserError> {
    let open_there = |file: &Path| root.open(file, FLAGS);
    resolve_in(plan, &read_file("/etc/passwd", open_there)?, &read_file("/etc/group", open_there)?)
}

fn resolve_in(plan: &UserPlan, passwd: &str, group: &str) -> Result<ResolvedUser, UserError> {
    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| match &plan.user {
        NameOrId::Id(uid) => entry.uid == *uid,
        NameOrId::Name(name) => entry.name == name,
    });
    let uid = match (&plan.user, &entry) {
        (NameOrId::Id(uid), _) => *uid,
        (NameOrId::Name(_), Some(entry)) => entry.uid,
        (NameOrId::Name(name), None) => return Err(UserError::NoUser(name.clone())),
    };
    let groups = || group.lines().filter_map(GroupEntry::parse);
    let gid = match &plan.group {
        Some(NameOrId::Id(gid)) => *gid,
        Some(NameOrId::Name(name)) => {
            groups().find(|g| g.name == name).ok_or_else(|| UserError::NoGroup(name.clone()))?.gid
        }
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut all_groups = vec![gid];
    if let (true, Some(entry)) = (plan.merge_image_groups, &entry) {
        all_groups.extend(groups().filter(|g| g.has_member(entry.name)).map(|g| g.gid));
    }
    all_groups.extend(&plan.supplemental);
    let mut seen = std::collections::BTreeSet::new();
    all_groups.retain(|gid| seen.insert(*gid));
    let home = entry.map(|entry| entry.home.to_owned()).filter(|home| !home.is_empty());
    Ok(ResolvedUser { uid, gid, groups: all_groups, home })
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_gecos, home) = (fields.next(), fields.next().unwrap_or_default());
        Some(Self { name, uid, gid, home })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Self { name, gid: fields.next()?.parse().ok()?, members: fields.next().unwrap_or_default() })
    }

    fn has_member(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member.trim() == user)
    }
}

/// An absent file reads as empty: many images have neither.
fn read_file(
    file: &'static str,
    open: impl Fn(&Path) -> Result<OwnedFd, Errno>,
) -> Result<String, UserError> {
    let fail = |source| UserError::Read { file, source };
    let fd = match open(Path::new(file)) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        opened => opened.map_err(fail)?,
    };
    let stat = fstat(&fd).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail(Errno::INVAL));
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::from(fd).take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    match read {
        Ok(length) if length as u64 > MAX_FILE_BYTES => Err(fail(Errno::FBIG)),
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(fail(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken line\nweb:x:1000:50:::\nweb2:x:1001:51::/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:\nextra:x:60:other,web\ncrew:x:70:web, web2\n";

    fn check(
        user: NameOrId,
        group: Option<NameOrId>,
        supplemental: &[u32],
        merge: bool,
    ) -> Result<(u32, u32, Vec<u32>), String> {
        let plan = UserPlan { user, group, supplemental: supplemental.to_vec(), merge_image_groups: merge };
        resolve_in(&plan, PASSWD, GROUP).map(|u| (u.uid, u.gid, u.groups)).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_and_names_find_their_groups() {
        let name = |name: &str| NameOrId::Name(name.to_owned());
        for (user, group, supplemental, merge, want) in [
            (NameOrId::Id(0), None, &[][..], true, (0, 0, vec![0])),
            (NameOrId::Id(4242), None, &[7], true, (4242, 0, vec![0, 7])),
            (NameOrId::Id(1000), None, &[], true, (1000, 50, vec![50, 60, 70])),
            (NameOrId::Id(1000), None, &[60, 80], false, (1000, 50, vec![50, 60, 80])),
            (name("web2"), Some(name("staff")), &[], true, (1001, 50, vec![50, 70])),
            (name("web"), Some(NameOrId::Id(9)), &[9], false, (1000, 9, vec![9])),
        ] {
            assert_eq!(check(user.clone(), group, supplemental, merge), Ok(want), "{user:?}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_names_it() {
        assert!(check(NameOrId::Name("nobody".into()), None, &[], true).unwrap_err().contains("nobody"));
        let group = Some(NameOrId::Name("wheel".into()));
        assert!(check(NameOrId::Id(0), group, &[], true).unwrap_err().contains("wheel"));
    }

    #[test]
    fn the_home_directory_is_that_of_the_entry() {
        let plan = UserPlan {
            user: NameOrId::Id(1001),
            group: None,
            supplemental: vec![],
            merge_image_groups: true,
        };
        assert_eq!(resolve_in(&plan, PASSWD, GROUP).unwrap().home.as_deref(), Some("/srv"));
    }
}
