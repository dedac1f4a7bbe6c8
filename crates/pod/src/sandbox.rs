//! The steps of a pod's life: made, stopped, removed. [`Driver::make`] and [`Driver::tear_down`] are to be read side by
//! side: each row of what the first makes has what the second does about it. The second ends processes first, whose
//! cgroup and directory can't go before, and the record last.
//!
//! | made | taken down |
//! | --- | --- |
//! | claim ports of the host, lease addresses, record the intent | delete the record, end the lease |
//! | directory with the shared files | remove it |
//! | cgroup | kill what is in it and remove it |
//! | monitor and pause in new namespaces | shut the monitor down, which kills pause |
//! | network: veth, addresses, routes | remove the veth |
//! | ports of the host lead to the pod | they do not, and are free |
//! | record the readiness, publish: the commit | unpublish |

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::{CgroupPath, Driver as CgroupDriver, Layout};
use berth_fault::point;
use berth_image::remove_tree;
use berth_monitor::id::PodId;
use berth_monitor::plan::{SandboxPlan, Sharing};
use berth_monitor::protocol::Order as MonitorOrder;
use berth_net::{Attachment, Forward, IfName, PodAddresses};
use berth_store::{Change, ErrorKind, with_causes};
use tokio::time::timeout;

use crate::departures;
use crate::driver::{Driver, Monitor, passing};
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::files::{hostname_of, write_files};
use crate::host::{Host, blocking};
use crate::id_maps::give_files;
use crate::lifecycle::sandbox::{Contact, Event, RETRY_PERIOD};
use crate::lifecycle::stopping::DEATH_LIMIT;
use crate::link::{Connected, Greeting, Link};
use crate::lookout::look_after_network;
use crate::record::SandboxRecord;
use crate::spec::{PodPid, SandboxSpec};
use crate::steps::{Steps, Work};
use crate::zygote::Spawned;

/// Size of a pod's `/dev/shm`, as with containerd and CRI-O.
const SHM_BYTES: u64 = 64 << 20;

/// How long a monitor may take to answer when it is told to kill; after that the agent kills by itself.
pub(crate) const KILL_ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Where a pod stands in the cgroup hierarchy.
#[derive(Debug, Clone)]
pub(crate) struct PodCgroups {
    /// Below it stand all of the pod's cgroups. If a request named it, it is the kubelet's, and stays.
    pub(crate) base: CgroupPath,
    /// What goes with the pod: `base` itself where that is the agent's own, else one in it.
    pub(crate) own: CgroupPath,
    /// For monitor and pause. On version 1, where each hierarchy is a cost, `own` itself; on version 2 below it. So `own`
    /// has a child and passes controllers on, which holds them in `base` too: systemd, which owns slices, takes from them
    /// what it does not need itself, at each daemon-reload, and the containers' limits would go with it; but the kernel
    /// lets nobody take what a child passes on.
    pub(crate) sandbox: CgroupPath,
}

/// What namespaces are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Pod,
    /// To wait for a pod.
    Spare,
}

impl Driver {
    /// Makes the pod. On an error nothing of it is left, or else [`Driver::finish_tear_down`] has work to do.
    pub(crate) async fn make(&mut self) -> Result<()> {
        let made = self.make_steps().await;
        if made.is_err()
            && let Err(error) = self.tear_down().await
        {
            tracing::error!(pod.id = %self.id, error = %with_causes(&error), "pod half made");
            self.host.departures.get_stuck(&self.id);
        }
        made
    }

    /// Takes down what is left of a pod that nobody can ask for any more, and keeps trying, so that its addresses and
    /// whatever else it holds do not stay until the agent's next start.
    pub(crate) async fn finish_tear_down(mut self) {
        let mut patience = tokio::time::interval(RETRY_PERIOD);
        while self.host.departures.has(&self.id) {
            patience.tick().await;
            match self.tear_down_with_containers().await {
                Ok(()) => self.host.departures.end(&self.id),
                Err(error) => {
                    tracing::warn!(pod.id = %self.id, error = %with_causes(&error), "pod not taken down yet");
                    self.host.departures.get_stuck(&self.id);
                }
            }
        }
    }

