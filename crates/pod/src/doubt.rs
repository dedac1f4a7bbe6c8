//! Pods and containers whose records can't be read: written by a later version, cut, or overwritten. Their rows are set
//! aside, and nobody drives them.
//!
//! What belongs to them runs on, and is neither taken for left nor kept in silence: their addresses and ports of the host
//! stay theirs and their images stay, as far as the text of the record tells; the inventory and the node's status name
//! them. They go when someone removes them, by their id or by a repair. Their names are free: whoever wants such a pod
//! makes it anew.
//!
//! A row that is no record is *unreadable*. When it is loaded, it is *set aside*, in the table `quarantine`. A pod or
//! container that such a row may be of is a *doubt*.

use std::net::IpAddr;

use berth_image::{ImageId, ImageStore};
use berth_net::{Forward, PodAddresses, PortMapping};
use berth_store::{Record, SetAside, with_causes};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::host::Host;
use crate::inventory::is_id;
use crate::record::{ContainerRecord, SandboxRecord};

/// A pod or container of which at most the id is certain.
#[derive(Debug, Clone)]
pub(crate) struct Doubt {
    pub(crate) id: String,
    /// What its text says that its id is, where that is something else: nobody can tell which of the two there is.
    other_id: Option<String>,
    /// Its row's key: its id, or nothing that is one.
    pub(crate) key: String,
    kind: Kind,
    text: String,
    /// Null where the text is no JSON.
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Container,
}

impl Doubt {
    /// From a row that was set aside; `None` where it is of something else.
    pub(crate) fn of_row(row: &SetAside) -> Option<Self> {
        Self::new(&row.table, &row.key, &row.text)
    }

    /// From what is known of a row.
    pub(crate) fn new(table: &str, key: &str, text: &str) -> Option<Self> {
        let kind = match table {
            SandboxRecord::TABLE => Kind::Pod,
            ContainerRecord::TABLE => Kind::Container,
            _ => return None,
        };
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let said = value.get("id").and_then(Value::as_str).filter(|id| is_id(id)).map(str::to_owned);
        let (id, other_id) = match is_id(key) {
            true => (key.to_owned(), said.filter(|said| said != key)),
            false => (said?, None),
        };
        Some(Self { id, other_id, key: key.to_owned(), kind, text: text.to_owned(), value })
    }

    /// Its id, or the two of which one is.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        [self.id.as_str()].into_iter().chain(self.other_id.as_deref())
    }

    /// Whether this may be what has the id.
    pub(crate) fn may_be(&self, id: &str) -> bool {
        self.ids().any(|own| own == id)
    }

    /// As the inventory calls it.
    pub(crate) fn label(&self) -> String {
        let kind = if self.is_pod() { "pod" } else { "container" };
        format!("{kind} {}, whose record can't be read", self.id)
    }

    pub(crate) fn is_pod(&self) -> bool {
        self.kind == Kind::Pod
    }

    /// A container's pod.
    pub(crate) fn pod(&self) -> Option<&str> {
        self.value.get("pod")?.as_str().filter(|id| is_id(id))
    }

    /// The cgroup parent that the request for a pod named.
    pub(crate) fn cgroup_parent(&self) -> Option<&str> {
        self.value.get("spec")?.get("cgroup_parent")?.as_str()
    }

    /// A pod's addresses; where the text does not tell them any more, every address in it: one that is kept back for
    /// nothing costs less than one that two pods have.
    pub(crate) fn addresses(&self) -> PodAddresses {
        let told: Option<PodAddresses> = self.part(&["addresses"]).filter(|_| self.is_pod());
        told.unwrap_or_else(|| {
            let words = self.text.split('"').filter(|_| self.is_pod());
            words.filter_map(|word| word.parse::<IpAddr>().ok()).collect()
        })
    }

    /// The ports of the host that lead to it, if it was ready.
    pub(crate) fn forwards(&self) -> Vec<Forward> {
        let ready = self.value.get("phase").and_then(Value::as_str) == Some("Ready");
        let ports: Vec<PortMapping> = self.part(&["spec", "ports"]).filter(|_| ready).unwrap_or_default();
        let addresses: PodAddresses = self.part(&["addresses"]).unwrap_or_default();
        Forward::all(&ports, &addresses).unwrap_or_default()
    }

    fn ports(&self) -> Vec<PortMapping> {
        if self.forwards().is_empty() {
            Vec::new()
        } else {
            self.part(&["spec", "ports"]).unwrap_or_default()
        }
    }

    /// The images that it uses, by who holds them.
    fn images(&self) -> Vec<(String, ImageId)> {
        let own: Option<ImageId> = self.part(&["image"]);
        let volumes = self.value.get("volume_images").and_then(Value::as_object).into_iter().flatten();
        let volumes = volumes.filter_map(|(_, id)| serde_json::from_value(id.clone()).ok());
        let holder = |index: usize| format!("{}/doubt-{index}", self.id);
        own.into_iter().chain(volumes).enumerate().map(|(index, image)| (holder(index), image)).collect()
    }

    fn part<T: DeserializeOwned>(&self, path: &[&str]) -> Option<T> {
        let found = path.iter().try_fold(&self.value, |value, key| value.get(key))?;
        serde_json::from_value(found.clone()).ok()
    }
}

