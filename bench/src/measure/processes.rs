//! Which processes are a runtime's: everything that would not run without it, but for the workloads.
//!
//! The same rule for all: the process that listens on the socket, the first processes of sandboxes and containers, what
//! comes from one of these, and what has started them, up to (and without) the first process of the machine and those
//! above this program. That finds agents, shims, monitors and pause processes. Containers' first processes are the
//! workload, and so is what comes from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use berth_cri_proto::v1::{ContainerStatusRequest, PodSandboxStatusRequest};
use berth_e2e::Cri;
use rustix::net::sockopt::socket_peercred;

use crate::peer::Peer;

/// A runtime's processes at one moment.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeProcesses {
    /// The one that answers.
    pub(crate) server: u32,
    /// All of them, the server too.
    pub(crate) all: BTreeSet<u32>,
}

impl RuntimeProcesses {
    /// Looks for them.
    pub(crate) fn of(peer: &Peer, cri: &Cri) -> Result<Self> {
        let server = Self::server(peer)?;
        let (sandboxes, containers) = (sandbox_pids(cri)?, container_pids(cri)?);
        let machine = Machine::look();
        let known: BTreeSet<u32> = [server].into_iter().chain(sandboxes).chain(containers.clone()).collect();
        let above = machine.lineage(std::process::id());
        let mut all = machine.ancestors(&known);
        all.retain(|pid| !above.contains(pid));
        all.extend(machine.descendants(&all));
        let workload = machine.descendants(&containers);
        all.retain(|pid| !containers.contains(pid) && !workload.contains(pid));
        Ok(Self { server, all })
    }

    /// The process that listens on the socket. Source: unix(7), `SO_PEERCRED`.
    pub(crate) fn server(peer: &Peer) -> Result<u32> {
        let stream = UnixStream::connect(&peer.socket);
        let stream = stream.with_context(|| format!("connect to {}", peer.socket.display()))?;
        Ok(u32::try_from(socket_peercred(&stream)?.pid.as_raw_nonzero().get())?)
    }
}

/// The first processes of all containers.
fn container_pids(cri: &Cri) -> Result<BTreeSet<u32>> {
    cri.containers().iter().map(|container| container_pid(cri, &container.id)).collect()
}

/// The first process of a container, as its verbose status tells it: berth, containerd and CRI-O have it in the same
/// place.
pub(crate) fn container_pid(cri: &Cri, id: &str) -> Result<u32> {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
    let info = cri.container_status(request).context("ContainerStatus")?.info;
    pid_in(&info).with_context(|| format!("the verbose status of container {id} has no pid"))
}

/// Those that hold the namespaces of sandboxes; a runtime may do without.
fn sandbox_pids(cri: &Cri) -> Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    for sandbox in cri.sandboxes() {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.id, verbose: true };
        pids.extend(pid_in(&cri.pod_sandbox_status(request).context("PodSandboxStatus")?.info));
    }
    Ok(pids)
}

fn pid_in(info: &HashMap<String, String>) -> Option<u32> {
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    info["pid"].as_u64()?.try_into().ok().filter(|pid| *pid > 0)
}

/// All processes, with their parents.
#[derive(Debug)]
struct Machine {
    parents: BTreeMap<u32, u32>,
}

impl Machine {
    fn look() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // One that has ended meanwhile is no process any more.
        let parent = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
        };
        Self { parents: pids.filter_map(parent).collect() }
    }

    /// Who comes from one of these.
    fn descendants(&self, of: &BTreeSet<u32>) -> BTreeSet<u32> {
        let comes_from = |pid: u32| self.lineage(pid).iter().skip(1).any(|above| of.contains(above));
        self.parents.keys().copied().filter(|pid| comes_from(*pid)).collect()
    }

    /// Who has started one of these.
    fn ancestors(&self, of: &BTreeSet<u32>) -> BTreeSet<u32> {
        of.iter().flat_map(|pid| self.lineage(*pid)).collect()
    }

    /// A process and those above it, without the machine's first.
    fn lineage(&self, pid: u32) -> Vec<u32> {
        let above = |pid: &u32| self.parents.get(pid).copied().filter(|parent| *parent > 1);
        std::iter::successors(Some(pid), above).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By process: its parent.
    fn machine() -> Machine {
        let this_program = (10, 1);
        let (server, helper) = ((20, 10), (21, 20));
        let (shim, pause, workload, its_child) = ((30, 1), (31, 30), (32, 30), (33, 32));
        Machine { parents: [(1, 0), this_program, server, helper, shim, pause, workload, its_child].into() }
    }

    #[test]
    fn a_shim_is_found_from_what_it_has_started() {
        assert_eq!(machine().ancestors(&BTreeSet::from([31, 32])), BTreeSet::from([30, 31, 32]));
    }

    #[test]
    fn descendants_are_those_of_any_depth() {
        assert_eq!(machine().descendants(&BTreeSet::from([30])), BTreeSet::from([31, 32, 33]));
        assert_eq!(machine().descendants(&BTreeSet::from([10])), BTreeSet::from([20, 21]));
    }

    #[test]
    fn a_lineage_ends_below_the_first_process() {
        assert_eq!(machine().lineage(21), [21, 20, 10]);
    }
}
