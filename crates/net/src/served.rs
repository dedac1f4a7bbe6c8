//! The subnets that pods get addresses of, and how they change while pods run.
//!
//! Pure. The settings name subnets; a pod CIDR that a client gives (CRI `UpdateRuntimeConfig`) takes their place, for
//! new pods only. The subnet of a pod that has an address already is *retired*: it keeps its gateway and its rules
//! until its last pod is gone. So the bridge may carry several gateways of a family, and must not carry two whose
//! subnets overlap: a retired pod could have the new gateway's address.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address::overlap;
use crate::error::{Error, Result};

/// The subnets in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedSubnets {
    /// Of these new pods get addresses, the primary one first. Empty while a pod CIDR is awaited.
    pub current: Vec<IpNet>,
    /// Of these some pods still have addresses.
    pub retired: Vec<IpNet>,
}

impl ServedSubnets {
    /// All subnets that need a gateway and rules.
    pub fn all(&self) -> Vec<IpNet> {
        [self.current.clone(), self.retired.clone()].concat()
    }

    /// The same with `wanted` for new pods; what has been in force is retired.
    ///
    /// `leased` are the addresses that pods have.
    /// Errors: wrong state, when a wanted subnet overlaps with another one in which a pod has an address.
    pub(crate) fn renumbered(&self, wanted: &[IpNet], leased: &[IpAddr]) -> Result<Self> {
        let retired: Vec<IpNet> = self.all().into_iter().filter(|subnet| !wanted.contains(subnet)).collect();
        for subnet in wanted {
            let clash = retired.iter().find(|old| overlap(old, subnet) && is_used(old, leased));
            if let Some(old) = clash {
                return Err(Error::SubnetInUse { subnet: *subnet, overlaps: *old });
            }
        }
        // One that overlaps and has no pod is not kept, even if a pod is being made in it: that pod fails to attach.
        let kept = |old: &IpNet| !wanted.iter().any(|subnet| overlap(old, subnet));
        Ok(Self { current: wanted.to_vec(), retired: retired.into_iter().filter(kept).collect() })
    }

    /// The same without retired subnets that no pod uses any more.
    pub(crate) fn pruned(&self, leased: &[IpAddr]) -> Self {
        let retired = self.retired.iter().filter(|subnet| is_used(subnet, leased)).copied().collect();
        Self { current: self.current.clone(), retired }
    }
}

fn is_used(subnet: &IpNet, leased: &[IpAddr]) -> bool {
    leased.iter().any(|address| subnet.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::ErrorKind;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn subnets_with_pods_are_retired_and_go_with_their_last_pod() {
        let check = |wanted: &[&str], leased: &[&str], retired: &[&str]| {
            let served = ServedSubnets { current: nets(&["10.88.0.0/16", "fd62::/64"]), retired: vec![] };
            let leased: Vec<IpAddr> = leased.iter().map(|ip| ip.parse().unwrap()).collect();
            let after = served.renumbered(&nets(wanted), &leased).unwrap();
            assert_eq!(after.current, nets(wanted));
            assert_eq!(after.pruned(&leased).retired, nets(retired), "{wanted:?} {leased:?}");
        };
        check(&["10.99.0.0/24"], &[], &[]);
        check(&["10.99.0.0/24"], &["10.88.0.2", "fd62::2"], &["10.88.0.0/16", "fd62::/64"]);
        check(&["10.99.0.0/24", "fd62::/64"], &["10.88.0.2", "fd62::2"], &["10.88.0.0/16"]);
        check(&["10.88.1.0/24"], &[], &[]);
        check(&["10.88.0.0/16", "fd62::/64"], &["10.88.0.2"], &[]);
    }

    #[test]
    fn a_subnet_that_overlaps_with_one_in_use_is_refused() {
        let served = ServedSubnets { current: nets(&["10.88.0.0/16"]), retired: vec![] };
        let error = served.renumbered(&nets(&["10.88.1.0/24"]), &["10.88.7.7".parse().unwrap()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState);
        assert_eq!(
            error.to_string(),
            "give pods subnet 10.88.1.0/24: pods still have addresses of 10.88.0.0/16"
        );
    }
}