    /// The steps, in the order of the table above; those between two bars share a thread:
    ///
    /// ```text
    /// made from nothing:  intent, files, cgroup, monitor asked for | its greeting | network, host ports, readiness
    /// of a spare sandbox: intent, files, (cgroup,) look at the link; beside them, tell the monitor | host ports, readiness
    /// ```
    async fn make_steps(&mut self) -> Result<()> {
        let host = self.host.clone();
        let cgroups = self.cgroups()?;
        self.check_cgroup_parent()?;
        host.ports().claim(self.id.as_str(), &self.spec.ports)?;
        let is_spare = self.monitor.is_some();
        if self.spec.net == Sharing::Own && !is_spare {
            self.addresses = self.lease_addresses().await?;
        }
        let forwards = Forward::all(&self.spec.ports, &self.addresses)?;
        let begin = self.begin()?;
        let attach = match is_spare {
            true => self.occupy(&cgroups, begin).await?,
            false => self.make_namespaces(&cgroups, Purpose::Pod, begin).await?,
        };
        let phase = self.phase.after(Event::Made);
        let ready = Change::new().put(&SandboxRecord { phase, ..self.record() })?;
        let name = self.host_interface()?;
        let finish = move |steps: &mut Steps| {
            attach(steps)?;
            if !forwards.is_empty() {
                let open = || Ok(host.network.forward(&name, &forwards)?);
                steps.step(point!("open host ports"), "", open)?;
            }
            // The commit: from here on the pod exists, and no sooner.
            steps.step(point!("record readiness"), "", || host.commit_now(ready))
        };
        self.blocking_steps(finish).await?;
        self.phase = phase;
        if self.spec.net == Sharing::Own {
            look_after_network(&self.host);
        }
        self.publish();
        for kind in [EventKind::Created, EventKind::Started] {
            self.tell(self.id.to_string(), kind);
        }
        Ok(())
    }

    /// What comes first with each pod, before anything of it is made: its intent is recorded, and its files are written.
    fn begin(&self) -> Result<Work> {
        let intent = Change::new().put(&self.record())?;
        let (host, id) = (self.host.clone(), self.id.clone());
        let (spec, addresses) = (self.spec.clone(), self.addresses.clone());
        Ok(Box::new(move |steps| {
            steps.step(point!("record intent"), "", || host.commit_now(intent))?;
            let files = || make_files(&host, &id, &spec, &addresses);
            steps.step(point!("write the pod's files"), "", files)
        }))
    }

    /// The cgroup, and monitor and pause in it, after what has to come first. What connects them to the network is left to
    /// be done.
    pub(crate) async fn make_namespaces(
        &mut self,
        cgroups: &PodCgroups,
        purpose: Purpose,
        first: Work,
    ) -> Result<Work> {
        let (link, greeting, news) = self.start_monitor(cgroups, purpose, first).await?;
        let (pid, pause_pid) = (greeting.hello.pid, greeting.hello.pause_pid);
        self.set_monitor(Some(Monitor { link, news, pid, pause_pid }));
        if self.spec.net == Sharing::Host {
            return Ok(no_work());
        }
        let name = self.host_interface()?;
        let (host, id, addresses) = (self.host.clone(), self.id.to_string(), self.addresses.clone());
        let attach = move || attach(&host, &id, &name, &addresses, greeting);
        Ok(Box::new(|steps| steps.step(point!("attach network"), "", attach)))
    }

    /// Has a monitor forked and hears its greeting; where none comes, once more by another zygote: that one may have died
    /// with the request, or stand still.
    async fn start_monitor(
        &mut self,
        cgroups: &PodCgroups,
        purpose: Purpose,
        first: Work,
    ) -> Result<Connected> {
        let plan = Arc::new(self.sandbox_plan(cgroups, purpose));
        let (host, path, planned) = (self.host.clone(), cgroups.sandbox.clone(), plan.clone());
        let start = move |steps: &mut Steps| {
            first(steps)?;
            make_cgroup(steps, &host, &path)?;
            spawn(steps, &host, &planned)
        };
        let Spawned { connection, zygote } = self.blocking_steps(start).await?;
        match self.hear_greeting(connection).await {
            Err(error) if error.says_that_monitor_is_gone() || zygote.stands_still() => {}
            greeted => return greeted,
        }
        let host = self.host.clone();
        blocking(move || host.zygote.end(zygote)).await?;
        let host = self.host.clone();
        let spawned = self.blocking_steps(move |steps| spawn(steps, &host, &plan)).await?;
        self.hear_greeting(spawned.connection).await
    }

