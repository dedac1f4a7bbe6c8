//! Who can own something, and what must be there: from the records, and from what an agent that runs knows besides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use berth_cgroup::CgroupPath;
use berth_image::{Image, files_of_images, files_of_unreadable};
use berth_net::{Forward, IfName};
use berth_store::{Loaded, Quarantined, Record, Store};
use ipnet::IpNet;

use super::look::object;
use super::{Grip, Kind, Object, Places, Tie, is_id};
use crate::doubt::Doubt;
use crate::error::Result;
use crate::record::{ContainerRecord, NetworkRecord, SandboxPhase, SandboxRecord};
use crate::sandbox::cgroups_of;

/// Who owns what at one moment.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    pub(crate) pods: BTreeSet<String>,
    pub(crate) containers: BTreeSet<String>,
    /// Those whose records can't be read and what belongs to them, by id, and what it is called.
    pub(crate) doubts: BTreeMap<String, String>,
    /// By their rows' keys, what those are called.
    pub(crate) doubted_rows: BTreeMap<String, String>,
    /// By the port, its pod's id.
    pub(crate) forwards: HashMap<Forward, String>,
    pub(crate) subnets: Vec<IpNet>,
    /// Paths in the image store that somebody needs.
    pub(crate) stored: HashSet<PathBuf>,
    pub(crate) wanted: Vec<Wanted>,
}

/// Something that has to be there.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// As the object is called, for a process without its pid.
    pub(crate) name: String,
    pub(crate) owner: String,
}

/// What an agent that runs knows, whatever is on record.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Those that have a driver.
    pub(crate) pods: BTreeSet<String>,
    pub(crate) containers: BTreeSet<String>,
    pub(crate) subnets: Vec<IpNet>,
    pub(crate) stored: HashSet<PathBuf>,
}

/// What the database holds: records that can be read, and everything there is as objects.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) sandboxes: Vec<SandboxRecord>,
    pub(crate) containers: Vec<ContainerRecord>,
    images: Vec<Image>,
    network: Vec<NetworkRecord>,
    pub(crate) doubts: Vec<Doubt>,
    /// Keys of images whose records can't be read.
    doubted_images: Vec<String>,
    pub(crate) objects: Vec<Object>,
}

impl Rows {
    /// Reads them all and changes none.
    pub(crate) async fn read(store: &Store) -> Result<Self> {
        let mut unreadable = BTreeMap::new();
        let sandboxes = sorted(store.peek::<SandboxRecord>().await?, &mut unreadable);
        let containers = sorted(store.peek::<ContainerRecord>().await?, &mut unreadable);
        let images = sorted(store.peek::<Image>().await?, &mut unreadable);
        let network = sorted(store.peek::<NetworkRecord>().await?, &mut unreadable);
        let set_aside = store.set_aside().await?;
        let mut doubts: Vec<_> = set_aside.iter().filter_map(Doubt::of_row).collect();
        doubts.extend(unreadable.keys().filter_map(|(table, key)| Doubt::new(table, key, "")));
        let of_images = |table: &str| table == Image::TABLE;
        let doubted_images = (set_aside.iter().map(|row| (&row.table, &row.key)))
            .chain(unreadable.keys().map(|(table, key)| (table, key)))
            .filter(|(table, _)| of_images(table))
            .map(|(_, key)| key.clone())
            .collect();
        let reasons: HashMap<_, _> =
            set_aside.iter().map(|row| ((row.table.as_str(), row.key.as_str()), &row.reason)).collect();
        let pods_of: HashMap<&str, &str> =
            containers.iter().map(|record| (record.id.as_str(), record.pod.as_str())).collect();
        let mut objects = Vec::new();
        for row in store.keys().await? {
            let tie = match (row.set_aside, unreadable.get(&(row.table.clone(), row.key.clone()))) {
                (true, _) => {
                    let reason = reasons.get(&(row.table.as_str(), row.key.as_str()));
                    Tie::Unreadable(reason.map_or_else(String::new, |reason| (*reason).clone()))
                }
                (false, Some(reason)) => Tie::Unreadable(reason.clone()),
                (false, None) if row.table == SandboxRecord::TABLE => Tie::Id(row.key.clone()),
                (false, None) if row.table == ContainerRecord::TABLE => match pods_of.get(row.key.as_str()) {
                    Some(pod) => Tie::Id((*pod).to_owned()),
                    // Written since the records were read.
                    None => Tie::Agent,
                },
                (false, None) => Tie::Agent,
            };
            objects.push(object(Kind::Row, &row.to_string(), tie, Grip::Row(row)));
        }
        Ok(Self { sandboxes, containers, images, network, doubts, doubted_images, objects })
    }

