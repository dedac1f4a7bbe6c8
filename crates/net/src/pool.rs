//! Which pod has which addresses.
//!
//! The pool only remembers; it does no I/O and holds no lock. A lease is durable because the caller writes
//! it into the pod's own record, in the same transaction as the pod, and at start hands every recorded lease
//! back with [`AddressPool::reserve`]. So a lease lives exactly as long as its record and cannot leak;
//! one without a record ends with the process.
//!
//! Addresses are given out by next-fit: the search goes on after the last one given, and wraps. A released
//! address is thus the last to be used again, when peers have forgotten about its former owner.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::{PodAddresses, offset, pod_range};
use crate::error::{Error, Result};

/// The addresses of all subnets, and who has them.
#[derive(Debug)]
pub struct AddressPool {
    ranges: Vec<Range>,
    leases: HashMap<String, PodAddresses>,
    /// All addresses of `leases`.
    taken: HashSet<IpAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    subnet: IpNet,
    first: IpAddr,
    last: IpAddr,
    /// Where the next search begins; between `first` and `last`.
    next: IpAddr,
}

impl AddressPool {
    /// An empty pool; a lease will have one address of each subnet, in this order.
    pub fn new(subnets: &[IpNet]) -> Self {
        let ranges = subnets.iter().map(Range::new).collect();
        Self { ranges, leases: HashMap::new(), taken: HashSet::new() }
    }

    /// From now on leases are of these subnets; those that there are stay.
    pub fn renumber(&mut self, subnets: &[IpNet]) {
        let known = |subnet: &IpNet| self.ranges.iter().find(|range| range.subnet == *subnet).copied();
        self.ranges =
            subnets.iter().map(|subnet| known(subnet).unwrap_or_else(|| Range::new(subnet))).collect();
    }

    /// Who has addresses, and which.
    pub fn leases(&self) -> impl Iterator<Item = (&str, &PodAddresses)> {
        self.leases.iter().map(|(owner, addresses)| (owner.as_str(), addresses))
    }

    /// Every address that somebody has.
    pub fn taken(&self) -> Vec<IpAddr> {
        self.taken.iter().copied().collect()
    }

    /// A subnet in which no address is free.
    pub fn exhausted(&self) -> Option<IpNet> {
        self.ranges.iter().find(|range| range.search(&self.taken).is_none()).map(|range| range.subnet)
    }

    /// Gives `owner` an address of each subnet, or the same ones again if it has some.
    ///
    /// Errors: exhausted, naming the subnet, or unavailable while there are no subnets; nothing is taken then.
    pub fn lease(&mut self, owner: &str) -> Result<PodAddresses> {
        if let Some(addresses) = self.leases.get(owner) {
            return Ok(addresses.clone());
        }
        if self.ranges.is_empty() {
            return Err(Error::AwaitingPodCidr);
        }
        let free = |range: &Range| {
            range.search(&self.taken).ok_or(Error::AddressesExhausted { subnet: range.subnet })
        };
        let addresses = self.ranges.iter().map(free).collect::<Result<PodAddresses>>()?;
        self.record(owner, &addresses);
        Ok(addresses)
    }

    /// Puts back a lease that was recorded earlier. An address outside the subnets, from before a change of
    /// the settings, is kept as well.
    ///
    /// Errors: exists, when another owner has one of the addresses; nothing is taken then.
    pub fn reserve(&mut self, owner: &str, addresses: &PodAddresses) -> Result<()> {
        if self.leases.get(owner) == Some(addresses) {
            return Ok(());
        }
        if let Some(address) = addresses.iter().find(|ip| self.taken.contains(ip)) {
            return Err(Error::AddressTaken { address, owner: owner.into() });
        }
        self.release(owner);
        self.record(owner, addresses);
        Ok(())
    }

    /// Keeps for `owner` what nobody else has of addresses that may be its, and returns the others.
    pub fn keep(&mut self, owner: &str, addresses: &PodAddresses) -> PodAddresses {
        self.release(owner);
        let (others, own) = addresses.iter().partition::<Vec<_>, _>(|ip| self.taken.contains(ip));
        self.record(owner, &own.into_iter().collect());
        others.into_iter().collect()
    }

    /// Takes the owner's addresses back; an owner that has none is fine.
    pub fn release(&mut self, owner: &str) {
        for address in self.leases.remove(owner).iter().flat_map(PodAddresses::iter) {
            self.taken.remove(&address);
        }
    }

    fn record(&mut self, owner: &str, addresses: &PodAddresses) {
        for address in addresses.iter() {
            self.taken.insert(address);
            for range in &mut self.ranges {
                range.pass(address);
            }
        }
        self.leases.insert(owner.into(), addresses.clone());
    }
}

impl Range {
    fn new(subnet: &IpNet) -> Self {
        let (first, last) = pod_range(subnet);
        Self { subnet: *subnet, first, last, next: first }
    }

    /// The first free address from `next` on, wrapping; it looks at one more than are taken, at most.
    fn search(&self, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let mut candidate = self.next;
        for _ in 0..=taken.len() {
            if !(self.first..=self.last).contains(&candidate) {
                return None;
            }
            if !taken.contains(&candidate) {
                return Some(candidate);
            }
            candidate = self.after(candidate);
        }
        None
    }