    async fn hear_greeting(&mut self, connection: OwnedFd) -> Result<Connected> {
        self.step(point!("hear the monitor's greeting"), "", Link::establish(connection)).await
    }

    fn sandbox_plan(&self, cgroups: &PodCgroups, purpose: Purpose) -> SandboxPlan {
        SandboxPlan {
            pod: self.id.clone(),
            directory: self.host.pod_directory(&self.id),
            cgroup: self.host.cgroups.open(&cgroups.sandbox).entry(),
            net: self.spec.net,
            ipc: self.spec.ipc,
            // The uts namespace follows the network's, as with other runtimes.
            hostname: (self.spec.net == Sharing::Own).then(|| hostname_of(&self.spec)),
            shared_pid: self.spec.pid == PodPid::Pod,
            user_namespace: self.spec.user_namespace,
            sysctls: self.spec.sysctls.clone(),
            ipv6: self.addresses.iter().any(|address| address.is_ipv6()),
            shm_bytes: SHM_BYTES,
            spare: purpose == Purpose::Spare,
        }
    }

    /// Ends all containers at once, then the namespaces. The pod stays on record. Repeatable.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.kill_all().await?;
        self.shut_monitor_down().await;
        // The pod is down by now, whatever becomes of its ports.
        self.not_ready().await;
        let ports = self.close_ports().await;
        self.begin_detach();
        self.publish();
        ports
    }

    /// Stops the pod, then removes every trace of it. What the kernel has yet to do to its network is not waited for:
    /// that is [`Driver::finish_tear_down`]'s, and on record until then as something that an agent takes down.
    pub(crate) async fn remove(&mut self) -> Result<()> {
        self.stop().await?;
        self.remove_containers().await?;
        self.take_host_side_down().await?;
        if self.detaching.is_none() {
            self.forget().await?;
        } else {
            let phase = self.phase.after(Event::Removed);
            let departure = SandboxRecord { phase, ..self.record() };
            let (departure, host) = (Change::new().put(&departure)?, self.host.clone());
            self.step(point!("record the pod's departure"), "", host.commit(departure)).await?;
            self.phase = phase;
            host.departures.begin(&self.id);
        }
        self.host.unpublish(&self.id);
        self.tell(self.id.to_string(), EventKind::Deleted);
        Ok(())
    }

    /// Removes the containers, then the pod; that stays on record while one of them does, which would be nobody's else.
    pub(crate) async fn tear_down_with_containers(&mut self) -> Result<()> {
        self.remove_containers().await?;
        self.tear_down().await
    }

    async fn remove_containers(&mut self) -> Result<()> {
        let ids: Vec<_> = self.containers.keys().cloned().collect();
        for id in ids {
            self.remove_container(&id).await?;
        }
        Ok(())
    }

    /// Undoes [`Driver::make`], however far it came; absent means done. Whatever fails does not keep the rest from
    /// being taken down, but the record stays, so that it is tried again.
    pub(crate) async fn tear_down(&mut self) -> Result<()> {
        let host_side = self.take_host_side_down().await;
        let network = self.end_detaching().await;
        host_side.and(network)?;
        self.forget().await
    }

    /// Ends monitor and pause, and waits for the end of their network; its addresses stay leased.
    pub(crate) async fn take_network_and_monitor_down(&mut self) -> Result<()> {
        self.shut_monitor_down().await;
        self.begin_detach();
        self.end_detaching().await
    }

    async fn end_detaching(&mut self) -> Result<()> {
        match self.detaching.take() {
            Some(task) => task.await.unwrap_or(Err(Error::Abandoned)),
            None => Ok(()),
        }
    }

    /// All of [`Driver::tear_down`] but the record, and the network, whose end it begins.
    async fn take_host_side_down(&mut self) -> Result<()> {
        self.shut_monitor_down().await;
        let late = self.late.end(DEATH_LIMIT).await;
        let ports = self.close_ports().await;
        self.end_move().await;
        let cgroups = self.remove_cgroups().await;
        self.begin_detach();
        let (directory, files) = (self.host.pod_directory(&self.id), self.host.pod_files(&self.id));
        let files = move || remove_directory(&directory).and(remove_directory(&files));
        let files = self.blocking_step(point!("remove the pod's files"), "", files).await;
        late.and(cgroups).and(ports).and(files)
    }

    /// Kills whoever is left in the cgroups that go with the pod, and removes them.
    pub(crate) async fn remove_cgroups(&mut self) -> Result<()> {
        let (host, own) = (self.host.clone(), self.own_cgroups()?);
        let remove = move |path: &CgroupPath| host.cgroups.open(path).remove(DEATH_LIMIT);
        let cgroups = move || Ok(own.iter().try_for_each(remove)?);
        self.blocking_step(point!("remove cgroup"), "", cgroups).await
    }

    /// Nothing of the pod is left, and nothing on record.
    async fn forget(&mut self) -> Result<()> {
        let forget = Change::new().delete::<SandboxRecord>(self.id.to_string());
        let host = self.host.clone();
        self.step(point!("delete the pod's record"), "", host.commit(forget)).await?;
        self.end_lease();
        Ok(())
    }

    /// Asks the monitor to kill pause and itself; one that is gone has done so, and one that can't be reached is killed.
    async fn shut_monitor_down(&mut self) {
        let mut is_out_of_reach = self.contact() == Contact::Blocked;
        if let Some(monitor) = self.monitor.take() {
            let shutdown = monitor.link.ask_within(monitor.patience(), MonitorOrder::Shutdown, &[]);
            let shutdown = passing(point!("shut the monitor down"), shutdown).await;
            // One that hung up instead has gone.
            is_out_of_reach |= shutdown.is_err_and(|error| error.says_that_nobody_answered());
        }
        self.set_monitor(None);
        if is_out_of_reach {
            self.kill_own_processes().await;
        }
    }

    /// Frees the pod's ports of the host, which lead nowhere any more. A pod that is made next may claim them.
    pub(crate) async fn close_ports(&mut self) -> Result<()> {
        if !self.host.ports().has(self.id.as_str()) {
            return Ok(());
        }
        // A pod that has lost its addresses has closed its ports before.
        if let Ok(forwards) = Forward::all(&self.spec.ports, &self.addresses) {
            let host = self.host.clone();
            let close = move || Ok(host.network.unforward(&forwards)?);
            self.blocking_step(point!("close host ports"), "", close).await?;
        }
        self.host.ports().release(self.id.as_str());
        Ok(())
    }

    /// Begins to remove the host's side of the network. The kernel takes some 30 ms for it, so a stop does not wait.
    fn begin_detach(&mut self) {
        if self.addresses == PodAddresses::default() || self.detaching.is_some() {
            return;
        }
        if let Ok(name) = self.host_interface() {
            let host = self.host.clone();
            let detach = async move { Ok(blocking(move || host.network.detach(&name)).await??) };
            self.detaching = Some(tokio::spawn(passing(point!("detach network"), detach)));
        }
    }

    /// The veth is gone, so the addresses can be leased again, but for those that ports of the host still lead to.
    pub(crate) async fn network_is_down(&mut self, detached: Result<()>) {
        match detached {
            // They stay leased until a stop or the removal has closed the ports: these would lead to the next pod.
            Ok(()) if self.host.ports().has(self.id.as_str()) => {}
            Ok(()) => {
                self.end_lease();
                self.save().await;
            }
            // They stay leased until the pod is removed, which tries again.
            Err(error) => {
                tracing::warn!(pod.id = %self.id, error = %with_causes(&error), "network not detached");
            }
        }
    }

    /// Where none is free but some are about to be, waits for these.
    async fn lease_addresses(&self) -> Result<PodAddresses> {
        let host = &self.host;
        let lease = || host.leases().lease(self.id.as_str());
        let waited = async {
            loop {
                let mut freed = std::pin::pin!(host.departures.freed().notified());
                freed.as_mut().enable();
                match lease() {
                    Err(error) if error.kind() == ErrorKind::Exhausted => {
                        host.spares.give_up();
                        if !host.departures.any_leaves() {
                            return Err(error);
                        }
                        freed.await;
                    }
                    leased => return leased,
                }
            }
        };
        Ok(timeout(departures::PATIENCE, waited).await.unwrap_or_else(|_| lease())?)
    }

    fn end_lease(&mut self) {
        self.host.leases().release(self.id.as_str());
        self.host.departures.freed().notify_waiters();
        self.addresses = PodAddresses::default();
    }

    /// Where this pod's cgroups are, by its request alone.
    pub(crate) fn cgroups(&self) -> Result<PodCgroups> {
        cgroups_of(&self.id, &self.spec, &self.host.settings.cgroup_root, self.host.cgroups.layout())
    }

    /// What of them goes with the pod. Processes that were made before the pod come from the first.
    pub(crate) fn own_cgroups(&self) -> Result<BTreeSet<CgroupPath>> {
        Ok([self.host.own_cgroup(&self.id)?, self.cgroups()?.own].into())
    }

    /// A pod whose kubelet makes its cgroup in another way than the agent thinks would run without its limits. Looked
    /// at when a pod is made, not later: the setting may have changed since, and the pod has to be removed all the
    /// same.
    fn check_cgroup_parent(&self) -> Result<()> {
        match (&self.spec.cgroup_parent, self.host.settings.cgroup_driver) {
            (Some(parent), CgroupDriver::Systemd) => match CgroupPath::from_slice(parent) {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::Invalid {
                    field: "config.linux.cgroup_parent",
                    value: parent.clone(),
                    reason: "it is no slice, and the agent's cgroup.driver is systemd: the kubelet's differs",
                }),
            },
            (Some(_), CgroupDriver::Cgroupfs) | (None, _) => Ok(()),
        }
    }

    pub(crate) fn host_interface(&self) -> Result<IfName> {
        Ok(IfName::from_pod_id(self.id.as_str())?)
    }
}