    /// Cgroups of pods in doubt below parents that their requests named, where no look finds them.
    pub(crate) fn doubted_cgroups(&self, places: &Places) -> Vec<Object> {
        let parent_of = |doubt: &Doubt| CgroupPath::from_parent(doubt.cgroup_parent()?).ok();
        let pods = self.doubts.iter().filter(|doubt| doubt.is_pod());
        let mut objects = Vec::new();
        for (pod, parent) in pods.filter_map(|pod| Some((pod, parent_of(pod)?))) {
            let of_pod = |id: &&str| self.pod_in_doubt(id) == Some(&pod.id);
            let doubted = self.doubts.iter().map(|doubt| doubt.id.as_str());
            let ids =
                self.containers.iter().map(|container| container.id.as_str()).chain(doubted).filter(of_pod);
            for id in ids.chain(pod.ids()) {
                let Ok(path) = parent.join(id) else { continue };
                if is_id(id) && places.cgroups.open(&path).exists() {
                    let name = path.as_str().to_owned();
                    objects.push(object(Kind::Cgroup, &name, Tie::Id(id.to_owned()), Grip::Cgroup(path)));
                }
            }
        }
        objects
    }

    /// The pod in doubt that a container belongs to.
    fn pod_in_doubt(&self, container: &str) -> Option<&String> {
        let recorded = self.containers.iter().find(|record| record.id.as_str() == container);
        let doubted = || self.doubts.iter().find(|doubt| doubt.id == container)?.pod();
        let pod = recorded.map(|record| record.pod.as_str()).or_else(doubted)?;
        self.doubts.iter().find(|doubt| doubt.is_pod() && doubt.may_be(pod)).map(|doubt| &doubt.id)
    }

    /// What each id that is in doubt is called: what belongs to a pod in doubt goes by the pod's name.
    fn labels_of_doubts(&self) -> BTreeMap<String, String> {
        let labels: BTreeMap<String, String> = self
            .doubts
            .iter()
            .flat_map(|doubt| doubt.ids().map(|id| (id.to_owned(), doubt.label())))
            .collect();
        let recorded = self.containers.iter().map(|record| record.id.as_str());
        let doubted = self.doubts.iter().filter(|doubt| !doubt.is_pod()).map(|doubt| doubt.id.as_str());
        let of_pods = recorded.chain(doubted).filter_map(|container| {
            Some((container.to_owned(), labels.get(self.pod_in_doubt(container)?)?.clone()))
        });
        let of_pods: Vec<_> = of_pods.collect();
        labels.into_iter().chain(of_pods).collect()
    }

    /// What images whose records can't be read need of the store.
    pub(crate) fn doubted_files(&self, places: &Places) -> HashSet<PathBuf> {
        self.doubted_images.iter().flat_map(|key| files_of_unreadable(&places.images(), key)).collect()
    }

    /// What is known where no agent runs.
    pub(crate) fn known_without_agent(&self, places: &Places) -> Known {
        let given = self.network.first().map(|record| record.subnets.all());
        Known {
            pods: self.sandboxes.iter().map(|record| record.id.to_string()).collect(),
            containers: BTreeSet::new(),
            subnets: given.unwrap_or_else(|| places.survey.configured_subnets().to_vec()),
            stored: files_of_images(&places.images(), &self.images),
        }
    }
}

