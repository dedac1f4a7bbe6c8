//! The network as the agent holds it: opened once, then pods come and go.
//!
//! In: valid settings, attachments, ports. Out: kernel state. It holds the settings, the subnets in force, the ports
//! that lead to pods and the bridge's index, and no descriptor. Whatever changes the nftables table does so under the
//! lock of the ports, so that they are what the table has to hold should somebody else take it away; the lock of the
//! subnets is held for a copy only. All calls take `&self` and may run at the same time on different threads, but for
//! changes of the subnets, of which the caller makes one at a time. All block while the kernel works.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use berth_fault::point;
use ipnet::IpNet;
use rustix::io::Errno;

use crate::attach::{Attached, Attachment, Wiring};
use crate::bridge;
use crate::config::{NetworkConfig, check_subnets, invalid};
use crate::conntrack;
use crate::error::{Error, NetlinkError, Result};
use crate::host::HostLinks;
use crate::link::Link;
use crate::name::IfName;
use crate::nftables::{self, Table};
use crate::ports::Forward;
use crate::rules;
use crate::served::ServedSubnets;
use crate::survey::Survey;
use crate::sysctl;

/// The host's side of the pod network, ready for pods.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    served: RwLock<ServedSubnets>,
    /// By the port, the host's end of its pod's veth pair.
    ports: Mutex<HashMap<Forward, IfName>>,
    bridge_index: AtomicU32,
}

/// What an earlier agent had in force, as the caller has recorded it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The subnets of a pod CIDR that was given; none if none was. They take the place of the settings' ones.
    pub pod_cidr: Vec<IpNet>,
    /// Subnets that pods still have addresses of, from before.
    pub retired: Vec<IpNet>,
    /// By their pod's id, the ports that lead to running pods.
    pub forwards: BTreeMap<String, Vec<Forward>>,
}

/// The host's end of a pod's veth pair, as found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedLink {
    /// Its name.
    pub name: IfName,
    /// The pod that its alias names, whether that pod still exists or not.
    pub pod_id: String,
}

/// How a pod's link on the host fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// A port of the bridge, and up.
    Well,
    /// Nothing passes.
    Down,
    /// Somebody has taken it out of the bridge.
    Loose,
}

impl Network {
    /// Makes the host ready: forwarding, bridge, nftables table. May be repeated; pods that are attached
    /// keep their network meanwhile.
    ///
    /// Where the host has IPv6 disabled, the IPv6 subnet is left out with a warning.
    /// Errors: invalid settings; exists, for an interface with the bridge's name that is not ours; internal.
    /// What was made stays, and the next attempt completes it.
    pub fn open(config: NetworkConfig) -> Result<Self> {
        Self::open_again(config, Inherited::default())
    }

    /// The same, and running pods keep what they have: the gateways of their subnets and their ports. The ports of
    /// pods that are gone go.
    pub fn open_again(config: NetworkConfig, inherited: Inherited) -> Result<Self> {
        config.validate()?;
        let Inherited { pod_cidr, retired, forwards } = inherited;
        let current = match (pod_cidr.is_empty(), config.wait_for_pod_cidr) {
            (false, _) => served("pod_cidr", &pod_cidr)?,
            (true, false) => served("subnets", &config.subnets)?,
            (true, true) => Vec::new(),
        };
        let retired = retired.into_iter().filter(|subnet| !current.contains(subnet)).collect();
        let served = ServedSubnets { current, retired };
        let subnets = served.all();
        let bridge_index = AtomicU32::new(bridge::ensure(&config, &subnets)?);
        if config.forwarding {
            enable_forwarding(&subnets)?;
        }
        let mut ports = HashMap::new();
        for (pod_id, forwards) in forwards {
            let name = IfName::from_pod_id(&pod_id)?;
            ports.extend(forwards.into_iter().map(|forward| (forward, name.clone())));
        }
        let ports = Mutex::new(ports);
        let network = Self { config, served: RwLock::new(served), ports, bridge_index };
        let ports = network.ports();
        network.put_table(&ports).map_err(|error| network.table_error(error))?;
        network.prepare_ports(&*ports)?;
        drop(ports);
        network.warn_of_dropping_chains();
        Ok(network)
    }

