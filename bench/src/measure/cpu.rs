//! CPU time of a runtime with all that it starts, also of what has ended since: that of its cgroups.
//!
//! One that was started here runs with its pods below one cgroup. Of one that was given only its own cgroup counts: its
//! service's, should it be one; where that is the root, its time is that of the machine. The workload's time is part of
//! it: all have the same workload. Where the workload is what costs, its own cgroups' time is taken off ([`Cpu::of_container`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_e2e::Cri;

use super::RuntimeProcesses;
use super::processes::container_pid;
use crate::peer::Peer;

/// Where the cgroups are that count CPU time: in the only hierarchy, or in that controller's.
pub(crate) fn cpu_hierarchy() -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join("cpuacct");
    if own.is_dir() { own } else { root.to_owned() }
}

/// What counts CPU time.
#[derive(Debug, Clone)]
pub(crate) struct Cpu {
    path: PathBuf,
}

impl Cpu {
    /// Of a runtime with its pods and all that runs in them.
    pub(crate) fn of(peer: &Peer) -> Result<Self> {
        let cgroup = match &peer.home {
            Some(home) => home.cgroup().to_owned(),
            None => cgroup_of(RuntimeProcesses::server(peer)?)?,
        };
        Ok(Self { path: path_of(&cgroup) })
    }

    /// Of one container's workload.
    pub(crate) fn of_container(cri: &Cri, id: &str) -> Result<Self> {
        Ok(Self { path: path_of(&cgroup_of(container_pid(cri, id)?)?) })
    }

    /// All that was used so far, in user and in kernel mode. Source: cgroup-v1/cpuacct (nanoseconds), cgroup-v2
    /// `cpu.stat` (microseconds).
    pub(crate) fn used(&self) -> Result<Duration> {
        let read = |name: &str| fs::read_to_string(self.path.join(name));
        if let Ok(text) = read("cpuacct.usage") {
            return Ok(Duration::from_nanos(text.trim().parse()?));
        }
        let text =
            read("cpu.stat").with_context(|| format!("read the CPU time of {}", self.path.display()))?;
        let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(Duration::from_micros(used.context("cpu.stat has no usage_usec")?.parse()?))
    }
}

fn path_of(cgroup: &str) -> PathBuf {
    cpu_hierarchy().join(cgroup.trim_start_matches('/'))
}

/// The cgroup of a process in that hierarchy. Source: cgroups(7), `/proc/PID/cgroup`.
fn cgroup_of(pid: u32) -> Result<String> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let controllers = |line: &str| line.split(':').nth(1).unwrap_or_default().to_owned();
    let counts = |line: &&str| controllers(line).split(',').any(|name| name == "cpuacct");
    let line = text.lines().find(counts).or_else(|| text.lines().find(|line| line.starts_with("0::")));
    let cgroup = line.and_then(|line| line.splitn(3, ':').nth(2));
    Ok(cgroup.with_context(|| format!("{path} names no cgroup"))?.to_owned())
}