/// The rows that nobody understands, each with the reason.
pub(super) async fn unreadable_rows(store: &Store) -> Result<Vec<String>> {
    let rows = Rows::read(store).await?;
    let unreadable = rows.objects.into_iter().filter_map(|row| match row.tie {
        Tie::Unreadable(reason) => Some(format!("{}: {reason}", row.name)),
        Tie::Agent | Tie::Id(_) | Tie::IfKnown(_) | Tie::Name => None,
    });
    Ok(unreadable.collect())
}

fn sorted<R>(loaded: Loaded<R>, unreadable: &mut BTreeMap<(String, String), String>) -> Vec<R> {
    let reasons = loaded.quarantined.into_iter();
    unreadable
        .extend(reasons.map(|Quarantined { table, key, reason, .. }| ((table.to_owned(), key), reason)));
    loaded.records
}

impl Owners {
    /// Puts together what is known and what is on record. Asks the kernel for cgroups below parents that requests named.
    pub(crate) fn new(known: Known, rows: &Rows, places: &Places) -> Self {
        let Known { pods, mut containers, subnets, mut stored } = known;
        stored.extend(rows.doubted_files(places));
        let mut doubts = rows.labels_of_doubts();
        doubts.retain(|id, _| !pods.contains(id) && !containers.contains(id));
        let of_known_pods = rows.containers.iter().filter(|record| pods.contains(record.pod.as_str()));
        containers.extend(of_known_pods.map(|record| record.id.to_string()));
        let called = |doubt: &Doubt| Some((doubt.key.clone(), doubts.get(&doubt.id)?.clone()));
        let doubted_rows = rows.doubts.iter().filter_map(called).collect();
        let mut owners = Self { pods, containers, doubts, doubted_rows, subnets, stored, ..Self::default() };
        for record in rows.sandboxes.iter().filter(|record| owners.pods.contains(record.id.as_str())) {
            if record.phase != SandboxPhase::NotReady {
                let forwards = Forward::all(&record.spec.ports, &record.addresses).unwrap_or_default();
                owners.forwards.extend(forwards.into_iter().map(|forward| (forward, record.id.to_string())));
            }
        }
        for doubt in &rows.doubts {
            let forwards = doubt.forwards().into_iter().map(|forward| (forward, doubt.id.clone()));
            for (forward, id) in forwards {
                owners.forwards.entry(forward).or_insert(id);
            }
        }
        let mut wanted = Vec::new();
        let sandboxes: HashMap<_, _> = rows.sandboxes.iter().map(|record| (&record.id, record)).collect();
        for record in sandboxes.values().filter(|record| owners.pods.contains(record.id.as_str())) {
            wanted.extend(wanted_of_sandbox(record, places));
        }
        for record in &rows.containers {
            if let Some(pod) = sandboxes.get(&record.pod).filter(|pod| owners.pods.contains(pod.id.as_str()))
            {
                wanted.extend(wanted_of_container(record, pod, places));
            }
        }
        for (kind, directory) in [(Kind::Layer, "layers"), (Kind::Blob, "blobs")] {
            let directory = places.images().join(directory);
            let of_images = files_of_images(&places.images(), &rows.images);
            wanted.extend(
                of_images.into_iter().filter(|path| path.starts_with(&directory)).map(|path| Wanted {
                    kind,
                    name: path.display().to_string(),
                    owner: "images".to_owned(),
                }),
            );
        }
        owners.wanted = wanted;
        owners
    }

    /// The pod or container with this id, or with an id that begins so.
    pub(crate) fn of_id(&self, id: &str) -> Option<String> {
        let within = |ids: &BTreeSet<String>| {
            ids.range(id.to_owned()..).next().filter(|found| found.starts_with(id)).cloned()
        };
        let pod = within(&self.pods).map(|id| format!("pod {id}"));
        pod.or_else(|| within(&self.containers).map(|id| format!("container {id}")))
    }