    /// Moves the start of the next search behind an address of this range that was just taken.
    fn pass(&mut self, address: IpAddr) {
        if (self.first..=self.last).contains(&address) {
            self.next = self.after(address);
        }
    }

    fn after(&self, address: IpAddr) -> IpAddr {
        if address >= self.last { self.first } else { offset(address, 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::ErrorKind;

    fn pool(subnets: &[&str]) -> AddressPool {
        let subnets: Vec<IpNet> = subnets.iter().map(|s| s.parse().unwrap()).collect();
        AddressPool::new(&subnets)
    }

    fn addresses(texts: &[&str]) -> PodAddresses {
        texts.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect()
    }

    #[test]
    fn lease_has_one_address_of_each_subnet_in_order() {
        let mut pool = pool(&["10.88.0.0/16", "fd62::/64"]);
        assert_eq!(pool.lease("a").unwrap(), addresses(&["10.88.0.2", "fd62::2"]));
        assert_eq!(pool.lease("b").unwrap(), addresses(&["10.88.0.3", "fd62::3"]));
    }

    #[test]
    fn lease_is_idempotent() {
        let mut pool = pool(&["10.88.0.0/16"]);
        let first = pool.lease("a").unwrap();
        assert_eq!(pool.lease("a").unwrap(), first);
        pool.release("a");
        pool.release("a");
        assert_ne!(pool.lease("a").unwrap(), first);
    }

    #[test]
    fn released_address_is_used_last() {
        let mut pool = pool(&["10.0.0.0/29"]);
        let order: Vec<String> = (0..6)
            .map(|n| {
                let owner = n.to_string();
                let address = pool.lease(&owner).unwrap().to_string();
                pool.release(&owner);
                address
            })
            .collect();
        assert_eq!(order, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
    }

    #[test]
    fn exhausted_subnet_takes_nothing_from_the_others() {
        let mut pool = pool(&["fd62::/64", "10.0.0.0/30"]);
        assert_eq!(pool.lease("a").unwrap(), addresses(&["fd62::2", "10.0.0.2"]));
        let error = pool.lease("b").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(error.to_string(), "lease pod addresses: no address is free in 10.0.0.0/30");
        assert_eq!(pool.exhausted(), Some("10.0.0.0/30".parse().unwrap()));
        pool.release("a");
        assert_eq!(pool.exhausted(), None);
        assert_eq!(pool.lease("b").unwrap(), addresses(&["fd62::3", "10.0.0.2"]));
    }

    #[test]
    fn every_address_of_a_subnet_is_found_whatever_the_gaps() {
        let mut pool = pool(&["10.0.0.0/28"]);
        for n in 0..13 {
            pool.lease(&n.to_string()).unwrap();
        }
        assert!(pool.lease("13").is_err());
        for n in [3, 7, 12] {
            pool.release(&n.to_string());
        }
        for n in ["x", "y", "z"] {
            pool.lease(n).unwrap();
        }
        assert!(pool.lease("w").is_err());
    }

    #[test]
    fn new_leases_are_of_the_new_subnets_and_old_ones_stay() {
        let mut pool = pool(&["10.88.0.0/16", "fd62::/64"]);
        let old = pool.lease("a").unwrap();
        pool.reserve("b", &addresses(&["10.99.0.2"])).unwrap();
        pool.renumber(&["10.99.0.0/24".parse().unwrap()]);
        assert_eq!(pool.lease("a").unwrap(), old);
        assert_eq!(pool.lease("c").unwrap(), addresses(&["10.99.0.3"]));
        pool.renumber(&[]);
        assert_eq!(pool.lease("d").unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn what_may_be_an_owners_is_kept_but_for_what_another_has() {
        let mut pool = pool(&["10.88.0.0/16"]);
        assert_eq!(pool.keep("a", &addresses(&["10.88.0.2", "10.96.0.10"])), addresses(&[]));
        assert_eq!(pool.keep("b", &addresses(&["10.96.0.10", "10.88.0.3"])), addresses(&["10.96.0.10"]));
        assert_eq!(pool.lease("c").unwrap(), addresses(&["10.88.0.4"]));
        pool.release("b");
        assert_eq!(pool.keep("d", &addresses(&["10.96.0.10", "10.88.0.3"])), addresses(&["10.96.0.10"]));
    }

    #[test]
    fn recorded_lease_is_not_given_to_another() {
        let mut pool = pool(&["10.88.0.0/16"]);
        pool.reserve("a", &addresses(&["10.88.0.2"])).unwrap();
        pool.reserve("a", &addresses(&["10.88.0.2"])).unwrap();
        pool.reserve("old", &addresses(&["172.16.0.9"])).unwrap();
        assert_eq!(pool.lease("b").unwrap(), addresses(&["10.88.0.3"]));
        let clash = pool.reserve("c", &addresses(&["10.88.0.2"])).unwrap_err();
        assert_eq!(clash.kind(), ErrorKind::Exists);
        assert_eq!(pool.lease("a").unwrap(), addresses(&["10.88.0.2"]));
    }
}