/// Keeps from others what belongs to these, when an agent starts. What somebody else has by now is told in the log.
pub(crate) fn reserve(host: &Host, doubts: &[Doubt]) {
    for doubt in doubts {
        let refused = |what: &str, error: &dyn std::error::Error| {
            tracing::warn!(id = doubt.id, what, error = with_causes(error), "not kept for a record in doubt");
        };
        let others = host.leases().keep(&doubt.id, &doubt.addresses());
        if others != PodAddresses::default() {
            // Not alarming: pods whose records are cut have their name servers in common.
            tracing::info!(id = doubt.id, addresses = %others, "an address that a record in doubt names is another's");
        }
        if let Err(error) = host.ports().claim(&doubt.id, &doubt.ports()) {
            refused("host ports", &error);
        }
        for (holder, image) in doubt.images() {
            if let Err(error) = host.images.pin(&image, &holder) {
                refused("image", &error);
            }
        }
    }
}

/// Gives it all back; the kernel's part of it is the inventory's.
pub(crate) fn release(host: &Host, doubt: &Doubt) {
    host.leases().release(&doubt.id);
    host.ports().release(&doubt.id);
    unpin(&host.images, doubt);
}

fn unpin(images: &ImageStore, doubt: &Doubt) {
    doubt.images().iter().for_each(|(holder, _)| images.unpin(holder));
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";

    fn addresses(text: &str) -> String {
        Doubt::new("sandboxes", POD, text).unwrap().addresses().to_string()
    }

    #[test]
    fn addresses_are_found_in_whatever_is_left_of_a_record() {
        assert_eq!(addresses(r#"{"addresses":["10.0.0.2","fd62::2"],"new":1}"#), "10.0.0.2,fd62::2");
        assert_eq!(
            addresses(r#"{"addresses":["10.0.0.2"],"spec":{"dns":{"servers":["10.96.0.10"]}}}"#),
            "10.0.0.2"
        );
        assert_eq!(addresses(r#"esses":["10.0.0.2","fd6"#), "10.0.0.2");
        assert_eq!(addresses("\u{fffd}\0"), "");
    }

    #[test]
    fn what_a_later_version_says_is_understood_in_part() {
        let digest = format!("sha256:{POD}");
        let text = serde_json::json!({
            "pod": POD, "image": digest, "volume_images": {"/x": digest, "/y": 7}, "state": {"Frozen": 1},
            "spec": {"cgroup_parent": "/kubepods/x"},
        });
        let doubt = Doubt::new("containers", POD, &text.to_string()).unwrap();
        assert_eq!((doubt.pod(), doubt.cgroup_parent()), (Some(POD), Some("/kubepods/x")));
        assert_eq!(doubt.images().len(), 2);
        assert!(doubt.forwards().is_empty());
        assert!(Doubt::new("images", POD, "").is_none());
        assert!(Doubt::new("sandboxes", "../x", "").is_none());
    }

    #[test]
    fn a_record_under_another_key_may_be_of_either_id() {
        let other = "b".repeat(64);
        let text = format!(r#"{{"id":"{POD}"}}"#);
        let check = |key: &str, ids: &[&str]| {
            let doubt = Doubt::new("sandboxes", key, &text).unwrap();
            assert_eq!(doubt.ids().collect::<Vec<_>>(), ids, "{key}");
        };
        check(POD, &[POD]);
        check(&other, &[&other, POD]);
        check("\u{fffd}", &[POD]);
    }
}