    /// The bridge that pods are joined to.
    pub fn bridge(&self) -> &IfName {
        &self.config.bridge
    }

    /// The subnets that pods get addresses of, the primary one first; for an [`AddressPool`](crate::AddressPool).
    pub fn subnets(&self) -> Vec<IpNet> {
        self.served().current
    }

    /// All subnets in force, to be recorded and inherited.
    pub fn served(&self) -> ServedSubnets {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks a pod CIDR as a client gives it, and returns the part of it that this host can serve.
    ///
    /// Errors: invalid, with what is wrong with it.
    pub fn check_pod_cidr(&self, subnets: &[IpNet]) -> Result<Vec<IpNet>> {
        check_subnets("pod_cidr", subnets)?;
        served("pod_cidr", subnets)
    }

    /// Makes `wanted`, checked before, the subnets of new pods: gateways and rules first, then whatever is attached
    /// from now on. All that has been in force goes on, until [`Network::prune`].
    ///
    /// Errors: wrong state, when a subnet overlaps with one that a pod in `leased` has an address of, or holds an
    /// address that the host has elsewhere; nothing is changed then.
    pub fn renumber(&self, wanted: &[IpNet], leased: &[IpAddr]) -> Result<ServedSubnets> {
        let served = self.served().renumbered(wanted, leased)?;
        bridge::check_host_addresses(&self.config, wanted)?;
        self.put_in_force(served)
    }

    /// Takes gateways and rules from retired subnets of which no pod has an address.
    pub fn prune(&self, leased: &[IpAddr]) -> Result<ServedSubnets> {
        let pruned = self.served().pruned(leased);
        if pruned == self.served() {
            return Ok(pruned);
        }
        self.put_in_force(pruned)
    }

    fn put_in_force(&self, served: ServedSubnets) -> Result<ServedSubnets> {
        let subnets = served.all();
        let ports = self.ports();
        bridge::renumber(&self.config, &subnets)?;
        if self.config.forwarding {
            enable_forwarding(&subnets)?;
        }
        let wanted = self.table(&subnets);
        self.change_table(&ports, || nftables::replace_rules(&wanted))?;
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = served.clone();
        Ok(served)
    }

    /// Has ports of the host lead to an attached pod; they do when this returns. May be repeated.
    ///
    /// Errors: what has been done is undone by [`Network::unforward`].
    pub fn forward(&self, host_ifname: &IfName, forwards: &[Forward]) -> Result<()> {
        let elements: Vec<_> = forwards.iter().map(Forward::element).collect();
        let wanted: Vec<_> = forwards.iter().map(|forward| (*forward, host_ifname.clone())).collect();
        let mut ports = self.ports();
        self.prepare_ports(wanted.iter().map(|(forward, name)| (forward, name)))?;
        self.change_table(&ports, || nftables::add_elements(&self.config.nft_table, &elements))?;
        ports.extend(wanted);
        drop(ports);
        conntrack::forget_untranslated(forwards).map_err(Error::Flows)
    }

    /// Ends what [`Network::forward`] began; absent means done.
    pub fn unforward(&self, forwards: &[Forward]) -> Result<()> {
        let elements: Vec<_> = forwards.iter().map(Forward::element).collect();
        let mut ports = self.ports();
        nftables::remove_elements(&self.config.nft_table, &elements)
            .map_err(|error| self.table_error(error))?;
        ports.retain(|port, _| !forwards.contains(port));
        drop(ports);
        conntrack::forget_translated(forwards).map_err(Error::Flows)
    }

    /// Ends what leads to pods but was not begun by [`Network::forward`], nor inherited; the rest of `forwards` stays.
    pub fn unforward_strays(&self, forwards: &[Forward]) -> Result<()> {
        let ports = self.ports();
        let strays: Vec<_> =
            forwards.iter().filter(|forward| !ports.contains_key(forward)).copied().collect();
        self.survey().remove_forwards(&strays)
    }

    /// A view of what the kernel holds under this network's names.
    pub fn survey(&self) -> Survey {
        Survey::new(self.config.clone())
    }

    /// Gives a pod its loopback, its `eth0` with addresses and default routes, and a port of the bridge.
    ///
    /// A bridge that somebody else has taken away is put back, as by [`Network::restore`]. Whether all else is as it should
    /// be, its addresses and the rules, is not looked at: that is [`Network::check_and_restore`]'s, for which no pod need
    /// wait. With that the pod can be reached when this returns; by IPv6 a moment later, as a worker of the kernel finishes
    /// an address of that family. Takes about a millisecond.
    ///
    /// Errors, after which nothing is left: exists, when a link of that name or an `eth0` in the pod was there
    /// before, which stays; exists, when the bridge is somebody else's now; invalid, for an address of no subnet.
    pub fn attach(&self, attachment: &Attachment<'_>) -> Result<Attached> {
        let subnets = self.served().all();
        let wiring = Wiring::new(attachment, &self.config.bridge, &subnets, self.config.mtu)?;
        let failed = |source| Error::Attach {
            pod_id: attachment.pod_id.into(),
            bridge: self.config.bridge.clone(),
            host_ifname: attachment.host_ifname.clone(),
            source,
        };
        let host = HostLinks::open().map_err(failed)?;
        let known = self.bridge_index.load(Ordering::Relaxed);
        let error = match wiring.connect(&host, known) {
            Ok(attached) => return Ok(attached),
            Err(error) => error,
        };
        // The bridge may be gone, or have been made anew; then its index is another one.
        match self.look(&host) {
            Err(lost) if lost.is_lost() => self.restore()?,
            looked => looked?,
        }
        let now = bridge::find_own(&host, &self.config.bridge)?.index;
        if now == known {
            return Err(failed(error));
        }
        self.bridge_index.store(now, Ordering::Relaxed);
        wiring.connect(&host, now).map_err(failed)
    }

    /// Removes a pod's veth pair, and with it the pod's `eth0`, addresses and routes; absent means done.
    ///
    /// The kernel makes this call wait 15 to 50 ms, until no processor can still see the link; calls at the
    /// same time share that wait. A pod's pair also goes by itself, about 20 ms after the last process and
    /// descriptor of the pod's namespace. So a stop need not wait for this call: it ends the namespace, and
    /// detaches in the background to be sure.
    pub fn detach(&self, host_ifname: &IfName) -> Result<()> {
        let failed = |source| Error::Detach { host_ifname: host_ifname.clone(), source };
        HostLinks::open().and_then(|host| host.delete(host_ifname)).map_err(failed)
    }

    /// Looks whether a pod that was attached still is: its link is there, up, and a port of the bridge.
    ///
    /// Errors: unavailable, when somebody has taken it away, or the bridge.
    pub fn check_attached(&self, host_ifname: &IfName) -> Result<()> {
        let host = HostLinks::open().map_err(Error::List)?;
        let bridge = Some(self.bridge_index.load(Ordering::Relaxed));
        match host.find(host_ifname).map_err(Error::List)? {
            Some(link) if link.up && link.controller == bridge => Ok(()),
            Some(_) | None => Err(Error::LinkLost { host_ifname: host_ifname.clone() }),
        }
    }

    /// Every veth in the host's namespace whose alias says that it joins a pod to this bridge.
    pub fn owned_links(&self) -> Result<Vec<OwnedLink>> {
        let links = HostLinks::open().and_then(|host| host.list()).map_err(Error::List)?;
        let owned = links.into_iter().filter_map(|link| {
            let pod_id = self.config.bridge.pod_of_alias(link.alias.as_deref()?)?.to_owned();
            Some(OwnedLink { name: IfName::new(link.name).ok()?, pod_id })
        });
        Ok(owned.collect())
    }

    /// The host's ends of all pods' veth pairs, and how each fares. Where the bridge is gone they are no ports of it, for
    /// which nothing is wrong with them.
    pub fn ports_of_pods(&self) -> Result<Vec<(OwnedLink, PortState)>> {
        let links = HostLinks::open().and_then(|host| host.list()).map_err(Error::List)?;
        let bridge = links.iter().find(|link| link.name == self.config.bridge.as_str());
        let bridge = bridge.map(|link| link.index);
        let port = |link: Link| {
            let pod_id = self.config.bridge.pod_of_alias(link.alias.as_deref()?)?.to_owned();
            let state = match link.up {
                _ if bridge.is_some() && link.controller != bridge => PortState::Loose,
                true => PortState::Well,
                false => PortState::Down,
            };
            Some((OwnedLink { name: IfName::new(link.name).ok()?, pod_id }, state))
        };
        Ok(links.into_iter().filter_map(port).collect())
    }

    /// Looks whether pods can be attached now: the bridge is there, ours, up, and has the gateways; the rules are
    /// there; and there are addresses to give.
    ///
    /// Errors: the reason why not, to be shown as the network's condition.
    pub fn check(&self) -> Result<()> {
        let bridge = &self.config.bridge;
        let host = HostLinks::open().map_err(|source| Error::Bridge { bridge: bridge.clone(), source })?;
        self.look(&host)?;
        if self.subnets().is_empty() {
            return Err(Error::AwaitingPodCidr);
        }
        Ok(())
    }

    /// The same, and what somebody else has taken away is put back first.
    pub fn check_and_restore(&self) -> Result<()> {
        match self.check() {
            Err(error) if error.is_lost() => {
                self.restore()?;
                self.check()
            }
            checked => checked,
        }
    }

    /// Looks whether everything is there that all pods need.
    fn look(&self, host: &HostLinks) -> Result<()> {
        let (bridge, subnets) = (&self.config.bridge, self.served().all());
        let link = bridge::find_own(host, bridge)?;
        if !link.up {
            return Err(Error::BridgeLost { bridge: bridge.clone(), state: "down" });
        }
        bridge::check_gateways(host, &link, bridge, &subnets)?;
        let (table, wanted) = (&self.config.nft_table, self.table(&subnets).rule_count());
        let found = nftables::count_rules(table).map_err(|error| self.table_error(error))?;
        if found != wanted {
            return Err(Error::RulesLost { table: table.clone(), found, wanted });
        }
        Ok(())
    }

    /// Puts back what somebody else has taken away, as a firewall does that starts anew, or a person by mistake: the
    /// bridge, its gateways, the pods' links as its ports; the rules, with all ports that lead to pods. What is there
    /// is not touched.
    ///
    /// Errors: exists, for an interface with the bridge's name that is not ours; internal. May be repeated.
    pub fn restore(&self) -> Result<()> {
        let bridge = &self.config.bridge;
        let host = HostLinks::open().map_err(|source| Error::Bridge { bridge: bridge.clone(), source })?;
        // Those who come at the same time find it done.
        let ports = self.ports();
        match self.look(&host) {
            Err(lost @ Error::BridgeLost { .. }) => {
                tracing::warn!(error = %lost, "bridge of the pod network was taken away; it is put back");
                let index = bridge::ensure(&self.config, &self.served().all())?;
                self.bridge_index.store(index, Ordering::Relaxed);
                self.prepare_ports(&*ports)?;
            }
            Err(error) if !error.is_lost() => return Err(error),
            Err(_) | Ok(()) => {}
        }
        match self.look(&host) {
            Err(lost @ Error::RulesLost { .. }) => {
                tracing::warn!(error = %lost, "rules of the pod network were taken away; they are put back");
                self.put_table(&ports).map_err(|error| self.table_error(error))
            }
            looked => looked,
        }
    }

    /// Puts the table in place with all of `ports`, which the caller has locked.
    fn put_table(&self, ports: &HashMap<Forward, IfName>) -> std::result::Result<(), NetlinkError> {
        let elements: Vec<_> = ports.keys().map(Forward::element).collect();
        nftables::replace(&self.table(&self.served().all()), &elements)
    }

    /// Asks something of the table. One that somebody else has taken away, as a firewall does that starts anew, is put
    /// back with all of `ports`, which the caller has locked, and asked again.
    fn change_table(
        &self,
        ports: &HashMap<Forward, IfName>,
        change: impl Fn() -> std::result::Result<(), NetlinkError>,
    ) -> Result<()> {
        point!("change rules of the pod network").pass().map_err(|error| self.table_error(error.into()))?;
        let changed = change().or_else(|error| match error.refusal() {
            Some(Errno::NOENT) => {
                let table = &self.config.nft_table;
                tracing::warn!(table, "nftables table of the pod network was taken away; it is put back");
                self.put_table(ports).and_then(|()| change())
            }
            _ => Err(error),
        });
        changed.map_err(|error| self.table_error(error))
    }

    fn ports(&self) -> MutexGuard<'_, HashMap<Forward, IfName>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes bridge and table, for a network that nobody will use again. Forwarding stays as it is:
    /// something else may have come to need it.
    ///
    /// Errors: busy, while pods are attached; nothing is removed then.
    pub fn teardown(self) -> Result<()> {
        let bridge = self.config.bridge.clone();
        let pods = self.owned_links()?.len();
        if pods > 0 {
            return Err(Error::InUse { bridge, pods });
        }
        nftables::remove(&self.config.nft_table).map_err(|error| self.table_error(error))?;
        let failed = |source| Error::Bridge { bridge: bridge.clone(), source };
        HostLinks::open().and_then(|host| host.delete(&bridge)).map_err(failed)
    }

    /// What ports that lead to pods need besides the maps.
    fn prepare_ports<'a>(&self, ports: impl IntoIterator<Item = (&'a Forward, &'a IfName)>) -> Result<()> {
        let ports: Vec<_> = ports.into_iter().collect();
        if ports.iter().any(|(forward, _)| forward.target.is_ipv4()) {
            sysctl::route_loopback(self.bridge())?;
        }
        let names: BTreeSet<_> = ports.iter().map(|(_, name)| *name).collect();
        let failed = |source| Error::Bridge { bridge: self.bridge().clone(), source };
        let host = HostLinks::open().map_err(failed)?;
        names.into_iter().try_for_each(|name| host.allow_hairpin(name)).map_err(failed)
    }

