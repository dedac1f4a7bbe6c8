//! The meters of running pods and containers, kept between readings for the sake of their descriptors and of the last
//! sample, without which there is no rate.
//!
//! A meter comes into being when it is first read. It goes when its container has ended or its pod has gone: at once
//! for what has been published, and with the next reading for what a reading began in between. Readings take place on
//! threads for blocking work, few at a time: should the kernel let one hang, it holds up statistics and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_cgroup::{Allowance, CgroupPath, Cgroups, Detail, Meter, Usage};
use tokio::sync::Semaphore;

use crate::view::{ContainerState, PodView, Snapshot};

/// Readings at the same time.
const READINGS: usize = 4;

/// A rate is taken over at least so long: over less, it is noise.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
/// Before there is any rate, so much will do.
const FIRST_WINDOW: Duration = Duration::from_millis(100);
/// And over at most so long: what comes out of more says nothing about now.
const LONGEST_WINDOW: Duration = Duration::from_secs(120);

/// All meters of the node.
#[derive(Debug)]
pub(crate) struct Meters {
    cgroups: Cgroups,
    allowance: Allowance,
    /// By the path of the cgroup.
    metered: Mutex<HashMap<String, Arc<Metered>>>,
    /// Whoever reads holds a permit.
    pub(crate) readings: Arc<Semaphore>,
}

/// One cgroup's meter and rate.
#[derive(Debug)]
pub(crate) struct Metered {
    meter: Meter,
    rate: Mutex<Rate>,
}

impl Meters {
    pub(crate) fn new(cgroups: Cgroups) -> Self {
        Self {
            cgroups,
            allowance: Allowance::of_process(),
            metered: Mutex::default(),
            readings: Arc::new(Semaphore::new(READINGS)),
        }
    }

    /// Reads a cgroup once and keeps nothing of it; `None` for what is no such path. Blocks.
    pub(crate) fn read_once(&self, cgroup: &str) -> Option<(Usage, Detail)> {
        let cgroup = self.cgroups.open(&CgroupPath::new(cgroup).ok()?);
        let meter = Meter::new(cgroup, Allowance::new(0));
        Some((meter.usage(), meter.detail()))
    }

    /// The meter of a cgroup, by its path in the hierarchy; `None` for what is no such path.
    pub(crate) fn of(&self, cgroup: &str) -> Option<Arc<Metered>> {
        if let Some(known) = self.metered().get(cgroup) {
            return Some(known.clone());
        }
        let cgroup_handle = self.cgroups.open(&CgroupPath::new(cgroup).ok()?);
        let meter = Meter::new(cgroup_handle, self.allowance.clone());
        let made = Arc::new(Metered { meter, rate: Mutex::default() });
        Some(self.metered().entry(cgroup.to_owned()).or_insert(made).clone())
    }

    /// Lets go of what a pod's new view says has ended.
    pub(crate) fn forget_ended(&self, view: &PodView) {
        let ended = view.containers.values().filter(|one| matches!(one.state, ContainerState::Exited(_)));
        let mut metered = self.metered();
        for container in ended {
            metered.remove(&container.cgroup);
        }
    }

    /// Lets go of a pod that is gone from `snapshot`. Its cgroup may be the kubelet's, which another attempt shares.
    pub(crate) fn forget_pod(&self, view: &PodView, snapshot: &Snapshot) {
        let is_shared = snapshot.pods.values().any(|other| other.cgroup == view.cgroup);
        let mut metered = self.metered();
        if !is_shared {
            metered.remove(&view.cgroup);
        }
        for container in view.containers.values() {
            metered.remove(&container.cgroup);
        }
    }

    /// Lets go of whatever is not there any more.
    pub(crate) fn keep_only(&self, snapshot: &Snapshot) {
        let pods = snapshot.pods.values().map(|pod| pod.cgroup.as_str());
        let running = snapshot.containers().filter(|one| !matches!(one.state, ContainerState::Exited(_)));
        let live: BTreeSet<&str> = pods.chain(running.map(|container| container.cgroup.as_str())).collect();
        self.metered().retain(|cgroup, _| live.contains(cgroup.as_str()));
    }

    fn metered(&self) -> MutexGuard<'_, HashMap<String, Arc<Metered>>> {
        self.metered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metered {
    /// What has been used, and how many billionths of a core lately, once there are two samples. Blocks.
    pub(crate) fn usage(&self) -> (Usage, Option<u64>) {
        let usage = self.meter.usage();
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let nano_cores = usage.cpu_ns.and_then(|cpu_ns| rate.update(cpu_ns, Instant::now()));
        (usage, nano_cores)
    }

    /// See [`Meter::detail`]. Blocks.
    pub(crate) fn detail(&self) -> Detail {
        self.meter.detail()
    }

    /// See [`Meter::cpu_ns`]. Blocks.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        self.meter.cpu_ns()
    }
}

/// CPU time to cores in use. Several clients may ask in quick succession: all of them get the rate of a whole window.
#[derive(Debug, Default)]
struct Rate {
    /// Where the next window begins.
    begun: Option<(u64, Instant)>,
    nano_cores: Option<u64>,
}

impl Rate {
    fn update(&mut self, cpu_ns: u64, now: Instant) -> Option<u64> {
        let Some((begun_ns, begun)) = self.begun else {
            self.begun = Some((cpu_ns, now));
            return None;
        };
        let window = now.saturating_duration_since(begun);
        let used_ns = cpu_ns.checked_sub(begun_ns);
        let Some(used_ns) = used_ns.filter(|_| window <= LONGEST_WINDOW) else {
            (self.begun, self.nano_cores) = (Some((cpu_ns, now)), None);
            return None;
        };
        let nano_cores = (used_ns as f64 / window.as_secs_f64()) as u64;
        if window >= SHORTEST_WINDOW {
            (self.begun, self.nano_cores) = (Some((cpu_ns, now)), Some(nano_cores));
        }
        self.nano_cores.or(Some(nano_cores).filter(|_| window >= FIRST_WINDOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples as (milliseconds since the start, milliseconds of CPU time, expected thousandths of a core).
    fn check(samples: &[(u64, u64, Option<u64>)]) {
        let start = Instant::now();
        let mut rate = Rate::default();
        for (at_ms, cpu_ms, want) in samples {
            let got = rate.update(cpu_ms * 1_000_000, start + Duration::from_millis(*at_ms));
            // A billionth may be lost on the way.
            assert_eq!(got.map(|nano_cores| (nano_cores + 1) / 1_000_000), *want, "at {at_ms} ms");
        }
    }

    #[test]
    fn a_rate_takes_two_samples_and_a_window() {
        check(&[(0, 0, None), (10_000, 5_000, Some(500)), (20_000, 25_000, Some(2000))]);
        check(&[(0, 0, None), (10, 10, None), (200, 100, Some(500)), (1000, 250, Some(250))]);
        // Asked again at once, it is still the rate of the last window.
        check(&[(0, 0, None), (10_000, 5_000, Some(500)), (10_001, 5_001, Some(500))]);
    }

    #[test]
    fn what_is_too_old_or_went_back_begins_anew() {
        check(&[(0, 0, None), (121_000, 121_000, None), (122_000, 121_500, Some(500))]);
        check(&[(0, 5_000, None), (10_000, 1_000, None), (11_000, 2_000, Some(1000))]);
    }
}
