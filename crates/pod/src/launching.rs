//! The launch of a container, which can come upon a filesystem that does not answer.
//!
//! Opening a volume may take as long as whoever serves its files likes, and for ever where he hangs. The monitor's child
//! waits then, and nobody else; no thread of the agent's touches a volume. A launch that takes long is looked at, and
//! given up if that is why, so that the client hears of it before its own patience ends. What is merely slow, such as a
//! disk, gets the whole time of a step.

use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use berth_cgroup::Cgroup;
use berth_container::spec::{ContainerSpec, VolumeSource, VolumeSpec};
use berth_monitor::protocol::{Answer, Order};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::host::blocking;
use crate::link::Link;
use crate::waiting::{Look, served_by_others, waiting};

/// How long a launch may take before anybody asks why: it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// After how long one that takes longer is looked at again. Who waited for another that was given up goes on for a moment,
/// and seems well, before he waits by himself.
const AGAIN: Duration = Duration::from_secs(1);

/// Has the monitor make a container up to its gate, from the plan among `fds`; `cgroup` is the container's.
pub(crate) async fn launch(
    link: &Link,
    fds: &[BorrowedFd<'_>],
    cgroup: Cgroup,
    spec: &ContainerSpec,
) -> Result<Answer> {
    let mut launched = pin!(link.ask(Order::Launch, fds));
    let hosts = |volume: &VolumeSpec| match &volume.source {
        VolumeSource::Host { host_path } => Some(host_path.clone()),
        VolumeSource::Image(_) => None,
    };
    let paths: Vec<_> = spec.mounts.iter().filter_map(hosts).collect();
    let look = Arc::new(move || {
        let pids = cgroup.procs().unwrap_or_default();
        let volumes = served_by_others(paths.iter().map(AsRef::as_ref));
        // Who wants the same name as somebody who waits for the server waits for that one, in a place that says nothing.
        let is_stuck = |look: &Look| look.waits_for_others() || !volumes.is_empty();
        let stuck = waiting(&pids).into_iter().find(is_stuck)?;
        Some(Error::StuckLaunch { pid: stuck.pid, place: stuck.place, limit: PATIENCE, volumes })
    });
    let mut patience = PATIENCE;
    loop {
        if let Ok(answer) = timeout(patience, &mut launched).await {
            return answer;
        }
        let look = look.clone();
        if let Some(stuck) = blocking(move || look()).await? {
            return Err(stuck);
        }
        patience = AGAIN;
    }
}