    fn table(&self, subnets: &[IpNet]) -> Table<'_> {
        rules::table(&self.config.nft_table, &self.config.bridge, subnets, self.config.masquerade)
    }

    fn table_error(&self, source: NetlinkError) -> Error {
        Error::Table { table: self.config.nft_table.clone(), source }
    }

    fn warn_of_dropping_chains(&self) {
        // Only a warning depends on it, so a kernel that does not answer is no failure.
        for chain in nftables::dropping_forward_chains().unwrap_or_default() {
            let bridge = &self.config.bridge;
            tracing::warn!(%chain, %bridge, "forwarded packets are dropped unless this chain accepts them");
        }
    }
}

/// Those of `subnets` that this host can serve; `key` is where they come from.
fn served(key: &'static str, subnets: &[IpNet]) -> Result<Vec<IpNet>> {
    let mut served = subnets.to_vec();
    if !sysctl::ipv6_enabled() {
        for subnet in served.extract_if(.., |subnet| subnet.addr().is_ipv6()) {
            tracing::warn!(%subnet, "IPv6 is disabled on this host: pods get no address of this subnet");
        }
    }
    if served.is_empty() {
        let all: Vec<String> = subnets.iter().map(ToString::to_string).collect();
        return Err(invalid(key, all.join(","), "needs IPv6, which is disabled on this host"));
    }
    Ok(served)
}

fn enable_forwarding(subnets: &[IpNet]) -> Result<()> {
    for subnet in subnets {
        match subnet {
            IpNet::V4(_) => sysctl::enable_forwarding_v4()?,
            IpNet::V6(_) => sysctl::enable_forwarding_v6()?,
        }
    }
    Ok(())
}