/// Where a pod's cgroups are; `root` is the parent of those that name none.
pub(crate) fn cgroups_of(
    id: &PodId,
    spec: &SandboxSpec,
    root: &CgroupPath,
    layout: Layout,
) -> Result<PodCgroups> {
    let id = id.as_str();
    let (base, own) = match &spec.cgroup_parent {
        Some(parent) => {
            let base = CgroupPath::from_parent(parent)?;
            let own = base.join(id)?;
            (base, own)
        }
        None => {
            let base = root.join(id)?;
            (base.clone(), base)
        }
    };
    let sandbox = match layout {
        Layout::Unified => own.join("sandbox")?,
        Layout::Hybrid | Layout::Legacy => own.clone(),
    };
    Ok(PodCgroups { sandbox, base, own })
}

fn make_files(host: &Host, id: &PodId, spec: &SandboxSpec, addresses: &PodAddresses) -> Result<()> {
    let (directory, files) = (host.pod_directory(id), host.pod_files(id));
    for directory in [&directory, &files] {
        std::fs::create_dir_all(directory).map_err(Error::file("create directory", directory))?;
    }
    point!("fill the pod's files").pass()?;
    write_files(&files, spec, addresses)?;
    spec.user_namespace.as_ref().map_or(Ok(()), |maps| give_files(&files, maps))?;
    match &spec.log_directory {
        Some(logs) => std::fs::create_dir_all(logs).map_err(Error::file("create log directory", logs)),
        None => Ok(()),
    }
}

