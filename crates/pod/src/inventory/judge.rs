//! What is owned, what is left and what is missing: objects and owners in, a verdict on each out. Pure.
//!
//! What belongs to a pod or container whose record can't be read is neither owned nor left.

use std::collections::HashSet;

use super::{Grip, Item, Kind, Object, Owners, Standing, Tie};

/// An object with its verdict; for what is missing, the object that should be there.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    pub(crate) object: Object,
    pub(crate) standing: Standing,
    pub(crate) owner: Option<String>,
}

impl Judged {
    pub(crate) fn is_suspect(&self) -> bool {
        matches!(self.standing, Standing::Left | Standing::Missing)
    }

    /// Whether it is a row with this key, and to be discarded.
    pub(crate) fn is_row_in_doubt(&self, key: &str) -> bool {
        let is_its_row = matches!(&self.object.grip, Grip::Row(row) if row.key == key);
        self.standing == Standing::Unreadable && is_its_row
    }

    /// What tells it from all others.
    pub(crate) fn key(&self) -> (Standing, Kind, String) {
        (self.standing, self.object.kind, self.object.name.clone())
    }

    /// As those who ask see it.
    pub(crate) fn item(&self, outcome: Option<String>) -> Item {
        Item {
            standing: self.standing,
            kind: self.object.kind,
            name: self.object.name.clone(),
            owner: self.owner.clone(),
            outcome,
        }
    }
}

/// Says of each object whose it is, and names what is missing; by kind and name.
pub(crate) fn judge(objects: Vec<Object>, owners: &Owners) -> Vec<Judged> {
    let mut present: HashSet<(Kind, &str)> =
        objects.iter().map(|object| (object.kind, object.name.as_str())).collect();
    present.extend(objects.iter().filter_map(|object| Some((object.kind, without_pid(&object.name)?))));
    let missing: Vec<Judged> = owners
        .wanted
        .iter()
        .filter(|wanted| !present.contains(&(wanted.kind, wanted.name.as_str())))
        .map(|wanted| Judged {
            object: Object { kind: wanted.kind, name: wanted.name.clone(), tie: Tie::Name, grip: Grip::None },
            standing: Standing::Missing,
            owner: Some(wanted.owner.clone()),
        })
        .collect();
    let mut judged: Vec<Judged> =
        objects.into_iter().filter_map(|object| judge_one(object, owners)).collect();
    judged.extend(missing);
    judged.sort_by_key(Judged::key);
    judged.sort_by_key(|judged| (judged.object.kind, judged.standing));
    judged.dedup_by_key(|judged| judged.key());
    judged
}

fn judge_one(object: Object, owners: &Owners) -> Option<Judged> {
    let owner = match &object.tie {
        Tie::Agent => Some("agent".to_owned()),
        Tie::Id(id) | Tie::IfKnown(id) => owners.of_id(id),
        Tie::Name => owners.of_object(&object),
        Tie::Unreadable(_) => None,
    };
    let doubt = owners.doubt_of(&object).filter(|_| owner.is_none());
    let standing = match (&object.tie, &owner, &doubt) {
        (Tie::Unreadable(_), _, _) | (_, _, Some(_)) => Standing::Unreadable,
        (_, Some(_), None) => Standing::Owned,
        // Not ours, unless somebody knows it.
        (Tie::IfKnown(_), None, None) => return None,
        (Tie::Agent | Tie::Id(_) | Tie::Name, None, None) => Standing::Left,
    };
    Some(Judged { object, standing, owner: owner.or(doubt) })
}

/// A process is wanted by its title alone.
fn without_pid(name: &str) -> Option<&str> {
    Some(name.rsplit_once(" (pid ")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::owners::Wanted;

    fn object(kind: Kind, name: &str, tie: Tie) -> Object {
        Object { kind, name: name.to_owned(), tie, grip: Grip::None }
    }

    fn verdicts(objects: Vec<Object>, owners: &Owners) -> Vec<String> {
        let line = |judged: Judged| {
            let owner = judged.owner.unwrap_or_else(|| "nobody".to_owned());
            format!("{:?} {} {}: {owner}", judged.standing, judged.object.kind, judged.object.name)
        };
        judge(objects, owners).into_iter().map(line).collect()
    }

    #[test]
    fn each_object_has_an_owner_or_is_left() {
        let (known, unknown) = ("a".repeat(64), "b".repeat(64));
        let doubted = "c".repeat(64);
        let owners = Owners {
            pods: [known.clone()].into(),
            doubts: [(doubted.clone(), "pod c?".to_owned())].into(),
            ..Owners::default()
        };
        let id = |id: &str| Tie::Id(id.to_owned());
        let objects = vec![
            object(Kind::Cgroup, "/berth/a", id(&known)),
            object(Kind::Cgroup, "/berth/b", id(&unknown)),
            object(Kind::Link, "bth-a", id(&known[..12])),
            object(Kind::Link, "bth-b", id(&unknown[..12])),
            object(Kind::Link, "bth-c", id(&doubted[..12])),
            object(Kind::Process, "y (pid 2)", Tie::IfKnown(doubted.clone())),
            object(Kind::Process, "x (pid 1)", Tie::IfKnown(unknown.clone())),
            object(Kind::Row, "quarantine/x", Tie::Unreadable("garbage".into())),
            object(Kind::File, "/root/berth.db", Tie::Agent),
        ];
        let expected = [
            "Unreadable process y (pid 2): pod c?",
            &format!("Owned cgroup /berth/a: pod {known}"),
            "Left cgroup /berth/b: nobody",
            &format!("Owned link bth-a: pod {known}"),
            "Left link bth-b: nobody",
            "Unreadable link bth-c: pod c?",
            "Owned file /root/berth.db: agent",
            "Unreadable row quarantine/x: nobody",
        ];
        assert_eq!(verdicts(objects, &owners), expected);
    }

    #[test]
    fn what_a_record_wants_is_missing_until_it_is_seen() {
        let want = |kind, name: &str| Wanted { kind, name: name.into(), owner: "pod a".into() };
        let owners = Owners {
            wanted: vec![want(Kind::Process, "berth-monitor: a"), want(Kind::Link, "bth-a")],
            ..Owners::default()
        };
        let monitor = object(Kind::Process, "berth-monitor: a (pid 12)", Tie::Agent);
        let expected = ["Owned process berth-monitor: a (pid 12): agent", "Missing link bth-a: pod a"];
        assert_eq!(verdicts(vec![monitor], &owners), expected);
        assert_eq!(verdicts(vec![], &owners).len(), 2);
    }
}