    /// What it belongs to, if that is in doubt.
    pub(crate) fn doubt_of(&self, object: &Object) -> Option<String> {
        let id = match (&object.tie, &object.grip) {
            (Tie::Id(id) | Tie::IfKnown(id), _) => id,
            // As it is: a shorter key than an id is the beginning of none.
            (Tie::Unreadable(_), Grip::Row(row)) => return self.doubted_rows.get(&row.key).cloned(),
            (Tie::Name, Grip::Forward(forward)) => self.forwards.get(forward)?,
            (Tie::Agent | Tie::Name | Tie::Unreadable(_), _) => return None,
        };
        let found = self.doubts.range(id.clone()..).next().filter(|(found, _)| found.starts_with(id));
        found.map(|(_, label)| label.clone())
    }

    /// The owner of what is known by its whole name.
    pub(crate) fn of_object(&self, object: &Object) -> Option<String> {
        match &object.grip {
            Grip::Forward(forward) => {
                let pod = self.forwards.get(forward).filter(|pod| !self.doubts.contains_key(*pod));
                pod.map(|pod| format!("pod {pod}"))
            }
            Grip::Subnet(subnet) => {
                self.subnets.iter().any(|served| served.trunc() == *subnet).then(|| "agent".to_owned())
            }
            Grip::Stored(path) => self.stored.contains(path).then(|| "images".to_owned()),
            Grip::None
            | Grip::Process(_)
            | Grip::Mount(_)
            | Grip::Cgroup(_)
            | Grip::Link(_)
            | Grip::Path(_)
            | Grip::Lease(_)
            | Grip::Row(_) => None,
        }
    }
}

/// Of a pod that is ready; one that is not may have lost anything, and keeps its name and addresses only.
fn wanted_of_sandbox(record: &SandboxRecord, places: &Places) -> Vec<Wanted> {
    if record.phase != SandboxPhase::Ready {
        return Vec::new();
    }
    let id = record.id.as_str();
    let state = places.state.join("pods").join(id);
    let socket = state.join(berth_monitor::protocol::SOCKET_NAME);
    let mut names = vec![
        (Kind::Process, format!("berth-monitor: {id}")),
        (Kind::Process, format!("pause: {id}")),
        (Kind::Socket, socket.display().to_string()),
        (Kind::File, state.display().to_string()),
        (Kind::File, places.root.join("pods").join(id).display().to_string()),
    ];
    if let (false, Ok(link)) = (record.addresses == Default::default(), IfName::from_pod_id(id)) {
        names.push((Kind::Link, link.as_str().to_owned()));
    }
    let forwards = Forward::all(&record.spec.ports, &record.addresses).unwrap_or_default();
    names.extend(forwards.iter().map(|forward| (Kind::Port, forward.to_string())));
    if let Ok(cgroups) = cgroups_of(&record.id, &record.spec, &places.cgroup_root, places.cgroups.layout())
        && !places.cgroups.open(&cgroups.sandbox).exists()
    {
        names.push((Kind::Cgroup, cgroups.sandbox.as_str().to_owned()));
    }
    let owner = format!("pod {id}");
    // The sandbox's own cgroup is looked for above: it may lie where only a record leads.
    names.into_iter().map(|(kind, name)| Wanted { kind, name, owner: owner.clone() }).collect()
}

fn wanted_of_container(record: &ContainerRecord, pod: &SandboxRecord, places: &Places) -> Vec<Wanted> {
    let id = record.id.as_str();
    let directory = places.root.join("containers").join(id);
    let mut names = Vec::new();
    if record.state.seen().is_some() {
        names.push((Kind::File, directory.display().to_string()));
    }
    let cgroup = cgroups_of(&pod.id, &pod.spec, &places.cgroup_root, places.cgroups.layout())
        .and_then(|cgroups| Ok(cgroups.base.join(id)?))
        .ok()
        .filter(|path| record.state.is_alive() && !places.cgroups.open(path).exists());
    names.extend(cgroup.map(|path| (Kind::Cgroup, path.as_str().to_owned())));
    let owner = format!("container {id}");
    names.into_iter().map(|(kind, name)| Wanted { kind, name, owner: owner.clone() }).collect()
}