pub(crate) fn make_cgroup(steps: &mut Steps, host: &Host, path: &CgroupPath) -> Result<()> {
    let create = || Ok(host.cgroups.create(path).map(drop)?);
    steps.step(point!("make cgroup"), path.as_str(), create)
}

fn spawn(steps: &mut Steps, host: &Host, plan: &SandboxPlan) -> Result<Spawned> {
    let spawn = || host.zygote.spawn_monitor(plan).map_err(Error::Spawn);
    steps.step(point!("start monitor and pause"), "", spawn)
}

/// Nothing is left to be done.
pub(crate) fn no_work() -> Work {
    Box::new(|_| Ok(()))
}

/// Takes the descriptors with it: held longer, they would keep the namespace alive after the pod.
fn attach(
    host: &Host,
    pod_id: &str,
    host_ifname: &IfName,
    addresses: &PodAddresses,
    greeting: Greeting,
) -> Result<()> {
    let [pod_socket, netns] = &greeting.handles[..] else {
        return Err(Error::MonitorGone);
    };
    let (netns, pod_socket) = (netns.as_fd(), pod_socket.as_fd());
    host.network.attach(&Attachment { pod_id, netns, pod_socket, host_ifname, addresses })?;
    Ok(())
}

/// Removes a directory with all below it; absent means done. Below a mount lies what belongs to somebody else. Blocks.
pub(crate) fn remove_directory(directory: &std::path::Path) -> Result<()> {
    let is_mounted = |error: &std::io::Error| error.kind() == std::io::ErrorKind::CrossesDevices;
    match remove_tree(directory) {
        Err(error) if is_mounted(&error) => Err(Error::Mounted { point: directory.into() }),
        removed => removed.map_err(Error::file("remove directory", directory)),
    }
}
